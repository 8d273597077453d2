"""The stub worker as an opening that names a bundle, and things to go wrong on a cluster."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stub_worker import Stub, StubWorker, blocks, items

from glip_export.bundle import Bundle
from glip_export.errors import GlipExportError, GlipExportWarning
from glip_export.labelling.items import Block


@dataclass(frozen=True)
class ClusterStub:
    """notes: a folder where each process that opens notes the bundle's folder, in a file of its pid."""

    bundle: str
    backend: str = "stub"
    stub: Stub = field(default_factory=Stub)
    notes: Path | None = None

    def __call__(self) -> StubWorker:
        """Opens the bundle, and no detector."""
        Bundle.open(self.bundle)
        warnings.warn("opened with care", GlipExportWarning, stacklevel=2)
        if self.notes is not None:
            (self.notes / str(os.getpid())).write_text(self.bundle)
        return self.stub()


def source(count: int, size: int, fails: bool = False) -> Iterator[Block]:
    """Blocks of `size`, and the end that a plan gives."""
    yield from blocks(items(count), size)
    if fails:
        raise GlipExportError("the source's disk is gone")
    yield Block(count, ())
