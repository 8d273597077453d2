"""A worker that finds what a picture's place says, and ends its process, raises or waits where it is told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glip_export.errors import BackendError
from glip_export.labelling.items import Answer, Block, BlockAnswer, Item, Where


def items(count: int) -> list[Item]:
    """Pictures that are nowhere."""
    return [Item(f"{place:06d}.jpg", Where(f"/nowhere/{place:06d}.jpg")) for place in range(count)]


def blocks(pictures: Sequence[Item], size: int, shard: int = 1 << 30) -> Iterator[Block]:
    """As a plan cuts them, with no end."""
    for start in range(0, len(pictures), size):
        yield Block(start, tuple(pictures[start : start + size]), min(shard, len(pictures)))


def answer_to(place: int) -> Answer:
    """What the stub says of the picture at a place."""
    count = place % 3
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4) + place
    scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
    return Answer(100, 200, np.arange(count, dtype=np.int32), scores, boxes)


@dataclass(frozen=True)
class Stub:
    """Its opening. kills: places on which it ends by SIGKILL, or leaves where `exits`; notes: a file a call."""

    kills: tuple[int, ...] = ()
    once: tuple[int, ...] = ()  # places on which only the first process ends
    raises: tuple[int, ...] = ()
    fails_to_open: bool = False
    dies_at_opening: bool = False
    seconds: float = 0.0  # a picture
    notes: Path | None = None

    def __call__(self) -> StubWorker:
        if self.fails_to_open:
            raise BackendError("there is no such backend")
        if self.dies_at_opening:
            os.kill(os.getpid(), signal.SIGKILL)
        return StubWorker(self)


@dataclass(frozen=True)
class StubWorker:
    """Answers blocks."""

    stub: Stub

    def fetch(self, block: Block) -> None:
        """Nothing is read."""

    def __call__(self, block: Block) -> BlockAnswer:
        for place in range(block.first, block.first + len(block.items)):
            time.sleep(self.stub.seconds)
            self._act(place)
        places = range(block.first, block.first + len(block.items))
        if self.stub.notes is not None:
            for place in places:
                (self.stub.notes / f"{place}-{os.getpid()}-{time.monotonic_ns()}").touch()
        return BlockAnswer(block.first, tuple(answer_to(place) for place in places))

    def _act(self, place: int) -> None:
        if place in self.stub.raises:
            raise BackendError(f"picture {place} broke the backend")
        if place in self.stub.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if place in self.stub.once and self.stub.notes is not None:
            mark = self.stub.notes / f"ended-{place}"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
