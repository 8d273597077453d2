"""What the backends on an NVIDIA GPU have in common: one stream, its memory, and the way of inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from glip_export.graphs.contracts import FUSION_HEAD, GraphSpec
from glip_export.runtime.cuda.arrays import DeviceArray, stream_handle
from glip_export.runtime.cuda.driver import Driver
from glip_export.runtime.cuda.graphs import GraphCache
from glip_export.runtime.cuda.inputs import Inputs
from glip_export.runtime.cuda.pictures import Pictures
from glip_export.runtime.cuda.pool import Pool
from glip_export.runtime.cuda.profiles import Shape
from glip_export.runtime.cuda.staging import OutputStaging
from glip_export.runtime.session import F32, GraphSession
from glip_export.trt.gpus import Gpu

CUDA_GRAPHS = 8  # kept of each of the three graphs; one takes some megabytes


Given = Mapping[str, tuple[int, Shape]]  # each input's address and shape


class Runner(Protocol):
    """One of the three graphs at work; everything it does is put on one stream."""

    graphs: GraphCache

    def run(self, given: Given, stream: int) -> dict[str, DeviceArray]:
        """Puts one run on the stream; given: each input's address and shape. Its outputs, by name."""
        ...


class DeviceSession(GraphSession):
    """A session whose feature maps and text features stay on the device; see `Session` for shapes.

    A run is a chain on one stream: inputs from pinned memory, the graph (as a CUDA graph once its shapes have come
    twice), and only the detections back. Pictures have two input buffers and a stream of their own, so that the next
    batch is copied while this one is computed (`prefetch`).

    Inputs are NumPy arrays, or arrays on the session's device of any library with DLPack or `__cuda_array_interface__`
    (C-contiguous, of the graph's own dtype), which are not copied to the host. text_encoder and vision_backbone give
    DeviceArrays, made for fusion_head, which NumPy and other libraries can read; fusion_head gives NumPy arrays. Not
    for several threads at once.
    """

    # Of a caption's tokens and of names: larger where a new size costs a slow first run, and so is to be seldom.
    shape_unit = 1
    precision: str
    library: str  # what runs the graphs, in words

    def __init__(self, driver: Driver, stream: Any = None) -> None:
        """stream: an int, or a stream of PyCUDA, torch, CuPy or cuda-core; by default one of its own."""
        self._driver = driver
        self._gpu = Gpu(driver.name, "{}.{}".format(*driver.compute_capability))
        self._runners: dict[str, Any] = {}  # by graph: a Runner each
        with driver.active():
            self.stream = driver.new_stream() if stream is None else stream_handle(stream)
            self._pool = Pool(driver)
            self._inputs = Inputs(self._pool, self.stream)
            self._staging = OutputStaging(driver)

    def ready_pictures(self) -> None:
        """Makes the session take `pictures.Pictures` in the place of images: compiles what makes these of them.

        Raises BackendError where our kernels cannot be compiled.
        """
        with self._driver.active():
            self._driver.load_kernels()

    def prefetch(self, images: F32 | Pictures) -> None:
        """Starts the copy of the next batch, while the last one is still computed; (B, 3, H, W), unchanged from now on.

        `vision_backbone` of the very same array then finds it on the device. Two may be under way.
        """
        with self._driver.active():
            self._inputs.prefetch(images)

    def synchronize(self) -> None:
        """Waits for all that was asked for; text_encoder and vision_backbone return before they are done."""
        with self._driver.active():
            self._driver.synchronize(self.stream)

    def close(self) -> None:
        """Waits, and lets go of graphs and memory; the session is of no use afterwards."""
        self.synchronize()
        with self._driver.active():
            for runner in self._runners.values():
                runner.graphs.clear()
            self._runners.clear()
            del self._inputs
            self._pool.trim()

    def describe(self) -> dict[str, Any]:
        """What a report says of the session: the GPU, the library, memory and CUDA graphs."""
        return {
            "gpu": self._gpu.name,
            "compute_capability": self._gpu.compute_capability,
            "library": self.library,
            "precision": self.precision,
            "device_memory_mb": self._pool.allocated / 1e6,
            "cuda_graphs": {name: len(runner.graphs) for name, runner in self._runners.items()},
            "cuda_graph_trouble": {n: r.graphs.trouble for n, r in self._runners.items() if r.graphs.trouble},
        }

    def _run(self, spec: GraphSpec, arrays: tuple[Any, ...]) -> list[Any]:
        with self._driver.active():
            outputs = self._runners[spec.name].run(self._inputs.bind(spec, arrays), self.stream)
            self._inputs.done()
            if spec.name != FUSION_HEAD.name:
                return [outputs[tensor.name] for tensor in spec.outputs]
            found = self._staging.fetch(outputs, self.stream)
            self._head_has_run()
        detections = zip(FUSION_HEAD.outputs, self._detections(found), strict=True)
        return [array.astype(tensor.dtype, copy=False) for tensor, array in detections]

    def _head_has_run(self) -> None:
        """Called inside the driver's context after each run of the fusion head."""

    def _detections(self, found: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The contract's outputs, in its order, of what the fusion head gave, by name."""
        return [found[name] for name in FUSION_HEAD.output_names]
