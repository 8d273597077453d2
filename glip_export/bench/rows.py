"""The rows of one run: each backend with each bundle, such as the fp32 one and the int8 one made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glip_export.bench.client import BackendProcess
from glip_export.bench.job import Job
from glip_export.bundle.baked_file import is_baked
from glip_export.errors import GlipExportError
from glip_export.runtime.baked import BACKENDS

REFERENCE = "torch"  # runs the checkpoint, which is the first bundle's


@dataclass(frozen=True)
class Row:
    """One line of the tables; `label` is its name there, alone of its kind."""

    label: str
    backend: str
    bundle: str


def rows_of(bundles: Sequence[Path], backends: Sequence[str]) -> tuple[Row, ...]:
    """Every backend with every bundle. The first bundle's rows are called as the backend, others' "openvino, NAME".

    torch and what else runs the checkpoint comes once, with the first. A baked model (.onnx) is among the others, on
    the backends that run one. Raises GlipExportError for a bundle given twice, or a baked model without its bundle.
    """
    if is_baked(bundles[0]):
        raise GlipExportError(f"{bundles[0]} is a baked model: name first the bundle that it is compared with")
    names = [bundle.resolve().name for bundle in bundles]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise GlipExportError(f"two bundles are called {twice}: their rows could not be told apart")
    rows = [Row(backend, backend, str(bundles[0])) for backend in backends]
    for bundle, name in list(zip(bundles, names, strict=True))[1:]:
        others = [backend for backend in backends if backend.partition(":")[0] != REFERENCE]
        if is_baked(bundle):
            others = [backend for backend in others if backend in BACKENDS]
        rows += [Row(f"{backend}, {name}", backend, str(bundle)) for backend in others]
    return tuple(rows)


def opener(rows: Sequence[Row]) -> Callable[[str], RowProcess]:
    """What opens the process of a row, by its label."""
    by_label = {row.label: row for row in rows}
    return lambda label: RowProcess(by_label[label])


class RowProcess(BackendProcess):
    """A worker that runs the bundle and backend of its row, whatever the job's bundle is."""

    def __init__(self, row: Row) -> None:
        super().__init__(row.label)
        self.row = row

    def load(self, job: Job, backend: str) -> dict[str, Any]:
        """See BackendProcess; `backend` is the row's label, by which its measurement goes."""
        return super().load(replace(job, bundle=self.row.bundle), self.row.backend)
