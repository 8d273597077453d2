"""A TensorRT whose engines are ONNX files run by ONNX Runtime on the fake driver's memory."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from gpu.stand_in.execution_context import SCRATCH, ExecutionContext
from runtime.cuda.fake_driver import FakeDriver


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class FakeTensorRt:
    """Stands for the module `tensorrt`; every engine and context it makes is noted."""

    __name__ = "fake_tensorrt"
    __version__ = "10.9.0"
    TensorIOMode = TensorIOMode
    ILogger = ILogger
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver
        self.contexts: list[Context] = []
        self.fail_capture = False
        self.fail_run = False

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(deserialize_cuda_engine=lambda data: self._deserialize(data, logger))

    def nptype(self, dtype: np.dtype) -> type:
        return dtype.type

    def _deserialize(self, data: bytes, logger: Any) -> Any:
        if not data.startswith(b"{"):
            logger.log(ILogger.WARNING, "Loaded engine")
            logger.log(ILogger.ERROR, "deserializeCudaEngine: magicTag\n failed")
            return None
        return Engine(self, logger, json.loads(data))


class Engine:
    def __init__(self, trt: FakeTensorRt, logger: Any, words: dict[str, Any]) -> None:
        self.trt, self.logger, self.profiles = trt, logger, words["profiles"]
        self.session = onnxruntime.InferenceSession(words["onnx"], _one_thread())
        types = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
        self.inputs = [item.name for item in self.session.get_inputs()]
        self.outputs = [item.name for item in self.session.get_outputs()]
        tensors = (*self.session.get_inputs(), *self.session.get_outputs())
        self.dtypes = {item.name: np.dtype(types[item.type]) for item in tensors}
        self.num_io_tensors = len(self.dtypes)

    def get_tensor_name(self, index: int) -> str:
        return (*self.inputs, *self.outputs)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> np.dtype:
        return self.dtypes[name]

    def create_execution_context(self, strategy: str) -> Context:
        assert strategy == "user managed"
        self.trt.contexts.append(Context(self))
        return self.trt.contexts[-1]


class Context(ExecutionContext):
    """Notes how often it ran."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.profiles)
        self.engine = engine
        self.runs = 0
        self._results: dict[str, np.ndarray] = {}
        self._for: dict[str, tuple[int, ...]] = {}

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Asked of ONNX Runtime on zeros, once a shape."""
        if name in self.shapes:
            return self.shapes[name]
        if self._for != self.shapes:
            zeros = {name: np.zeros(shape, self.engine.dtypes[name]) for name, shape in self.shapes.items()}
            if "image_sizes" in zeros:
                zeros["image_sizes"] += 32
            arrays = self.engine.session.run(self.engine.outputs, zeros)
            self._results, self._for = dict(zip(self.engine.outputs, arrays, strict=True)), dict(self.shapes)
        return self._results[name].shape

    def execute_async_v3(self, stream: int) -> bool:
        trt, engine = self.engine.trt, self.engine
        capturing = stream in trt.driver.capturing
        if trt.fail_run or (capturing and trt.fail_capture):
            engine.logger.log(ILogger.ERROR, "enqueueV3: the kernel was refused")
            return False
        self.note_run(capturing)
        self.runs += not capturing
        shapes, addresses, scratch = dict(self.shapes), dict(self.addresses), self.memory[0]
        outputs = {name: tuple(self.get_tensor_shape(name)) for name in engine.outputs}

        def work() -> None:
            view = trt.driver.view
            view(scratch, (SCRATCH,), np.dtype(np.uint8))[:] = 0x5A
            feed = {name: view(addresses[name], shape, engine.dtypes[name]).copy() for name, shape in shapes.items()}
            for name, array in zip(engine.outputs, engine.session.run(engine.outputs, feed), strict=True):
                np.copyto(view(addresses[name], outputs[name], engine.dtypes[name]), array)

        trt.driver.put(stream, work)
        return True


def engine_words(onnx: Path, profiles: list[dict[str, Any]]) -> bytes:
    """The serialised form."""
    return json.dumps({"onnx": str(onnx), "profiles": profiles}).encode()


def _one_thread() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return options
