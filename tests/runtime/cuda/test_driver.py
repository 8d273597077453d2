"""The real driver's class on a made-up cuda-python: contexts, errors, and that every call it makes exists."""

from __future__ import annotations

import enum
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glip_export.errors import BackendError
from glip_export.runtime.cuda import driver as driver_file
from glip_export.runtime.cuda.driver import CudaDriver

PRIMARY, PYCUDAS = 1000, 2000


class Result(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_ILLEGAL_ADDRESS = 700


class FakeCuda:
    """cuda.bindings.driver with a stack of contexts; a call named in `errors` fails with that code."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major", CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor"
    )
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.device_of = {PYCUDAS: 0, PRIMARY: 0, PRIMARY + 1: 1}
        self.errors: dict[str, Result] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.values: dict[str, Any] = {"cuDeviceGetName": b"a GPU\0\0\0", "cuMemAlloc": 4096, "cuStreamEndCapture": 5}

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            if name in self.errors:
                return self.errors[name], None
            return Result.CUDA_SUCCESS, self._value(name, arguments)

        return call

    def _value(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "cuCtxGetCurrent":
            return self.stack[-1] if self.stack else 0
        if name == "cuCtxGetDevice":
            return self.device_of[self.stack[-1]]
        if name == "cuDeviceGet":
            return arguments[0]
        if name == "cuDevicePrimaryCtxRetain":
            return PRIMARY + arguments[0]
        if name == "cuCtxPushCurrent":
            self.stack.append(arguments[0])
        if name == "cuCtxPopCurrent":
            return self.stack.pop()
        if name == "cuDeviceGetAttribute":
            return {"major": 8, "minor": 9}[arguments[0]]
        return self.values.get(name, 7)

    def names(self) -> list[str]:
        return [name for name, *_ in self.calls]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(driver_file, "driver_module", lambda: fake)
    return fake


def test_without_a_context_the_devices_primary_one_is_used_inside_only(cuda: FakeCuda) -> None:
    driver = CudaDriver()
    assert (driver.device, driver.name, driver.compute_capability) == (0, "a GPU", (8, 9))
    assert cuda.stack == []
    with driver.active():
        assert cuda.stack == [PRIMARY]
        with driver.active():  # again: nothing to do
            assert cuda.stack == [PRIMARY]
    assert cuda.stack == []


def test_the_programs_own_context_is_used_and_never_replaced(cuda: FakeCuda) -> None:
    cuda.stack.append(PYCUDAS)
    driver = CudaDriver()
    assert "cuDevicePrimaryCtxRetain" not in cuda.names()
    cuda.calls.clear()
    with driver.active():
        assert cuda.stack == [PYCUDAS]
    assert cuda.names() == ["cuCtxGetCurrent"]
    cuda.stack[:] = [PRIMARY]  # later another one is current, or none, as in another thread
    with driver.active():
        assert cuda.stack == [PRIMARY, PYCUDAS]
    assert cuda.stack == [PRIMARY]


def test_the_context_comes_back_after_an_error(cuda: FakeCuda) -> None:
    driver = CudaDriver()
    cuda.stack.append(PYCUDAS)
    with pytest.raises(ZeroDivisionError), driver.active():
        raise ZeroDivisionError
    assert cuda.stack == [PYCUDAS]


def test_another_device_than_the_current_contexts(cuda: FakeCuda) -> None:
    cuda.stack.append(PYCUDAS)
    driver = CudaDriver(device=1)
    assert driver.device == 1 and driver.dlpack_device == (2, 1)
    with driver.active():
        assert cuda.stack == [PYCUDAS, PRIMARY + 1]
    assert cuda.stack == [PYCUDAS]


def test_a_capture_becomes_an_executable_graph(cuda: FakeCuda) -> None:
    driver = CudaDriver()
    cuda.values["cuGraphInstantiate"] = 9
    driver.begin_capture(3)
    assert driver.end_capture(3) == 9
    assert cuda.calls[-4:] == [
        ("cuStreamBeginCapture", 3, 1), ("cuStreamEndCapture", 3), ("cuGraphInstantiate", 5, 0), ("cuGraphDestroy", 5)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "code", "told"),
    [
        ("cuInit", Result.CUDA_ERROR_NO_DEVICE, r"finds no GPU: see nvidia-smi .*\(cuInit: CUDA_ERROR_NO_DEVICE\)"),
        ("cuMemAlloc", Result.CUDA_ERROR_OUT_OF_MEMORY, r"memory is full: .*OUT_OF_MEMORY, 50 MB\)"),
        ("cuStreamSynchronize", Result.CUDA_ERROR_ILLEGAL_ADDRESS, "left its memory; the CUDA context is lost"),
    ],
)
def test_errors_say_what_to_do(cuda: FakeCuda, call: str, code: Result, told: str) -> None:
    with pytest.raises(BackendError, match=told) as caught:
        cuda.errors[call] = code
        driver = CudaDriver()
        driver.allocate(50_000_000)
        driver.synchronize(3)
    assert "\n" not in str(caught.value)


def test_no_driver(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise RuntimeError('"cuda" is an NVIDIA driver library and can only be found via system search.')

    monkeypatch.setattr(FakeCuda, "cuInit", missing, raising=False)
    with pytest.raises(BackendError, match="there is no NVIDIA driver here"):
        CudaDriver()


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(bindings=None))
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match=r"cuda-python: pip install 'glip-export\[cuda\]'"):
        CudaDriver()


def test_cuda_python_has_every_call() -> None:
    cuda = pytest.importorskip("cuda.bindings.driver")
    source = Path(driver_file.__file__).read_text()
    calls = set(re.findall(r'"(cu[A-Z]\w+)"', source))
    assert len(calls) > 20
    assert not [name for name in calls if not callable(getattr(cuda, name, None))]
    assert cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL is not None
    assert int(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING) == 1
    assert int(cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING) == 2


def test_cuda_python_without_a_driver_is_told() -> None:
    from glip_export.trt.flavor import find_gpu

    pytest.importorskip("cuda.bindings.driver")
    if find_gpu() is not None:
        pytest.skip("there is a GPU")
    with pytest.raises(BackendError):
        CudaDriver()
