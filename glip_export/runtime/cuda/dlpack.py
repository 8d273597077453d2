"""DLPack capsules made and read with ctypes, of version 0, which all libraries still give.

https://dmlc.github.io/dlpack/latest/
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from glip_export.errors import BackendError

CUDA, CUDA_HOST, CUDA_MANAGED = 2, 3, 13  # kDLCUDA, kDLCUDAHost, kDLCUDAManaged
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}  # DLDataTypeCode -> NumPy's kind
_CODES = {kind: code for code, kind in _KINDS.items()}
_NAME, _USED = b"dltensor", b"used_dltensor"


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("number", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # in elements; null: C-contiguous
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_api = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(("PyCapsule_New", _api))
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _api))
_is_valid_raw = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer_raw = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))


@dataclass(frozen=True)
class Tensor:
    """Memory that a capsule lends until `release` is called."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...] | None  # in elements; None: C-contiguous
    release: Callable[[], None]


def read_capsule(capsule: Any) -> Tensor:
    """Takes the capsule over: its owner is told by `release`, and by nothing else.

    Raises BackendError for an element type that NumPy lacks (bfloat16).
    """
    if not _is_valid(capsule, _NAME):
        raise BackendError("a DLPack capsule was given that somebody has taken, or that is of a newer DLPack")
    managed = ctypes.cast(_pointer_of(capsule, _NAME), ctypes.POINTER(_Managed))
    tensor = managed.contents.tensor
    kind, bits = _KINDS.get(tensor.dtype.code), tensor.dtype.bits
    if kind is None or tensor.dtype.lanes != 1:
        raise BackendError(f"a DLPack tensor of type {tensor.dtype.code} with {bits} bits: give float32 or int64")
    _rename(capsule, _USED)

    def release() -> None:
        if managed.contents.deleter:
            managed.contents.deleter(managed)

    return Tensor(
        pointer=(tensor.data or 0) + tensor.byte_offset,
        shape=tuple(tensor.shape[: tensor.ndim]),
        dtype=np.dtype(f"{kind}{bits // 8}"),
        strides=tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None,
        release=release,
    )


def make_capsule(owner: Any, pointer: int, shape: tuple[int, ...], dtype: np.dtype, device: tuple[int, int]) -> Any:
    """A capsule of C-contiguous memory that `owner` keeps; `owner` lives until the taker lets go."""
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    steps = (ctypes.c_int64 * len(shape))(*(prod(shape[axis + 1 :]) for axis in range(len(shape))))
    kind = _DataType(_CODES[dtype.kind], dtype.itemsize * 8, 1)
    tensor = _Tensor(pointer, _Device(*device), len(shape), kind, sizes, steps, 0)
    managed = _Managed(tensor, None, _delete)
    address = ctypes.addressof(managed)
    _lent[address] = (managed, sizes, steps, owner)
    return _new(address, _NAME, _destroy)


_lent: dict[int, tuple[Any, ...]] = {}  # what C holds only the address of


@_Deleter
def _delete(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


@_Destructor
def _destroy(capsule: int) -> None:
    # A capsule that nobody took; a taken one is renamed, and its taker calls the deleter.
    if _is_valid_raw(capsule, _NAME):
        _lent.pop(_pointer_raw(capsule, _NAME), None)


for _kept in (_NAME, _USED, _delete, _destroy):  # capsules have their addresses, and may outlive this module
    _api.Py_IncRef(ctypes.py_object(_kept))
