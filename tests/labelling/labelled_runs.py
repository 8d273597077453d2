"""Small runs for the tests of what is made of shards: pictures, their answers, and the shards of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from glip_export.labelling.formats.conversion import Conversion
from glip_export.labelling.items import Answer, Item, Where
from glip_export.labelling.shards import shard_file, write_shard
from glip_export.labelling.thresholds import Thresholds

NAMES = ("cat", "dog", "remote control")
WIDTH, HEIGHT = 640, 480
CARRIED = pa.schema([("caption", pa.string()), ("input_width", pa.int64()), ("digest", pa.binary())])


def answer(*found: tuple[int, float, Sequence[float]], height: int = HEIGHT, width: int = WIDTH) -> Answer:
    """(label, score, xyxy) of each detection."""
    return Answer(
        height,
        width,
        np.array([each[0] for each in found], np.int32),
        np.array([each[1] for each in found], np.float32),
        np.array([each[2] for each in found], np.float32).reshape(-1, 4),
    )


def random_answer(seed: int, count: int) -> Answer:
    """Boxes inside the picture, by falling score."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * [WIDTH - 1, HEIGHT - 1]
    scores = np.sort(rng.uniform(0.05, 1, count))[::-1]
    labels = rng.integers(0, len(NAMES), count).astype(np.int32)
    return Answer(HEIGHT, WIDTH, labels, scores.astype(np.float32), corners.reshape(-1, 4).astype(np.float32))


def item(source: str, path: Path | None = None, *carried: object) -> Item:
    """A picture at a path, by default one that is nowhere."""
    return Item(source, Where(str(path or f"/nowhere/{source}")), carried)


def write_run(
    output: Path, pictures: Sequence[tuple[Item, Answer]], shard_size: int = 4, carried: pa.Schema | None = None
) -> None:
    """The shards of a run over these pictures."""
    for number, first in enumerate(range(0, len(pictures), shard_size)):
        items, answers = zip(*pictures[first : first + shard_size], strict=True)
        write_shard(shard_file(output, number), items, answers, carried)


def conversion(output: Path, threshold: float = 0.5, val: float = 0.0, **more: object) -> Conversion:
    """Of a run whose names are NAMES."""
    return Conversion(output, NAMES, Thresholds.same(threshold, NAMES), val, **more)  # type: ignore[arg-type]


def files_below(folder: Path) -> list[str]:
    """All files, by their paths in the folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
