"""A stand-in for a vision endpoint, to try the steps with where there is no large model.

    PYTHONPATH=tests/data_prep python -m tiny_vlm DIR

Makes the tiny Qwen2.5-VL in DIR, teaches it one sentence for every clip, prints the command that asks it, and serves
it until it is interrupted.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from data_prep.questions import question
from tiny_vlm import make_model, serve
from wan_alpha.rendering import COLOUR_NAMES

SENTENCE = "A small glossy figure moves gently and comes to rest."

folder = Path(sys.argv[1]).resolve()
prompts = [question("short_en", 6, colour, "", ()).prompt for colour in COLOUR_NAMES]
model = folder / "model"
if not model.exists():
    make_model(model, dict.fromkeys(prompts, SENTENCE), True)
with serve(folder) as url:
    print(f"python -m data_prep.caption root=DIR endpoint={url} model={model} fields=short_en hint=false", flush=True)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        print("ended")
