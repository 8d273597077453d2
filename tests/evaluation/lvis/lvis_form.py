"""A COCO annotation file written out in LVIS's form."""

from __future__ import annotations

import json
from pathlib import Path


def as_lvis(coco: Path, target: Path) -> Path:
    """Writes it, and returns `target`.

    Every third category that a picture has not is known to be absent, the others are not annotated; in every fourth
    picture its first object's category is not annotated everywhere. Categories are rare, common, frequent in turn.
    """
    content = json.loads(coco.read_text())
    kinds: dict[int, list[int]] = {}
    for entry in content["annotations"]:
        kinds.setdefault(entry["image_id"], []).append(entry["category_id"])
    for number, image in enumerate(content["images"]):
        own = kinds.get(image["id"], [])
        others = [each["id"] for each in content["categories"] if each["id"] not in own]
        image["coco_url"] = f"http://images.example/val2017/{image.pop('file_name')}"
        image["neg_category_ids"] = others[number % 3 :: 3]
        image["not_exhaustive_category_ids"] = own[:1] if number % 4 == 3 else []
    for place, category in enumerate(content["categories"]):
        category["frequency"] = "rcf"[place % 3]
    target.write_text(json.dumps(content))
    return target
