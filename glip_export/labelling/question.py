"""What a run's answers are answers to: kept in its folder, so that those to others are never mixed with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glip_export.bundle.files import atomic_write_text, remove_link
from glip_export.errors import GlipExportError, brief
from glip_export.labelling.places import check_pyarrow
from glip_export.labelling.shards import FOLDER, shard_files

FILE = "run.json"
LOCK = ".run.lock"
OURS = (FOLDER, "summary.json", "errors.jsonl")  # what a run makes beside FILE, whatever its formats
FLOOR = "floor"  # of a question: scores below it are not kept, so that one with a higher floor is answered too
ASIDE = ("glip_export", "bundle")  # of a question: told, and not compared
MOST_SHOWN = 60  # characters


@contextmanager
def open_question(folder: Path, question: Mapping[str, Any]) -> Iterator[None]:
    """Holds the folder for a run that asks `question` (JSON values, with FLOOR), and keeps the question there.

    Raises GlipExportError where it holds the answers to another one, something else, or where another process has it.
    """
    check_pyarrow()  # which the shards are written with: told before any work
    try:
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise GlipExportError("labelling needs filelock: pip install 'glip-export[label]'") from error
    file = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=0):
            known = read_question(folder)
            if known is None and (others := [name for name in OURS if (folder / name).exists()]):
                words = f"{folder / others[0]} is of no run, since {file} is missing"
                raise GlipExportError(f"{words}: name another folder, or move it elsewhere")
            if not shard_files(folder):  # nothing is answered yet: perhaps a mistake was mended
                remove_link(file)
                atomic_write_text(file, json.dumps(dict(question), indent=1) + "\n")
            elif known is not None:
                _check_same(folder, known, question)
            yield
    except Timeout as error:
        raise GlipExportError(f"another process labels into {folder}: wait for it, or name another folder") from error
    except OSError as error:
        if error.filename is not None and not Path(str(error.filename)).is_relative_to(folder):
            raise
        raise GlipExportError(f"cannot write {folder}: {error.strerror or error}") from error


def read_question(folder: Path) -> dict[str, Any] | None:
    """The question of the run in a folder; None where there is none. Raises GlipExportError for a damaged file."""
    file = folder / FILE
    try:
        known = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise GlipExportError(
            f"{file}, which says what {folder} holds, cannot be read ({error}): name another folder"
        ) from error
    if not isinstance(known, dict) or FLOOR not in known:
        raise GlipExportError(f"{file} is no labelling run's: name another folder")
    return known


def _check_same(folder: Path, known: Mapping[str, Any], question: Mapping[str, Any]) -> None:
    asked = json.loads(json.dumps(dict(question)))
    for key in dict.fromkeys((*asked, *known)):
        if key in ASIDE:
            continue
        before, now = known.get(key), asked.get(key)
        if before == now or (key == FLOOR and isinstance(before, (int, float)) and before <= now):
            continue
        words = f"{key} was {_short(before)} and is {_short(now)} now"
        if key == FLOOR:
            words = f"scores below {_short(before)} were not kept, and thresholds go down to {_short(now)} now"
        raise GlipExportError(
            f"{folder} holds the answers to another question ({words}): name another --output, or remove it"
        )


def _short(value: object) -> str:
    text = brief(value)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."
