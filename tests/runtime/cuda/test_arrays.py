"""Arrays given to other libraries and taken from them: DLPack, the CUDA array interface, streams."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from runtime.cuda.fake_driver import FakeDriver

from glip_export.errors import BackendError
from glip_export.runtime.cuda import dlpack
from glip_export.runtime.cuda.arrays import DeviceArray, foreign_array, is_on_device, stream_handle
from glip_export.runtime.cuda.pool import Pool

CPU = (1, 0)


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    driver = FakeDriver()
    with driver.active():
        yield driver


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, 5)).astype(np.float32)


@pytest.fixture
def array(driver: FakeDriver, values: np.ndarray) -> DeviceArray:
    """The values, copied on a stream that nobody has waited for."""
    array = DeviceArray(Pool(driver), values.shape, values.dtype, driver.new_stream())
    driver.copy(array.pointer, values, values.nbytes, array.stream)
    return array


def test_numpy_reads_it(array: DeviceArray, values: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(array), values)
    np.testing.assert_array_equal(np.asarray(array, np.float64), values.astype(np.float64))
    np.testing.assert_array_equal(array[0, 1:], values[0, 1:])
    assert np.isfinite(array).all() and np.array(array).flags.owndata
    assert (array.shape, array.dtype, array.ndim, array.size, array.nbytes, len(array)) == (
        values.shape, values.dtype, values.ndim, values.size, values.nbytes, len(values)
    )  # fmt: skip
    with pytest.raises(ValueError, match="only by a copy"):
        np.array(array, copy=False)


def test_repeat_stays_on_the_device(array: DeviceArray, values: np.ndarray, driver: FakeDriver) -> None:
    repeated = np.repeat(array, 3, axis=0)
    assert isinstance(repeated, DeviceArray) and driver.counts["synchronize"] == 0
    np.testing.assert_array_equal(np.asarray(repeated), np.repeat(values, 3, axis=0))
    assert np.repeat(array, 1, axis=0) is array
    with pytest.raises(BackendError, match="only along a first axis of length 1"):
        np.repeat(repeated, 2, axis=0)


def lent_of(array: DeviceArray) -> int:
    """The capsules that hold it; other tests' sessions may have lent theirs."""
    return sum(owner is array for *_, owner in dlpack._lent.values())


def test_numpy_and_torch_take_it_by_dlpack(array: DeviceArray, values: np.ndarray, driver: FakeDriver) -> None:
    torch = pytest.importorskip("torch")
    driver.synchronize_all()
    for take in (np.from_dlpack, torch.from_dlpack):
        taken = take(array)
        np.testing.assert_array_equal(np.asarray(taken), values)
        address = taken.data_ptr() if hasattr(taken, "data_ptr") else taken.ctypes.data
        assert address == array.pointer  # where it is
        assert lent_of(array) == 1
        del taken
        gc.collect()
        assert lent_of(array) == 0
    assert array.buffer.exported


def test_a_capsule_that_nobody_takes_holds_nothing(array: DeviceArray) -> None:
    capsule = array.__dlpack__(stream=-1)
    assert lent_of(array) == 1
    del capsule
    assert lent_of(array) == 0


def test_the_takers_stream_waits(array: DeviceArray, values: np.ndarray, driver: FakeDriver) -> None:
    for stream in (None, driver.new_stream()):
        taken = dlpack.read_capsule(array.__dlpack__(stream=stream))
        driver.synchronize(stream or 1)
        found = np.asarray((dlpack.ctypes.c_float * values.size).from_address(taken.pointer)).reshape(values.shape)
        np.testing.assert_array_equal(found, values)
        taken.release()


def test_the_cuda_array_interface(array: DeviceArray) -> None:
    interface = array.__cuda_array_interface__
    assert interface["data"] == (array.pointer, True) and interface["typestr"] == "<f4"
    assert interface["stream"] == array.stream and interface["version"] == 3 and interface["strides"] is None
    taken = foreign_array(SimpleNamespace(__cuda_array_interface__=interface), 5, CPU)
    assert (taken.pointer, taken.shape, taken.dtype, taken.stream) == (
        array.pointer, array.shape, np.float32, array.stream
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float16, np.uint8, np.bool_])
def test_arrays_taken_by_dlpack_are_where_they_were_and_let_go_later(dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.ones(2, 3, dtype=getattr(torch, np.dtype(dtype).name))[1:]

    class OnDevice:  # torch on the CPU takes no stream; on a GPU it does
        def __dlpack_device__(self) -> tuple[int, int]:
            return CPU

        def __dlpack__(self, stream: int) -> Any:
            assert stream == 77
            return tensor.__dlpack__()

    before = tensor.untyped_storage()._use_count() if hasattr(tensor.untyped_storage(), "_use_count") else None
    taken = foreign_array(OnDevice(), 77, CPU)
    assert taken.pointer == tensor.data_ptr() and taken.shape == (1, 3) and taken.dtype == dtype
    assert taken.nbytes == 3 * np.dtype(dtype).itemsize
    del taken
    if before is not None:
        assert tensor.untyped_storage()._use_count() == before


def test_what_cannot_be_taken_is_told() -> None:
    torch = pytest.importorskip("torch")

    def wrapped(tensor: Any, device: tuple[int, int] = CPU) -> Any:
        return SimpleNamespace(__dlpack_device__=lambda: device, __dlpack__=lambda stream: tensor.__dlpack__())

    with pytest.raises(BackendError, match=r"not C-contiguous: copy it \(.contiguous\(\)\)"):
        foreign_array(wrapped(torch.ones(3, 4).T), 1, CPU)
    with pytest.raises(BackendError, match="lies on device 1 and the session runs on device 0"):
        foreign_array(wrapped(torch.ones(3), (2, 1)), 1, (2, 0))
    with pytest.raises(BackendError, match="type 4 with 16 bits: give float32"):
        foreign_array(wrapped(torch.ones(3, dtype=torch.bfloat16)), 1, CPU)
    capsule = torch.ones(3).__dlpack__()
    dlpack.read_capsule(capsule).release()
    with pytest.raises(BackendError, match="somebody has taken"):
        dlpack.read_capsule(capsule)
    interface = {"shape": (4, 3), "typestr": "<f4", "data": (64, False), "version": 3}
    with pytest.raises(BackendError, match="not C-contiguous"):
        foreign_array(SimpleNamespace(__cuda_array_interface__={**interface, "strides": (4, 16)}), 1, CPU)
    with pytest.raises(BackendError, match="mask"):
        foreign_array(SimpleNamespace(__cuda_array_interface__={**interface, "mask": object()}), 1, CPU)


def test_strides_that_say_c_contiguous_are_taken() -> None:
    interface = {"shape": (1, 4, 3), "typestr": "<f4", "data": (64, False), "version": 3, "strides": (999, 12, 4)}
    taken = foreign_array(SimpleNamespace(__cuda_array_interface__=interface), 1, CPU)
    assert taken.stream == 1  # no stream named: the default one is waited for, on which PyCUDA works


def test_what_lies_on_the_device(array: DeviceArray) -> None:
    assert not is_on_device(np.ones(3)) and not is_on_device([1])
    assert is_on_device(SimpleNamespace(__dlpack_device__=lambda: (2, 0)))
    assert not is_on_device(SimpleNamespace(__dlpack_device__=lambda: (1, 0)))
    assert is_on_device(SimpleNamespace(__cuda_array_interface__={}))
    torch = pytest.importorskip("torch")
    assert not is_on_device(torch.ones(3))  # which has the attribute of the interface's name too


def test_streams() -> None:
    class Protocol:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 42

    for stream in (42, Protocol(), *(SimpleNamespace(**{name: 42}) for name in ("handle", "cuda_stream", "ptr"))):
        assert stream_handle(stream) == 42
    with pytest.raises(BackendError, match="str is no CUDA stream: give its address as an int"):
        stream_handle("a stream")
