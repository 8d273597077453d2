"""triton_python_backend_utils without Triton: what our models use of it, and graphs that run in ONNX Runtime."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime


class Tensor:
    """One named array; like Triton's, it holds only what the host can give."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        assert isinstance(array, np.ndarray) and array.flags.c_contiguous, name
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class TritonError:
    """A response's error."""

    INTERNAL, INVALID_ARG = "INTERNAL", "INVALID_ARG"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> str:
        return self._code

    def __str__(self) -> str:
        return self._message


class InferenceResponse:
    """Tensors or an error."""

    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self._tensors, self._error = output_tensors or [], error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors


class Request:
    """What a client sent."""

    def __init__(self, **arrays: np.ndarray) -> None:
        self.tensors = {name: Tensor(name, array) for name, array in arrays.items()}


class Logger:
    """Keeps what was logged as an error."""

    errors: list[str] = []  # noqa: RUF012

    @classmethod
    def log_error(cls, text: str) -> None:
        cls.errors.append(text)


def fake_backend_utils(graphs: dict[str, str] | None = None) -> ModuleType:
    """The module. graphs: model name -> ONNX file, for InferenceRequest.exec."""
    module: Any = ModuleType("triton_python_backend_utils")
    sessions = {name: onnxruntime.InferenceSession(path) for name, path in (graphs or {}).items()}

    class InferenceRequest:
        """A request of a model to another one."""

        def __init__(
            self, model_name: str, requested_output_names: list[str], inputs: list[Tensor], preferred_memory: object
        ) -> None:
            self._call = (model_name, requested_output_names, inputs)
            assert preferred_memory == "in host memory"

        def exec(self) -> InferenceResponse:
            name, outputs, inputs = self._call
            module.calls.append((name, len(inputs[0].as_numpy())))
            if name not in sessions:
                return InferenceResponse(error=TritonError(f"Failed for unknown model {name}"))
            try:
                found = sessions[name].run(outputs, {tensor.name(): tensor.as_numpy() for tensor in inputs})
            except Exception as error:
                return InferenceResponse(error=TritonError(str(error)))
            # Triton promises no order
            return InferenceResponse([Tensor(n, a) for n, a in reversed(list(zip(outputs, found, strict=True)))])

    Logger.errors = []
    module.calls = []
    module.Tensor, module.TritonError, module.InferenceResponse = Tensor, TritonError, InferenceResponse
    module.InferenceRequest, module.Logger = InferenceRequest, Logger
    module.TRITONSERVER_MEMORY_CPU = "host"
    module.PreferredMemory = lambda kind: f"in {kind} memory"
    module.get_input_tensor_by_name = lambda request, name: request.tensors.get(name)
    return module
