"""The stand-in's engine and execution context: a bundle's graph run by PyTorch where TensorRT would run its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import torch
from execution_context import ExecutionContext, Shape

from glip_export.config import GlipConfig, config_from_dict
from glip_export.errors import BackendError
from glip_export.graphs.contracts import fixed_axes, graphs_of, output_shapes
from glip_export.graphs.precision import convert
from glip_export.runtime.cuda.dlpack import make_capsule
from glip_export.runtime.torch_cuda.program import Program
from glip_export.runtime.torch_cuda.runner import exact_products
from glip_export.trt.lowering import lower

CANDIDATES = {"candidate_boxes": (4,), "candidate_scores": (), "candidate_labels": ()}


class Engine:
    """ICudaEngine. words: what `stand_in_build.py` wrote."""

    host: Any = None  # the fake driver, where there is no GPU: then on its memory and its streams

    def __init__(self, words: dict[str, Any], modes: tuple[Any, Any], log: Callable[[str], None]) -> None:
        self.log, self.modes, self.profiles = log, modes, words["profiles"]
        self.config: GlipConfig = config_from_dict(words["config"])
        self.spec = graphs_of(self.config)[words["graph"]]
        model = convert(onnx_ir.load(Path(words["onnx"])), self.spec, words["precision"])
        lowered = lower(model, self.spec, self.config, nms=words["nms"])
        self.device = torch.device("cuda", torch.cuda.current_device()) if self.host is None else torch.device("cpu")
        self.program = Program(lowered, self.device)
        tensors = {tensor.name: tensor.dtype for tensor in (*self.spec.inputs, *self.spec.outputs)}
        types = {**tensors, **dict.fromkeys(CANDIDATES, "float32"), "candidate_labels": "int32"}
        self.dtypes = {name: np.dtype(types[name]) for name in (*self.program.inputs, *self.program.outputs)}
        self.num_io_tensors = len(self.dtypes)

    def get_tensor_name(self, index: int) -> str:
        return list(self.dtypes)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.modes[0] if name in self.program.inputs else self.modes[1]

    def get_tensor_dtype(self, name: str) -> np.dtype:
        return self.dtypes[name]

    def create_execution_context(self, strategy: Any) -> Context:
        assert strategy.name == "USER_MANAGED"
        return Context(self)


class Context(ExecutionContext):
    """IExecutionContext."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.profiles)
        self.engine = engine
        # A captured run keeps its intermediate values where they were; so each context has memory of its own.
        self.pool = torch.cuda.MemPool() if engine.host is None else None

    def get_tensor_shape(self, name: str) -> Shape:
        if name in self.shapes:
            return self.shapes[name]
        config = self.engine.config
        if name in CANDIDATES:
            many = len(config.detection.anchor_strides) * config.detection.pre_nms_top_n
            return next(iter(self.shapes.values()))[0], many, *CANDIDATES[name]
        return output_shapes(self.engine.spec, self.shapes, fixed_axes(config))[name]

    def execute_async_v3(self, stream: int) -> bool:
        engine, needed = self.engine, self.update_device_memory_size_for_shapes()
        inputs = {name: self._tensor(name) for name in engine.program.inputs}
        targets = [self._tensor(name) for name in engine.program.outputs]
        scratch = self._memory(self.memory[0], (needed,), np.dtype(np.uint8))
        plan = engine.program.plan(tuple(tuple(tensor.shape) for tensor in inputs.values()))

        def work() -> None:
            with torch.inference_mode(), exact_products():
                scratch.fill_(0x5A)
                for target, result in zip(targets, plan.run(inputs), strict=True):
                    target.copy_(result)

        if engine.host is not None:
            self.note_run(stream in engine.host.capturing)
            engine.host.put(stream, work)
            return True
        try:
            with torch.cuda.stream(torch.cuda.ExternalStream(stream, device=engine.device)):
                self.note_run(torch.cuda.is_current_stream_capturing())
                with torch.cuda.use_mem_pool(self.pool):
                    work()
        except (RuntimeError, BackendError) as error:
            engine.log(f"enqueueV3: {error}")
            return False
        return True

    def _tensor(self, name: str) -> torch.Tensor:
        return self._memory(self.addresses[name], self.get_tensor_shape(name), self.engine.dtypes[name])

    def _memory(self, pointer: int, shape: Shape, dtype: np.dtype) -> torch.Tensor:
        host = self.engine.host
        device = host.dlpack_device if host is not None else (2, self.engine.device.index)
        return torch.from_dlpack(make_capsule(None, pointer, shape, dtype, device))
