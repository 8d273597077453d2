"""What is to be labelled and what became of it: pictures by reference, in blocks that go to workers and come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Where:
    """Where a picture's bytes are: a file, a part of one, or a value in a Parquet file.

    path: on this file system, or with a scheme (s3://bucket/key). Of a tar shard's member offset and size say which
    bytes; of a Parquet file column and row (counted over the whole file) say which value.
    """

    path: str
    offset: int | None = None
    size: int | None = None
    column: str | None = None
    row: int | None = None


@dataclass(frozen=True)
class Item:
    """One picture of a source, not opened yet.

    source: what all outputs call it, unique in the source and the same whenever the source is read again. carried: the
    values of the source's other columns, as its `carried` schema has them. problem: why it cannot be read, where that
    is known without opening it (a folder that cannot be listed).
    """

    source: str
    where: Where
    carried: tuple[Any, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Block:
    """Items that a worker takes at once, all of one shard.

    first: the place of the first one in the whole source, from 0. in_shard: how many pictures their shard has. The last
    block of a source has no items: its `first` is how many pictures there are.
    """

    first: int
    items: tuple[Item, ...]
    in_shard: int = 0


@dataclass(frozen=True, eq=False)
class Answer:
    """What became of a picture: N detections by falling score, or the error that it alone has.

    labels (N,) int32 into the prompt's names; scores (N,) float32; boxes (N, 4) float32 xyxy in the picture's own
    pixels (upright by EXIF). height, width: pixels, 0 where it could not be read.
    """

    height: int
    width: int
    labels: NDArray[np.int32]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    error: str = ""

    @classmethod
    def failed(cls, error: str) -> Answer:
        """Of a picture without detections, and why."""
        return cls(0, 0, np.empty(0, np.int32), np.empty(0, np.float32), np.empty((0, 4), np.float32), error)


@dataclass(frozen=True, eq=False)
class BlockAnswer:
    """A block's answers, one an item in their order. seconds: that the worker took; hints: its warnings."""

    first: int
    answers: tuple[Answer, ...]
    seconds: float = 0.0
    hints: tuple[str, ...] = ()
