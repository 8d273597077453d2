"""What a worker tells Ray's metrics of the blocks that it answered."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from cluster_stub import ClusterStub, source
from stub_worker import answer_to

from glip_export.labelling.cluster.label import LabelJob
from glip_export.labelling.items import Answer, Block, BlockAnswer

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")


class Kept:
    """In place of a Counter and of a Histogram."""

    values: dict[str, list[float]]

    def __init__(self, name: str, description: str, *more: object) -> None:
        self.name = name

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert tags == {"backend": "stub"}
        self.values.setdefault(self.name, []).append(value)

    observe = inc


class Half:
    """Answers a block's first picture by an error."""

    def __call__(self, block: Block) -> BlockAnswer:
        rest = range(block.first + 1, block.first + len(block.items))
        return BlockAnswer(block.first, (Answer.failed("bad"), *map(answer_to, rest)), seconds=2.0)

    def fetch(self, block: Block) -> None:
        """Nothing is read."""


def test_pictures_errors_boxes_and_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.util.metrics

    monkeypatch.setattr(Kept, "values", {}, raising=False)
    for name in ("Counter", "Histogram"):
        monkeypatch.setattr(ray.util.metrics, name, Kept)
    monkeypatch.setattr(ClusterStub, "__call__", lambda self: Half())
    answering = LabelJob(ClusterStub("/nowhere")).open(Path("/nowhere"))
    for block in source(8, 4):
        assert answering(block)[0] == block
    boxes = [sum(len(answer_to(place).labels) for place in places) for places in ((1, 2, 3), (5, 6, 7))]
    assert Kept.values == {
        "glip_export_pictures": [4, 4],
        "glip_export_errors": [1, 1],
        "glip_export_boxes": boxes,
        "glip_export_picture_seconds": [0.5, 0.5],
    }
