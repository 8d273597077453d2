"""Formats by their names, and a run's shards made into one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from glip_export.errors import GlipExportError
from glip_export.labelling.formats.coco import write_coco
from glip_export.labelling.formats.conversion import Conversion
from glip_export.labelling.formats.errors_file import write_errors
from glip_export.labelling.formats.jsonl import write_jsonl
from glip_export.labelling.formats.parquet import write_parquet
from glip_export.labelling.formats.yolo import write_yolo

FORMATS: Mapping[str, Callable[[Conversion], list[Path]]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "parquet": write_parquet,
    "jsonl": write_jsonl,
}


def convert(kind: str, conversion: Conversion) -> list[Path]:
    """Makes a data set of a run's shards, in a folder of the format's name, and errors.jsonl; returns what to look at.

    What an earlier conversion to the same format wrote is replaced as a whole. Raises GlipExportError for an unknown
    format, a shard that cannot be read, what cannot be written, and before anything is replaced that is of others or
    was changed by hand.
    """
    if kind not in FORMATS:
        raise GlipExportError(f"the format {kind!r} is none of {', '.join(FORMATS)}")
    errors = write_errors(conversion.output)
    written = FORMATS[kind](conversion)
    return written if errors is None else [*written, errors]
