"""JSON lines: a line a picture, with its detections by name; a file a shard."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from glip_export.bundle.files import atomic_text
from glip_export.labelling.formats.conversion import Conversion, as_json
from glip_export.labelling.formats.folder import made_folder
from glip_export.labelling.shards import Labelled, shard_files

FOLDER = "jsonl"


def write_jsonl(conversion: Conversion) -> list[Path]:
    """Writes jsonl/labels-000000.jsonl and so on, or train-000000.jsonl and val-000000.jsonl; returns them.

    A picture with an error has a line too, with `error` set and no detections: without it, it would seem empty.
    """
    folder = conversion.output / FOLDER
    written = []
    with made_folder(folder, FOLDER) as temporary:
        for shard in shard_files(conversion.output):
            names = {split: f"{split or 'labels'}-{shard.stem}.jsonl" for split in conversion.splits}
            with ExitStack() as stack:
                writes = {split: stack.enter_context(atomic_text(temporary / name)) for split, name in names.items()}
                for labelled in conversion.shard(shard):
                    line = json.dumps(_entry(labelled, conversion.names), ensure_ascii=False)
                    writes[conversion.split(labelled.source)](line + "\n")
            written += [folder / name for name in names.values()]
    return written


def _entry(labelled: Labelled, names: tuple[str, ...]) -> dict[str, Any]:
    answer = labelled.answer
    return {
        "source": labelled.source,
        "width": answer.width,
        "height": answer.height,
        "detections": [
            {
                "name": names[label],
                "label": label,
                "score": round(score, 6),
                "box": [round(side, 3) for side in box],
            }
            for label, score, box in zip(
                answer.labels.tolist(), answer.scores.tolist(), answer.boxes.tolist(), strict=True
            )
        ],
        "carried": as_json(labelled.carried),
        "error": answer.error or None,
    }
