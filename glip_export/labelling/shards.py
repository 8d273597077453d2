"""Shards: what is known of a run's pictures, in Parquet files written whole, each with the sources it answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glip_export.bundle.files import atomic_path, remove_link
from glip_export.errors import GlipExportError
from glip_export.labelling.items import Answer, Item, Where

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

FOLDER = "shards"  # in the output folder
ROWS_AT_ONCE, PATHS_AT_ONCE = 256, 4096
NAMES = "names"  # a column that data sets made of shards have beside them
META = b"glip_export"  # in a shard's schema: JSON with its sources' digest


@dataclass(frozen=True, eq=False)
class Labelled:
    """A picture of a shard and what became of it. carried: the source's other columns by their names."""

    source: str
    where: Where
    answer: Answer
    carried: Mapping[str, Any]


def shard_file(folder: Path, number: int) -> Path:
    """Where the shard of that number, from 0, is in an output folder."""
    return folder / FOLDER / f"{number:06d}.parquet"


def shard_files(folder: Path) -> list[Path]:
    """All shards of an output folder, in the source's order."""
    numbers = (int(file.stem) for file in (folder / FOLDER).glob("*.parquet") if file.stem.isdecimal())
    return [file for number in sorted(set(numbers)) if (file := shard_file(folder, number)).exists()]


def digest(items: Sequence[Item], carried: pyarrow.Schema | None = None) -> str:
    """What tells the pictures of a shard from all others: SHA-256 over names, places and carried columns.

    Not over what is in the pictures, which would have to be read.
    """
    sha = hashlib.sha256("".join(f"{field}\n" for field in carried or ()).encode())
    for item in items:
        sha.update(json.dumps([item.source, *vars(item.where).values(), *item.carried], default=repr).encode())
    return sha.hexdigest()


def write_shard(
    target: Path, items: Sequence[Item], answers: Sequence[Answer], carried: pyarrow.Schema | None = None
) -> None:
    """Writes a shard, whole or not at all: a row a picture, in the items' order.

    carried: the schema of the items' other columns, none of a name that shards or data sets have (COLUMNS, NAMES).
    Raises GlipExportError where it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table(
        {
            "source": pa.array([item.source for item in items], pa.string()),
            "where": pa.array([vars(item.where) for item in items], _where_type()),
            "height": pa.array([answer.height for answer in answers], pa.int32()),
            "width": pa.array([answer.width for answer in answers], pa.int32()),
            "labels": _lists([answer.labels for answer in answers], pa.int32()),
            "scores": _lists([answer.scores for answer in answers], pa.float32()),
            "boxes": _lists([answer.boxes for answer in answers], pa.list_(pa.float32(), 4)),
            "error": pa.array([answer.error or None for answer in answers], pa.string()),
        }
    )
    for place, field in enumerate(carried or ()):
        table = table.append_column(field, pa.array([item.carried[place] for item in items], field.type))
    errors = sum(1 for answer in answers if answer.error)
    about = {"sources": digest(items, carried), "pictures": len(items), "errors": errors}
    table = table.replace_schema_metadata({META: json.dumps(about)})
    remove_link(target)
    with atomic_path(target) as temporary:
        pa.parquet.write_table(table, temporary, compression="zstd")


@dataclass(frozen=True)
class Footer:
    """What a shard's end says of it. sources: see `digest`; errors: pictures with one."""

    sources: str
    pictures: int
    errors: int


def read_footer(path: Path) -> Footer | None:
    """The end of a shard, all that is read; None for what is no whole shard."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        metadata = pa.parquet.read_metadata(path).metadata or {}
        return Footer(**json.loads(metadata[META]))
    except (OSError, pa.ArrowInvalid, KeyError, ValueError, TypeError):
        return None


def read_shards(folder: Path) -> Iterator[Labelled]:
    """All pictures of an output folder in the source's order, in the memory of some hundred rows.

    Raises GlipExportError for a shard that cannot be read.
    """
    for path in shard_files(folder):
        yield from read_shard(path)


def read_errors(folder: Path) -> Iterator[Labelled]:
    """Those of `read_shards` that have an error; shards whose end says that they have none are not read."""
    for path in shard_files(folder):
        footer = read_footer(path)
        if footer is None or footer.errors:
            yield from (row for row in read_shard(path) if row.answer.error)


def read_shard(path: Path) -> Iterator[Labelled]:
    """The pictures of one shard."""
    with _opened(path) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            yield from map(_labelled, batch.to_pylist())


def read_paths(path: Path) -> Iterator[str]:
    """Where the pictures of one shard are; of those in a row in one file that file once."""
    last = None
    with _opened(path) as file:
        for batch in file.iter_batches(PATHS_AT_ONCE, columns=["where.path"]):
            for one in batch.column(0).flatten()[0].to_pylist():
                if one != last:
                    yield one
                last = one


@contextmanager
def _opened(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pa.parquet.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException, KeyError, IndexError, TypeError, ValueError) as error:
        raise GlipExportError(f"the shard {path} cannot be read ({error}): remove it, and label again") from error


COLUMNS = ("source", "where", "height", "width", "labels", "scores", "boxes", "error")  # all others are carried


def _labelled(row: dict[str, Any]) -> Labelled:
    answer = Answer(
        height=row["height"],
        width=row["width"],
        labels=np.array(row["labels"], np.int32),
        scores=np.array(row["scores"], np.float32),
        boxes=np.array(row["boxes"], np.float32).reshape(-1, 4),
        error=row["error"] or "",
    )
    carried = {name: value for name, value in row.items() if name not in COLUMNS}
    return Labelled(row["source"], Where(**row["where"]), answer, carried)


def _where_type() -> pyarrow.DataType:
    import pyarrow as pa

    return pa.struct(
        [
            ("path", pa.string()),
            ("offset", pa.int64()),
            ("size", pa.int64()),
            ("column", pa.string()),
            ("row", pa.int64()),
        ]
    )


def _lists(values: Sequence[np.ndarray[Any, Any]], item: pyarrow.DataType) -> pyarrow.Array:
    """Arrays of different lengths as a column of lists; one of boxes has lists of four."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)
    flat = np.concatenate(values) if values else np.empty(0)
    inner = pa.array(flat.reshape(-1), item.value_type if pa.types.is_fixed_size_list(item) else item)
    if pa.types.is_fixed_size_list(item):
        inner = pa.FixedSizeListArray.from_arrays(inner, type=item)
    return pa.ListArray.from_arrays(pa.array(offsets), inner)
