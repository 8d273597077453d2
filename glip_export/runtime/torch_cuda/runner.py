"""One program at work on a stream: memory that the session owns, and CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import Any, Protocol

import numpy as np
import torch

from glip_export.config import GlipConfig
from glip_export.errors import BackendError
from glip_export.graphs.contracts import GraphSpec, fixed_axes, output_shapes
from glip_export.runtime.cuda.arrays import DeviceArray
from glip_export.runtime.cuda.dlpack import make_capsule
from glip_export.runtime.cuda.graphs import Captured, GraphCache
from glip_export.runtime.cuda.pool import Pool
from glip_export.runtime.cuda.profiles import Shape
from glip_export.runtime.cuda.session import Given
from glip_export.runtime.session import one_line
from glip_export.runtime.torch_cuda.program import Plan, Program

Work = Callable[[], None]


class Streams(Protocol):
    """How PyTorch's calls are put on a stream, and captured from it."""

    def run(self, work: Work, stream: int) -> None:
        """The calls that `work` makes are put on the stream."""
        ...

    def capture(self, work: Work, stream: int) -> Captured:
        """The graph of the calls, which has not run yet. Raises BackendError where they cannot be captured."""
        ...


class CudaStreams:
    """PyTorch's own way, in its own memory: all graphs of one object share it, as they run one after another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory = torch.cuda.graph_pool_handle()

    def run(self, work: Work, stream: int) -> None:
        """See `Streams`."""
        with self._on(stream):
            work()

    def capture(self, work: Work, stream: int) -> Captured:
        """See `Streams`; what other threads do meanwhile is neither captured nor forbidden."""
        graph = torch.cuda.CUDAGraph()
        try:
            # Not in a caller's inference mode: PyTorch keeps what its first capture makes for later ones.
            with self._on(stream), _no_collection(), torch.inference_mode(False):
                graph.capture_begin(pool=self._memory, capture_error_mode="thread_local")
                try:
                    work()
                finally:
                    graph.capture_end()
        except Exception as error:  # of the work, or of ending a capture that the work spoilt
            cause = error.__context__ if isinstance(error.__context__, Exception) else error
            raise BackendError(f"{type(cause).__name__}: {one_line(cause)}") from error

        def launch() -> None:
            with self._on(stream):
                graph.replay()

        def free(held: Work = work) -> None:  # the constants that the graph reads live as long as the graph
            torch.cuda.ExternalStream(stream, device=self._device).synchronize()
            graph.reset()

        return Captured(launch, free)

    @contextmanager
    def _on(self, stream: int) -> Iterator[None]:
        with torch.cuda.stream(torch.cuda.ExternalStream(stream, device=self._device)):
            yield


class TorchRunner:
    """One graph of a bundle in PyTorch; see `DeviceSession` for what a runner does."""

    def __init__(
        self, program: Program, spec: GraphSpec, config: GlipConfig, pool: Pool, graphs: int, streams: Streams
    ) -> None:
        self.graphs = GraphCache(graphs)
        self._program = program
        self._spec = spec
        self._fixed = fixed_axes(config)
        self._pool = pool
        self._streams = streams

    def run(self, given: Given, stream: int) -> dict[str, DeviceArray]:
        """Puts one run on the stream; given: each input's address and shape. Its outputs, by name.

        Raises BackendError for shapes that the graph does not take, or if PyTorch refuses to run.
        """
        outputs = self._new_outputs(given, stream)

        def plain() -> None:
            self._put(self._work(given, outputs)[1], stream)

        def capture() -> tuple[Captured | None, str]:
            return self._capture(*self._work(given, outputs), stream)

        # Of one thread: cuBLAS and cuDNN make their handles at a thread's first run, which no capture may be.
        self.graphs.run((get_ident(), *given.values(), *(a.pointer for a in outputs.values()), stream), plain, capture)
        return outputs

    def _work(self, given: Given, outputs: Mapping[str, DeviceArray]) -> tuple[Plan, Work]:
        """What a run that is no graph yet puts on the stream, and the calls that it makes."""
        inputs = {t.name: self._tensor(*given[t.name], np.dtype(t.dtype)) for t in self._spec.inputs}
        targets = {name: self._tensor(array.pointer, array.shape, array.dtype) for name, array in outputs.items()}
        plan = self._program.plan(tuple(given[name][1] for name in self._program.inputs))

        def work() -> None:
            with torch.inference_mode(), exact_products():
                for name, result in zip(self._program.outputs, plan.run(inputs), strict=True):
                    targets[name].copy_(result)

        return plan, work

    def _put(self, work: Work, stream: int) -> None:
        try:
            self._streams.run(work, stream)
        except RuntimeError as error:
            raise BackendError(f"PyTorch failed in {self._spec.name}: {one_line(error)}") from error

    def _capture(self, plan: Plan, work: Work, stream: int) -> tuple[Captured | None, str]:
        if not plan.traced:  # its first run was so long ago that the calls were forgotten
            self._put(work, stream)
            return None, ""
        try:
            captured = self._streams.capture(work, stream)
        except BackendError as error:
            self._put(work, stream)
            return None, str(error)
        captured.launch()
        return captured, ""

    def _new_outputs(self, given: Given, stream: int) -> dict[str, DeviceArray]:
        try:
            shapes = output_shapes(self._spec, {name: shape for name, (_, shape) in given.items()}, self._fixed)
        except ValueError as error:
            raise BackendError(str(error)) from error

        return {t.name: DeviceArray(self._pool, shapes[t.name], t.dtype, stream) for t in self._spec.outputs}

    def _tensor(self, pointer: int, shape: Shape, dtype: np.dtype) -> torch.Tensor:
        """Memory on the session's stream as a tensor; nothing is copied, waited for or kept."""
        device = self._pool.driver.dlpack_device
        return torch.from_dlpack(make_capsule(None, pointer, shape, dtype, device))


@contextmanager
def exact_products() -> Iterator[None]:
    """Inside, products of float32 are of float32, and sums of half precision are in float32, whatever a program set.

    PyTorch's switches are the process's: of several threads the last to leave puts them back.
    """
    with _switches.lock:
        if not _switches.inside:
            _switches.before = [(where, name, getattr(where, name)) for where, name, _ in _exact()]
            for where, name, value in _exact():
                setattr(where, name, value)
        _switches.inside += 1
    try:
        yield
    finally:
        with _switches.lock:
            _switches.inside -= 1
            if not _switches.inside:
                for where, name, value in _switches.before:
                    setattr(where, name, value)


class _Switches:
    """How many are inside, and what was set before the first."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.inside = 0
        self.before: list[tuple[Any, str, Any]] = []


_switches = _Switches()


def _exact() -> tuple[tuple[Any, str, Any], ...]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return (
        (matmul, "fp32_precision", "ieee"),
        (cudnn.conv, "fp32_precision", "ieee"),  # type: ignore[attr-defined]  # which it makes as it is loaded
        (matmul, "allow_fp16_reduced_precision_reduction", False),
        (matmul, "allow_bf16_reduced_precision_reduction", False),
    )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's collector rests: what it ends might wait for the device, which spoils a capture."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
