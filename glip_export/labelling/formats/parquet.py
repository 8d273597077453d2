"""Parquet: the shards themselves, without the detections that score too little, and with each one's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glip_export.errors import GlipExportError
from glip_export.labelling.formats.conversion import Conversion
from glip_export.labelling.formats.folder import made_folder
from glip_export.labelling.shards import META, NAMES, shard_files

if TYPE_CHECKING:
    import pyarrow

FOLDER = "parquet"


def write_parquet(conversion: Conversion) -> list[Path]:
    """Writes parquet/part-000000.parquet and so on, or parquet/train/... and parquet/val/...; returns the folder.

    A row a picture, those with an error too. Beside the shards' columns: `names`, of each detection, as `labels`. The
    schema's metadata holds {"names", "thresholds"} by label as JSON, under "glip_export". Raises GlipExportError for a
    shard that cannot be read.
    """
    folder = conversion.output / FOLDER
    with made_folder(folder, FOLDER) as temporary:
        for split in conversion.splits:
            (temporary / split).mkdir(exist_ok=True)
        for shard in shard_files(conversion.output):
            _write_part(shard, temporary, conversion)
    return [folder]


def _write_part(shard: Path, folder: Path, conversion: Conversion) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        # As files: the folder of a split is no partition whose column would be added.
        with pa.parquet.ParquetFile(shard) as file:
            table = _kept(file.read().combine_chunks(), conversion)
        sources = table["source"].to_pylist()
    except (OSError, pa.ArrowException, KeyError, IndexError) as error:
        raise GlipExportError(f"the shard {shard} cannot be read ({error}): remove it, and label again") from error
    about = {"names": conversion.names, "thresholds": conversion.thresholds.values, **conversion.about}
    table = table.replace_schema_metadata({META: json.dumps(about)})
    splits = [conversion.split(source) for source in sources]
    for split in conversion.splits:
        mask = pa.array([each == split for each in splits], pa.bool_())
        pa.parquet.write_table(table.filter(mask), folder / split / f"part-{shard.stem}.parquet", compression="zstd")


def _kept(table: pyarrow.Table, conversion: Conversion) -> pyarrow.Table:
    """The rows with the detections that reach their thresholds, and these ones' names."""
    import pyarrow as pa

    labels, scores, boxes = (table[name].combine_chunks() for name in ("labels", "scores", "boxes"))
    flat = labels.flatten().to_numpy()
    keep = scores.flatten().to_numpy() >= conversion.thresholds.of(flat)
    before = labels.offsets.to_numpy() - labels.offsets[0].as_py()
    offsets = pa.array(np.concatenate([[0], np.cumsum(keep)])[before].astype(np.int32))
    mask = pa.array(keep)
    for name, lists in (("labels", labels), ("scores", scores), ("boxes", boxes)):
        place = table.schema.get_field_index(name)
        column = pa.ListArray.from_arrays(offsets, lists.flatten().filter(mask))
        table = table.set_column(place, table.schema.field(name).with_type(column.type), column)
    named = pa.array(np.array(conversion.names, object)[flat[keep]], pa.string())
    place = table.schema.get_field_index("labels") + 1
    return table.add_column(place, NAMES, pa.ListArray.from_arrays(offsets, named))
