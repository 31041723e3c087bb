"""Write the payload of the story from the checkpoints at hand: `PYTHONPATH=apps python -m storyboard`."""

import json

from storyboard.payload import FILE, build

FILE.write_text(json.dumps(build(), separators=(",", ":")) + "\n", "utf-8")
