"""errors.jsonl: the pictures that could not be labelled, and why."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

from glip_export.bundle.files import atomic_text, remove_link
from glip_export.errors import GlipExportError
from glip_export.labelling.shards import read_errors

FILE = "errors.jsonl"


def write_errors(output: Path) -> Path | None:
    """Writes {"source", "error"} a line for each picture with an error; without one there is no file, and None.

    Raises GlipExportError where a file of that name is there that is none of these.
    """
    target = output / FILE
    _check_ours(target)
    failed = ((each.source, each.answer.error) for each in read_errors(output))
    first = next(failed, None)
    if first is None:
        target.unlink(missing_ok=True)
        return None
    remove_link(target)
    with atomic_text(target) as write:
        for source, error in chain([first], failed):
            write(json.dumps({"source": source, "error": error}, ensure_ascii=False) + "\n")
    return target


def _check_ours(target: Path) -> None:
    if not target.exists():
        return
    try:
        with target.open(encoding="utf-8") as file:
            ours = json.loads(file.readline(1 << 20)).keys() == {"source", "error"}
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise GlipExportError(f"{target} was not made by `glip-export label`, so it is not replaced: move it elsewhere")
