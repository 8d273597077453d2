"""Composes the demo's picture as the held-out scenes are composed: picture.jpg, and picture.json with its objects.

python demo/compose_picture.py 715
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from glip_export.bundle.files import atomic_write_text
from glip_export.results.pictures import write_picture
from glip_export.training.scenes import compose, training_cast

HERE = Path(__file__).parent
PROMPTS = ["cat. bicycle. apple. rocket", "cat. apple. owl", "yellow cat. white bicycle"]


def main(seed: int, folder: Path = HERE) -> None:
    """Writes both files; the same for the same seed."""
    rng = np.random.default_rng((100, seed))  # no set of scenes has 100 for its seed
    scene = compose(rng, training_cast(rng))
    objects = []
    for item in scene.objects:
        x, y, width, height = item.box
        names = [item.kind, f"{item.colour} {item.kind}"] if item.colour else [item.kind]
        objects.append({"names": names, "box": [x, y, x + width, y + height]})
    write_picture(folder / "picture.jpg", scene.picture, "JPEG", quality=92)
    document = {"seed": seed, "icons": "OpenMoji, CC BY-SA 4.0", "prompts": PROMPTS, "objects": objects}
    atomic_write_text(folder / "picture.json", json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
