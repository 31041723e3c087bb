"""The command `ar-interp`, also as `python -m ar_interp`."""

import os
import sys

from ar_interp._signals import exit_at_signals


def main() -> int:
    """Run the command; a signal ends it in one line from here on, also while it imports what it needs."""
    exit_at_signals()
    _open_streams()
    from ar_interp.cli import main as run

    return run()


def _open_streams() -> None:
    """Let streams that were closed lead nowhere; the next file to be opened would get what libraries print there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = (
        stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        for stream in (sys.stdout, sys.stderr)
    )


if __name__ == "__main__":
    sys.exit(main())
