"""What the backends are held to: ONNX Runtime on the CPU, each answer computed once a run and kept as a file.

The full-size model's answers take the machine's cores some seconds, so `ReferenceProcess` computes them in a process
of its own while the GPU works on small models. They are not brought along: whether another PyTorch draws the very same
weights from a seed is not certain, and the bundle that they belong to is made on the machine.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from context import Context

from glip_export.graphs.contracts import graphs_of
from glip_export.runtime.session import GraphSession

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.graphs.contracts import GraphSpec


class Reference(GraphSession):
    """The bundle on the CPU. An answer is kept under what was asked; the session is opened for a new question."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.folder = folder
        self.specs = graphs_of(bundle.config)
        self._bundle = bundle
        self._session: Any = None

    def _run(self, spec: GraphSpec, arrays: tuple[np.ndarray, ...]) -> list[Any]:
        digest = hashlib.sha256(self._bundle.files[self._bundle.graphs[spec.name].file].sha256.encode())
        for array in arrays:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array))
        path = self.folder / f"{spec.name}-{digest.hexdigest()[:24]}.npz"
        if not path.is_file():
            self._keep(path, self._compute(spec, arrays))
        with np.load(path) as kept:
            return [kept[name] for name in spec.output_names]

    def _compute(self, spec: GraphSpec, arrays: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        if self._session is None:
            from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession

            self._session = OnnxRuntimeSession(self._bundle, provider="cpu")
        return dict(zip(spec.output_names, self._session._run_batch(spec, arrays), strict=True))

    def _keep(self, path: Path, found: dict[str, np.ndarray]) -> None:
        from glip_export.bundle.files import atomic_path

        with atomic_path(path, lasting=False) as temporary:
            np.savez(temporary, **found)


class ReferenceProcess:
    """Computes one model's answers beside this process; `wait` before asking for them."""

    def __init__(self, context: Context, model: str) -> None:
        words = [sys.executable, str(Path(__file__).resolve()), model, str(context.output), str(context.parcel)]
        words += ["rehearsal"] if context.rehearsal else []
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )

    def wait(self) -> None:
        """Until it is done; raises RuntimeError with its last words if it failed."""
        said, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"the reference failed: {' / '.join(said.strip().splitlines()[-2:])}")


def main(model: str, output: str, parcel: str, *rehearsal: str) -> None:
    """Asks everything of one model that its parts will ask."""
    from step_parity import subject

    from glip_export.parity.run import run

    found = subject(Context(Path(output), bool(rehearsal), parcel=Path(parcel)), model)
    for case in found.cases:
        run(found.reference, case.inputs(found.bundle.config))


if __name__ == "__main__":
    main(*sys.argv[1:])
