"""ONNX Runtime on an NVIDIA GPU with text features and feature maps staying there.

ONNX Runtime is bound to memory of our pool (IO binding, by address) and puts its work on our stream
(`user_compute_stream`), so that a run is a chain as with the other backends of a GPU (`cuda/session.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.graphs.contracts import FUSION_HEAD, GRAPHS, GraphSpec, fixed_axes, output_shapes
from glip_export.runtime.cuda.arrays import DeviceArray
from glip_export.runtime.cuda.driver import CudaDriver, Driver
from glip_export.runtime.cuda.pool import Pool
from glip_export.runtime.cuda.session import DeviceSession, Given
from glip_export.runtime.onnxruntime_cuda_graphs import PLAIN_ID, CapturedRuns, Static
from glip_export.runtime.onnxruntime_providers import CUDA, PROVIDERS
from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession

_NO_CAPTURE = "NonMaxSuppression waits for the GPU, which no capture may"
_DLPACK_CPU = 1  # of a driver on the host's memory, in tests


class OnnxRuntimeCudaSession(DeviceSession, OnnxRuntimeSession):
    """The three graphs of a bundle; see `DeviceSession` for inputs and outputs, `Session` for shapes."""

    def __init__(
        self,
        bundle: Bundle,
        threads: int | None = None,
        provider: str = CUDA,
        *,
        device: int | None = None,
        stream: Any = None,
        cuda_graphs: int = 0,
        driver: Driver | None = None,
    ) -> None:
        """Loads the graphs. provider: cuda, cuda:fp16 or tensorrt. device, stream, driver: as of TensorRtSession.

        cuda_graphs: how many shapes of the text encoder and of the backbone, each, ONNX Runtime keeps as CUDA graphs on
        cuda (`onnxruntime_cuda_graphs`, which says why none unless asked for). Raises BackendError.
        """
        driver = driver or CudaDriver(device)
        DeviceSession.__init__(self, driver, stream)
        self._place = "cpu" if driver.dlpack_device[0] == _DLPACK_CPU else "cuda"
        self._graphs = {name: CapturedRuns(cuda_graphs) for name in GRAPHS}
        if cuda_graphs:
            self._graphs[FUSION_HEAD.name] = CapturedRuns(0, _NO_CAPTURE)
        with driver.active():
            OnnxRuntimeSession.__init__(self, bundle, threads, provider)
        self.library = f"ONNX Runtime {onnxruntime.__version__}"
        fixed = fixed_axes(bundle.config)
        self._runners = {
            name: OnnxRunner(spec, self._sessions[name], self._pool, self._place, fixed, self._graphs[name])
            for name, spec in self.specs.items()
        }

    def close(self) -> None:
        """See `DeviceSession`."""
        super().close()
        self._sessions.clear()

    def describe(self) -> dict[str, Any]:
        """See `DeviceSession`; assignment: of each graph, what each provider took (`OnnxRunner.assignment`)."""
        return {
            **super().describe(),
            "assignment": {name: runner.assignment for name, runner in self._runners.items()},
        }

    def _device_options(self) -> dict[str, str]:
        if self._place == "cpu":
            return {}
        return {"device_id": str(self._driver.device), "user_compute_stream": str(self.stream)}

    def _open(self, name: str, path: Path, options: Any, providers: list[Any]) -> onnxruntime.InferenceSession:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if not self._graphs[name].limit or self.provider != CUDA:
            self._graphs[name] = CapturedRuns(0, self._graphs[name].trouble)
            return super()._open(name, path, options, providers)
        with_graphs = [
            (word, {**own, "enable_cuda_graph": "1"} if word == PROVIDERS[CUDA] else own) for word, own in providers
        ]
        try:
            return super()._open(name, path, options, with_graphs)
        except BackendError as error:
            session = super()._open(name, path, options, providers)
            self._graphs[name] = CapturedRuns(0, str(error))
            return session

    def _run(self, spec: GraphSpec, arrays: tuple[Any, ...]) -> list[Any]:
        try:
            return self._detect(spec, arrays) if spec is FUSION_HEAD else super()._run(spec, arrays)
        except BackendError:
            raise
        except Exception as error:  # onnxruntime's own exceptions share no base
            raise self._failure(spec, arrays, error) from error

    def _detect(self, spec: GraphSpec, arrays: tuple[Any, ...]) -> list[Any]:
        """Outputs on the host, where ONNX Runtime puts them when it has waited for the GPU."""
        with self._driver.active():
            runner = self._runners[spec.name]
            outputs = runner.run_to_host(self._inputs.bind(spec, arrays), self._output_names(spec))
            self._inputs.done()
        return self._finished(spec, outputs)


class OnnxRunner:
    """One graph in ONNX Runtime, between arrays on the device.

    assignment: provider -> the parts that it runs and their operators, after optimisation. What the CPU has beyond
    arithmetic on shapes costs a way there and back. {} where this ONNX Runtime does not tell.
    """

    def __init__(
        self, spec: GraphSpec, session: Any, pool: Pool, place: str, fixed: Mapping[str, int], graphs: CapturedRuns
    ) -> None:
        """place: cuda, or cpu where the driver's memory is the host's. fixed: the axes that the configuration fixes."""
        self.spec = spec
        self.graphs = graphs
        self._session = session
        self._pool = pool
        self._place = place
        self._fixed = fixed
        self._makes_graphs = graphs.limit > 0
        self.assignment = _assignment(session)

    def run(self, given: Given, stream: int) -> dict[str, DeviceArray]:
        """Puts one run on the stream; its outputs, by name. Not the fusion head's, whose shapes a form may change."""
        plain = partial(self._plain, given, stream)
        if not self._makes_graphs:
            return plain()
        shapes = tuple(shape for _, shape in given.values())
        return self.graphs.run(
            shapes, plain, partial(self._static, given, stream), partial(self._launch, given, stream)
        )

    def run_to_host(self, given: Given, names: tuple[str, ...] | list[str]) -> list[Any]:
        """Runs and waits; the outputs of these names as NumPy arrays."""
        binding = self._binding(given)
        for name in names:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()]

    def _plain(self, given: Given, stream: int) -> dict[str, DeviceArray]:
        binding, outputs = self._binding(given), self._outputs(given, stream)
        self._bind_outputs(binding, outputs)
        self._session.run_with_iobinding(binding, _run_options(PLAIN_ID if self._makes_graphs else None))
        return outputs

    def _static(self, given: Given, stream: int, number: int) -> Static:
        """Buffers that stay, for one shape, bound."""
        inputs = {
            tensor.name: DeviceArray(self._pool, given[tensor.name][1], tensor.dtype, stream)
            for tensor in self.spec.inputs
        }
        outputs = self._outputs(given, stream)
        binding = self._binding({name: (array.pointer, array.shape) for name, array in inputs.items()})
        self._bind_outputs(binding, outputs)
        return Static(number, binding, inputs, outputs)

    def _launch(self, given: Given, stream: int, static: Static) -> dict[str, DeviceArray]:
        driver = self._pool.driver
        for name, array in static.inputs.items():
            driver.copy(array.pointer, given[name][0], array.nbytes, stream)
        self._session.run_with_iobinding(static.binding, _run_options(static.number))
        outputs = self._outputs(given, stream)
        for name, array in outputs.items():
            driver.copy(array.pointer, static.outputs[name].pointer, array.nbytes, stream)
        return outputs

    def _binding(self, given: Given) -> Any:
        binding = self._session.io_binding()
        for tensor in self.spec.inputs:
            pointer, shape = given[tensor.name]
            dtype = np.dtype(tensor.dtype).type
            binding.bind_input(tensor.name, self._place, self._pool.driver.device, dtype, shape, pointer)
        return binding

    def _bind_outputs(self, binding: Any, outputs: Mapping[str, DeviceArray]) -> None:
        for name, array in outputs.items():
            dtype, device = array.dtype.type, self._pool.driver.device
            binding.bind_output(name, self._place, device, dtype, array.shape, array.pointer)

    def _outputs(self, given: Given, stream: int) -> dict[str, DeviceArray]:
        """Memory for what the text encoder or the backbone gives."""
        shapes = output_shapes(self.spec, {name: shape for name, (_, shape) in given.items()}, self._fixed)
        return {
            tensor.name: DeviceArray(self._pool, shapes[tensor.name], tensor.dtype, stream)
            for tensor in self.spec.outputs
        }


def _assignment(session: Any) -> dict[str, Any]:
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # only to say more: an older ONNX Runtime has no such call, and may know one it cannot answer
        return {}
    found: dict[str, Any] = {}
    for part in parts:
        own = found.setdefault(part.ep_name, {"parts": 0, "operators": {}})
        own["parts"] += 1
        for node in part.get_nodes():
            own["operators"][node.op_type] = own["operators"].get(node.op_type, 0) + 1
    return found


def _run_options(number: int | None) -> onnxruntime.RunOptions:
    """Of a run that is only put on the stream. number: of a CUDA graph, where the session makes them."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    if number is not None:
        options.add_run_config_entry("gpu_graph_id", str(number))
    return options
