"""`python -m ar_interp`: the command `ar-interp`."""

import sys

from ar_interp.cli import main

sys.exit(main())
