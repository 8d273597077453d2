"""Calls the CPU kernels from Python, in a process of a sanitizer's own.

python call_kernels.py KERNELS.so UNCACHED.so [freed]; `freed` passes C the address of an array that is gone, as the
fault that this looks for did.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np

from glip_export.runtime.native import Kernels

F32 = np.float32
HANDLER = 304  # PyDataMem_SetHandler's place in NumPy's C API


def take_memory_from_malloc(library: str) -> None:
    """This thread's arrays are malloc's from now on, small ones too."""
    api = ctypes.pythonapi
    pointer_of, capsule = api.PyCapsule_GetPointer, api.PyCapsule_New
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p,) * 3
    table = pointer_of(np._core._multiarray_umath._ARRAY_API, None)  # type: ignore[attr-defined]
    address = ctypes.c_void_p.from_address(table + HANDLER * ctypes.sizeof(ctypes.c_void_p)).value
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(address)
    loaded = ctypes.CDLL(library)
    handler, name = (ctypes.addressof(ctypes.c_char.in_dll(loaded, word)) for word in ("uncached", "capsule_name"))
    set_handler(capsule(handler, name, None))
    assert np._core.multiarray.get_handler_name(np.zeros(1)) == "uncached"  # type: ignore[attr-defined]


def call_all(kernels: Kernels, threads: int, bf16: bool) -> None:
    """Every wrapper, of arrays that nobody else refers to where that can be."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, F32)

    for rows, width, hidden in ((1, 1, 1), (97, 17, 33)):
        layers = [
            (kernels.pack_linear(random(out, into), bf16), kernels.pad_bias(random(out)))
            for into, out in ((width, hidden), (hidden, width))
        ]
        out = np.full((rows, width), np.nan, F32)
        kernels.mlp(random(rows, width), layers[0], layers[1], out, bf16, threads)
        assert np.isfinite(out).all()

    channels, sizes = kernels.panel, [(7, 9), (4, 5), (1, 1)]
    levels = [random(1, channels, *size) for size in sizes]
    out = np.full((1, sum(height * width for height, width in sizes), channels), np.nan, F32)
    kernels.dyconv(
        levels, [out], sizes, _dyconv_parameters(kernels, random, bf16), 4, (1e-5, 1e-5, 1e-5), bf16, threads
    )
    assert np.isfinite(out).all()

    text = random(1, 24, channels), random(1, 24, 1), random(1, 24, channels)
    to_text, to_image = np.full((1, 24, channels), np.nan, F32), np.full((1, 100, channels), np.nan, F32)
    mask = np.ones((1, 1, 1, 3), F32)
    kernels.bi_attention(random(1, 100, channels), text, mask, (-5e4, 5e4), to_text, to_image, bf16, threads)
    assert np.isfinite(to_text).all() and np.isfinite(to_image).all()


def call_with_freed_sizes(kernels: Kernels) -> None:
    """What `dyconv` once did: the address of a temporary."""

    def address(array: np.ndarray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    rng = np.random.default_rng(0)
    channels = kernels.panel
    feature, out = rng.standard_normal((1, 9, channels), F32), np.empty((1, 9, channels), F32)
    parameters = _dyconv_parameters(kernels, lambda *shape: rng.standard_normal(shape, F32), False)
    function = kernels._library.glip_dyconv
    function.argtypes = None
    tables = [(ctypes.c_void_p * len(arrays))(*map(address, arrays)) for arrays in ([feature], [out], parameters)]
    epsilon = (ctypes.c_float * 3)(1e-5, 1e-5, 1e-5)
    function(address(np.array([1, channels, 4, 1, 0, 0, 3, 3], np.int64)), *tables, epsilon, 0, 1)


def _dyconv_parameters(kernels: Kernels, random, bf16: bool) -> list[np.ndarray]:
    channels, hidden = kernels.panel, kernels.panel // 4
    convolutions = []
    for _ in range(3):
        convolutions += [kernels.pack_deform_conv(random(channels, channels, 3, 3), bf16)]
        convolutions += [random(channels) for _ in range(3)]
    counts = (channels, 1, hidden * channels, hidden, 4 * channels * hidden, 4 * channels)
    offset = kernels.pack_offset_conv(random(27, channels, 3, 3), random(27))
    return [*convolutions, *(random(count) for count in counts), *offset]


if __name__ == "__main__":
    take_memory_from_malloc(sys.argv[2])
    compiled = Kernels(Path(sys.argv[1]))
    if sys.argv[3:] == ["freed"]:
        call_with_freed_sizes(compiled)
    else:
        for precision in (False, True)[: 1 + compiled.has_bf16]:
            for count in (1, 3):
                call_all(compiled, count, precision)
    print("done")
