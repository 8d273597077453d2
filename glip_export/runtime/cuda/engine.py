"""One TensorRT engine at work: its profiles, execution contexts and CUDA graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glip_export.errors import BackendError
from glip_export.graphs.contracts import GraphSpec
from glip_export.runtime.cuda.arrays import DeviceArray
from glip_export.runtime.cuda.driver import Driver
from glip_export.runtime.cuda.graphs import Captured, GraphCache
from glip_export.runtime.cuda.library import Library
from glip_export.runtime.cuda.pool import Buffer, Pool
from glip_export.runtime.cuda.profiles import Profile, Shape, choose_profile


class Workspace:
    """Scratch memory that the engines of one stream share, for only one runs at a time; it only grows."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._buffer: Buffer | None = None

    def at_least(self, size: int) -> Buffer:
        """The memory, now of `size` bytes or more."""
        if self._buffer is None or self._buffer.size < size:
            self._buffer = None
            self._buffer = self._pool.take(size)
        return self._buffer


@dataclass(frozen=True)
class _Plan:
    """What follows from the input shapes."""

    shapes: dict[str, Shape]
    profile: int
    outputs: dict[str, Shape]
    scratch: int  # bytes


class EngineRunner:
    """One graph's engine; everything it does is put on one stream.

    A context a profile runs shapes as they come. A CUDA graph has a context of its own, as TensorRT asks: what changes
    a context's shapes or addresses would invalidate the graph.
    """

    def __init__(
        self,
        library: Library,
        data: Any,  # ICudaEngine
        spec: GraphSpec,
        profiles: Sequence[Profile],
        pool: Pool,
        workspace: Workspace,
        graphs: int,
        rebuild: str,
    ) -> None:
        self.spec = spec
        self.graphs = GraphCache(graphs)
        self.plans: dict[tuple[Shape, ...], _Plan] = {}  # by the inputs' shapes
        self._library = library
        self._data = data
        self._profiles = profiles
        self._pool = pool
        self._workspace = workspace
        self._rebuild = rebuild
        self._contexts: dict[int, Any] = {}  # by profile
        names = [data.get_tensor_name(index) for index in range(data.num_io_tensors)]
        self.inputs = [name for name in names if data.get_tensor_mode(name) == library.trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]
        self.dtypes = {name: np.dtype(library.trt.nptype(data.get_tensor_dtype(name))) for name in names}
        self._check_inputs()

    def run(self, given: Mapping[str, tuple[int, Shape]], stream: int) -> dict[str, DeviceArray]:
        """Puts one run on the stream; given: each input's address and shape. Its outputs, by name.

        Raises BackendError if no profile takes the shapes or TensorRT refuses to run.
        """
        shapes = {name: given[name][1] for name in self.inputs}
        plan = self._plan(shapes, stream)
        scratch = self._workspace.at_least(plan.scratch)
        outputs = {
            name: DeviceArray(self._pool, shape, self.dtypes[name], stream) for name, shape in plan.outputs.items()
        }
        addresses = {
            **{name: given[name][0] for name in self.inputs},
            **{name: array.pointer for name, array in outputs.items()},
        }

        def plain() -> None:
            self._enqueue(self._context(plan.profile, stream), plan, addresses, scratch, stream)

        def capture() -> tuple[Captured | None, str]:
            return self._capture(plan, addresses, scratch, stream)

        key = (tuple(shapes.values()), tuple(addresses.values()), scratch.pointer, stream)
        self.graphs.run(key, plain, capture)
        return outputs

    def _plan(self, shapes: dict[str, Shape], stream: int) -> _Plan:
        key = tuple(shapes.values())
        if key not in self.plans:
            profile = choose_profile(self._profiles, shapes, self.spec, self._rebuild)
            context = self._context(profile, stream)
            self._set_shapes(context, shapes)
            outputs = {name: tuple(context.get_tensor_shape(name)) for name in self.outputs}
            for name, shape in outputs.items():
                if min(shape, default=0) < 0:
                    raise BackendError(f"the engine of {self.spec.name} does not know the shape of {name}: {shape}")
            scratch = int(context.update_device_memory_size_for_shapes())
            self.plans[key] = _Plan(shapes, profile, outputs, scratch)
        return self.plans[key]

    def _context(self, profile: int, stream: int) -> Any:
        if profile not in self._contexts:
            self._contexts[profile] = self._new_context(profile, stream)
        return self._contexts[profile]

    def _new_context(self, profile: int, stream: int) -> Any:
        context = self._library.create_context(self._data, self.spec.name)
        if not context.set_optimization_profile_async(profile, stream):
            raise self._library.failure(f"the engine of {self.spec.name} has no profile {profile}")
        return context

    def _set_shapes(self, context: Any, shapes: Mapping[str, Shape]) -> None:
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise self._library.failure(f"the engine of {self.spec.name} does not take {name} of shape {shape}")

    def _enqueue(self, context: Any, plan: _Plan, addresses: dict[str, int], scratch: Buffer, stream: int) -> None:
        self._set_shapes(context, plan.shapes)
        for name, address in addresses.items():
            context.set_tensor_address(name, address)
        context.set_device_memory(scratch.pointer, scratch.size)
        self._execute(context, plan, stream)

    def _execute(self, context: Any, plan: _Plan, stream: int) -> None:
        if not context.execute_async_v3(stream):
            shapes = ", ".join(f"{name} {shape}" for name, shape in plan.shapes.items())
            raise self._library.failure(f"the engine of {self.spec.name} failed ({shapes})")

    def _capture(
        self, plan: _Plan, addresses: dict[str, int], scratch: Buffer, stream: int
    ) -> tuple[Captured | None, str]:
        context = self._new_context(plan.profile, stream)
        self._enqueue(context, plan, addresses, scratch, stream)  # TensorRT wants a run before a capture
        driver: Driver = self._pool.driver
        try:
            driver.begin_capture(stream)
            try:
                self._execute(context, plan, stream)
            finally:
                graph = driver.end_capture(stream)
        except BackendError as error:
            return None, str(error)

        def free(context: Any = context) -> None:
            driver.synchronize(stream)  # neither the graph nor the context may go while they run
            driver.free_graph(graph)

        return Captured(lambda: driver.launch(graph, stream), free), ""

    def _check_inputs(self) -> None:
        expected = {tensor.name: np.dtype(tensor.dtype) for tensor in self.spec.inputs}
        found = {name: self.dtypes[name] for name in self.inputs}
        if found != expected:
            raise BackendError(
                f"the engine of {self.spec.name} takes {_list(found)} where the graph takes {_list(expected)}: "
                f"build it again with: {self._rebuild}"
            )


def _list(dtypes: Mapping[str, np.dtype]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
