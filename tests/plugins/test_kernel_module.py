"""KernelModule with a driver of its own: cuda.bindings.driver's calls, carried out by the host shim."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from host_kernels import HostKernels

from glip_export.addresses import pointer_to
from glip_export.errors import BackendError
from glip_export.trt import kernels
from glip_export.trt.kernels import DEFAULT_SHARED_BYTES, KernelModule, Launch, im2col_launches
from glip_export.trt.text_layer_launches import text_attention_launches


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_NOT_FOUND = 500


class CUdevice_attribute(IntEnum):  # noqa: N801 - the driver's name
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class CUfunction_attribute(IntEnum):  # noqa: N801 - the driver's name
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8


class FakeDriver(ModuleType):
    """The part of cuda.bindings.driver that the package calls: (code, value) tuples, launches on the CPU."""

    CUresult = CUresult
    CUdevice_attribute = CUdevice_attribute
    CUfunction_attribute = CUfunction_attribute
    CUstream = int

    def __init__(self, host: HostKernels) -> None:
        super().__init__("cuda.bindings.driver")
        self.host, self.context, self.identity = host, 0x1000, 1
        self.loaded: list[bytes] = []
        self.streams: list[int] = []
        self.waited: list[int] = []
        self.room: dict[str, int] = {}  # kernels that were given more shared memory
        self.fails: dict[str, CUresult] = {}
        self.no_driver = False

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return self._call(name, value) if name.startswith("cu") else value

    def _call(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            if self.no_driver:
                raise RuntimeError("libcuda.so.1 cannot be opened")
            if name in self.fails:
                return (self.fails[name], None)
            value = function(*arguments)
            return (CUresult.CUDA_SUCCESS,) if value is None else (CUresult.CUDA_SUCCESS, value)

        call.__name__ = name
        return call

    def cuInit(self, flags: int) -> None:  # noqa: N802
        assert flags == 0

    def cuCtxGetCurrent(self) -> int:  # noqa: N802
        return self.context

    def cuCtxGetId(self, context: int) -> int:  # noqa: N802
        assert context == self.context
        return self.identity

    def cuCtxGetDevice(self) -> str:  # noqa: N802
        return "device 0"

    def cuDeviceGetAttribute(self, attribute: int, device: str) -> int:  # noqa: N802
        assert device == "device 0"
        return {75: 8, 76: 9}[attribute]

    def cuModuleLoadData(self, image: bytes) -> str:  # noqa: N802
        self.loaded.append(image)
        return f"module {len(self.loaded)}"

    def cuModuleGetFunction(self, module: str, name: bytes) -> str:  # noqa: N802
        assert module == f"module {len(self.loaded)}"
        return name.decode()

    def cuFuncSetAttribute(self, function: str, attribute: int, value: int) -> None:  # noqa: N802
        assert attribute == CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self.room[function] = value

    def cuStreamSynchronize(self, stream: int) -> None:  # noqa: N802
        self.waited.append(stream)

    def cuLaunchKernel(  # noqa: N802
        self,
        function: str,
        grid_x: int,
        grid_y: int,
        grid_z: int,
        block_x: int,
        block_y: int,
        block_z: int,
        shared_bytes: int,
        stream: int,
        parameters: int,
        extra: int,
    ) -> None:
        assert extra == 0 and shared_bytes <= self.room.get(function, DEFAULT_SHARED_BYTES)
        self.streams.append(stream)
        grid, block = (grid_x, grid_y, grid_z), (block_x, block_y, block_z)
        assert self.host.launch_raw(function, grid, block, shared_bytes, parameters) == 0


@pytest.fixture
def driver(host: HostKernels, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver(host)
    package = ModuleType("cuda.bindings")
    package.driver = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake)
    monkeypatch.setattr(kernels, "compile_cubin", lambda capability: b"cubin for %d.%d" % capability)
    monkeypatch.setattr(KernelModule, "_loaded", {})
    return fake


def _im2col() -> tuple[np.ndarray, list[Launch], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(1, depth, 4, 4)).astype(np.float32) for depth in (2, 18, 9)]
    out = np.full((1, 18, 16), np.nan, np.float32)
    launches = im2col_launches("float32", 1, 2, 4, 4, 4, 4, 1, *arrays, out)
    return out, launches, arrays


def test_a_launch_runs_with_its_arguments_on_its_stream(driver: FakeDriver, host: HostKernels) -> None:
    out, launches, (x, offset, mask) = _im2col()
    KernelModule.current().launch(launches, 42)
    np.testing.assert_array_equal(out, host.im2col(x, offset, mask, 1))
    assert driver.streams == [42]
    assert driver.waited == [42]  # the launch holds the arrays, and went


def test_launches_of_addresses_are_not_waited_for(driver: FakeDriver) -> None:
    """TensorRT keeps its memory itself, and captures its launches, where nothing may be waited for."""
    _, launches, arrays = _im2col()
    (launch,) = launches
    out = np.empty((1, 18, 16), np.float32)
    held = [pointer_to(array) for array in (*arrays, out)]
    (plain,) = im2col_launches("float32", 1, 2, 4, 4, 4, 4, 1, *(pointer.value or 0 for pointer in held))
    KernelModule.current().launch([plain], 42)
    assert driver.streams == [42] and not driver.waited
    assert launch.holds_memory and not plain.holds_memory


def test_a_kernel_is_told_of_more_shared_memory_when_a_launch_needs_it(driver: FakeDriver) -> None:
    qkv = np.zeros((1, 512, 3 * 128), np.float32)
    mask, out = np.zeros((1, 512), np.float32), np.zeros((1, 512, 128), np.float32)
    told = []
    for tokens in (16, 300, 512, 16):
        given = [np.ascontiguousarray(array[:, :tokens]) for array in (qkv, mask, out)]
        launches = text_attention_launches("float32", 1, tokens, 1, 128, 1, 1.0, (-1.0, 1.0), *given)
        KernelModule.current().launch(launches, 7)  # which fails where it was not told
        told.append((launches[0].shared_bytes, driver.room.get(launches[0].kernel)))
    (_, none), (first, one), (second, two), (_, last) = told
    assert (none, one, two, last) == (None, first, second, second) and second > first > DEFAULT_SHARED_BYTES


def test_a_context_loads_the_devices_cubin_once(driver: FakeDriver) -> None:
    module = KernelModule.current()
    assert KernelModule.current() is module
    assert driver.loaded == [b"cubin for 8.9"]
    driver.identity = 2  # another context, even at the same address
    assert KernelModule.current() is not module
    assert len(driver.loaded) == 2


@pytest.mark.parametrize(
    ("failing", "code", "message"),
    [
        ("cuInit", CUresult.CUDA_ERROR_NO_DEVICE, "cuInit: CUDA_ERROR_NO_DEVICE"),
        ("cuModuleLoadData", CUresult.CUDA_ERROR_INVALID_IMAGE, "refuses the kernels.*update the NVIDIA driver"),
        ("cuModuleGetFunction", CUresult.CUDA_ERROR_NOT_FOUND, "cuModuleGetFunction: CUDA_ERROR_NOT_FOUND"),
        ("cuLaunchKernel", CUresult.CUDA_ERROR_INVALID_VALUE, "cuLaunchKernel: CUDA_ERROR_INVALID_VALUE"),
    ],
)
def test_failing_calls_are_one_line(driver: FakeDriver, failing: str, code: CUresult, message: str) -> None:
    driver.fails[failing] = code
    with pytest.raises(BackendError, match=message):
        KernelModule.current().launch(_im2col()[1], 0)


def test_no_context_is_one_line(driver: FakeDriver) -> None:
    driver.context = 0
    with pytest.raises(BackendError, match="no CUDA context is current"):
        KernelModule.current()


def test_no_driver_is_one_line(driver: FakeDriver) -> None:
    driver.no_driver = True
    with pytest.raises(BackendError, match="no NVIDIA driver on this machine"):
        KernelModule.current()


def test_no_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match=r"pip install 'glip-export\[cuda\]'"):
        KernelModule.current()


def test_the_real_bindings_without_a_driver_are_one_line() -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    try:
        driver.cuInit(0)
    except RuntimeError:
        with pytest.raises(BackendError, match="no NVIDIA driver on this machine"):
            KernelModule.current()
    else:
        pytest.skip("this machine has an NVIDIA driver")
