"""What C is handed: arrays checked, and alive as long as anything has their address."""

from __future__ import annotations

import ast
import ctypes
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from glip_export.addresses import Array, Arrays, holding, in_stream_order, pointer_to, table_of

PACKAGE = Path(__file__).parents[1] / "glip_export"


class Watched(np.ndarray):
    """An array that can be watched for its end."""


def watched(values: object, dtype: str = "f4") -> tuple[Watched, weakref.ref[Watched]]:
    array = np.array(values, dtype).view(Watched)
    return array, weakref.ref(array)


def test_a_pointer_holds_its_array() -> None:
    array, alive = watched([1, 2, 3])
    pointer = pointer_to(array)
    del array
    gc.collect()
    held = alive()
    assert held is not None and pointer.value == held.ctypes.data
    del held, pointer
    gc.collect()
    assert alive() is None


def test_a_table_holds_the_arrays_of_its_pointers() -> None:
    array, alive = watched([1, 2])
    table = Arrays("f4").from_param([array, np.zeros(3, np.float32)])
    address = array.ctypes.data
    del array
    gc.collect()
    assert alive() is not None and table[0] == address
    del table
    gc.collect()
    assert alive() is None


def test_a_tensor_for_a_stream() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(2, 3)
    assert in_stream_order(tensor) == tensor.data_ptr()
    with pytest.raises(ValueError, match="not contiguous"):
        in_stream_order(tensor.T)


def test_holding_more_keeps_what_was_held() -> None:
    array, alive = watched([1])
    pointer = holding(holding(ctypes.c_void_p(1), array), "more")
    del array
    gc.collect()
    assert alive() is not None and pointer.held[1] == "more"
    assert table_of([pointer]).held == ((pointer,),)


def test_threads_crash_a_temporary_is_held_while_c_reads_it() -> None:
    """The kind of fault that crashed: an array that nobody but the call itself refers to."""
    alive: list[weakref.ref[Watched]] = []
    seen: list[list[int]] = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    def read(numbers: int, table: int) -> None:
        gc.collect()
        assert all(array() is not None for array in alive)
        seen.append(list((ctypes.c_int64 * 3).from_address(numbers)))
        seen.append(list((ctypes.c_int64 * 3).from_address(ctypes.c_void_p.from_address(table).value or 0)))

    function = ctypes.cast(read, ctypes.CFUNCTYPE(None))
    function.restype, function.argtypes = None, (Array(np.int64), Arrays(np.int64))  # type: ignore[assignment]

    def temporary(first: int) -> Watched:
        array, reference = watched([first, 2, 3], "i8")
        alive.append(reference)
        return array

    function(temporary(1), [temporary(7)])
    assert seen == [[1, 2, 3], [7, 2, 3]]
    gc.collect()
    assert [array() for array in alive] == [None, None]


@pytest.mark.parametrize(
    ("array", "written", "words"),
    [
        ([1.0], False, "list is no NumPy array"),
        (None, False, "NoneType is no NumPy array"),
        (4096, False, "int is no NumPy array"),
        (np.zeros(4), False, "is float64 and should be float32"),
        (np.zeros(4, ">f4"), False, "is >f4 and should be float32"),
        (np.zeros((4, 4), np.float32)[:, :2], False, "is not C-contiguous"),
        (np.zeros(4, np.float32)[::-1], False, "is not C-contiguous"),
        (np.zeros(17, np.uint8)[1:].view(np.float32), False, "is not C-contiguous and aligned"),
        (np.broadcast_to(np.float32(1), (1,)), True, "is read-only and would be written to"),
    ],
)
def test_what_c_would_misread_is_refused(array: object, written: bool, words: str) -> None:
    function = ctypes.CFUNCTYPE(None)(lambda: pytest.fail("C was called"))
    function.argtypes = (Array("f4", written),)  # type: ignore[assignment]
    with pytest.raises(ctypes.ArgumentError, match=words):
        function(array)
    function.argtypes = (Arrays("f4", written=written),)  # type: ignore[assignment]
    with pytest.raises(ctypes.ArgumentError, match=words):
        function([array])


def test_a_table_of_another_number_of_arrays_is_refused() -> None:
    with pytest.raises(ValueError, match="1 arrays were given and 2 are taken"):
        Arrays("f4", "u1").from_param([np.zeros(1, np.float32)])
    assert len(Arrays("f4").from_param([])) == 0


def test_no_other_file_takes_the_address_of_an_array() -> None:
    """`array.ctypes`, `__array_interface__` and the like give numbers, which hold nothing."""
    words = {"ctypes", "data_as", "data_ptr", "__array_interface__", "byref", "from_buffer"}
    found = {
        f"{path.relative_to(PACKAGE)}: {node.attr}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in words
    }
    # byref holds what it points to; the numbers of one call to the driver are the caller's own.
    assert found == {"addresses.py: ctypes", "addresses.py: data_ptr", "trt/flavor.py: byref"}
