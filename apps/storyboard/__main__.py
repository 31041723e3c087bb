"""Write the payload of the story from the checkpoints at hand: `python -m storyboard` in apps/."""

import json

from storyboard.payload import FILE, build

FILE.write_text(json.dumps(build(), separators=(",", ":")) + "\n", "utf-8")
