"""Memory handed to C: addresses that hold what they point to, and parameter types that check and hold arrays.

A number keeps nothing alive: where only the address of an array is handed on, the array may be freed before C reads it.
So arrays become addresses here and nowhere else. A C function whose `argtypes` are of this file takes arrays: ctypes
calls `from_param` of each and holds what that gives until the call is over.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt


class Array:
    """A parameter that is a C-contiguous array of `dtype`; one that C writes to must be writable.

    Another argument is a ctypes.ArgumentError that says what is wrong; the function is not called.
    """

    def __init__(self, dtype: npt.DTypeLike, written: bool = False) -> None:
        self.dtype = np.dtype(dtype)
        self.written = written

    def from_param(self, array: Any) -> ctypes.c_void_p:
        """What ctypes passes on: the address, and with it the array."""
        return pointer_to(array, self.dtype, self.written)


class Arrays:
    """A parameter that is a table of the addresses of arrays, each as `Array` has it.

    dtypes: one for all of any number of arrays, or one for each of as many.
    """

    def __init__(self, *dtypes: npt.DTypeLike, written: bool = False) -> None:
        self.dtypes = [np.dtype(dtype) for dtype in dtypes]
        self.written = written

    def from_param(self, arrays: Iterable[Any]) -> ctypes.Array[ctypes.c_void_p]:
        """What ctypes passes on: the table, and with it the arrays."""
        arrays = list(arrays)
        dtypes = self.dtypes * len(arrays) if len(self.dtypes) == 1 else self.dtypes
        if len(arrays) != len(dtypes):
            raise ValueError(f"{len(arrays)} arrays were given and {len(dtypes)} are taken")
        return table_of(pointer_to(array, dtype, self.written) for array, dtype in zip(arrays, dtypes, strict=True))


def pointer_to(array: Any, dtype: npt.DTypeLike | None = None, written: bool = False) -> ctypes.c_void_p:
    """The address of an array's values, which holds the array: it is good as long as this object lives.

    Raises TypeError for what is no NumPy array or one of another dtype than `dtype`, if given; ValueError if it is not
    C-contiguous and aligned, or `written` and read-only.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{type(array).__name__} is no NumPy array")
    if dtype is not None and array.dtype != dtype:
        raise TypeError(f"the array is {array.dtype} and should be {np.dtype(dtype)}")
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise ValueError(f"the array of shape {array.shape} is not C-contiguous and aligned")
    if written and not array.flags.writeable:
        raise ValueError(f"the array of shape {array.shape} is read-only and would be written to")
    return holding(ctypes.c_void_p(array.ctypes.data), array)


def in_stream_order(tensor: Any) -> int:
    """The address of a PyTorch tensor's values, for what is put on PyTorch's current stream at once.

    A number is enough there: PyTorch gives a tensor's memory away again only to what comes later on that stream. Raises
    ValueError for a tensor that is not contiguous.
    """
    if not tensor.is_contiguous():
        raise ValueError(f"the tensor of shape {tuple(tensor.shape)} is not contiguous")
    return int(tensor.data_ptr())


def in_one_storage(first: Any, other: Any) -> bool:
    """Whether two tensors of PyTorch are views of one memory."""
    return bool(first.untyped_storage().data_ptr() == other.untyped_storage().data_ptr())


def table_of(pointers: Iterable[ctypes.c_void_p]) -> ctypes.Array[ctypes.c_void_p]:
    """Addresses as C has them in an array, which holds what they hold."""
    pointers = tuple(pointers)
    return holding((ctypes.c_void_p * len(pointers))(*pointers), pointers)


def holding(address: Any, *memory: Any) -> Any:
    """The ctypes object, which from now on keeps `memory` alive too."""
    address.held = (*getattr(address, "held", ()), *memory)
    return address
