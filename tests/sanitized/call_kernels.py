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
from glip_export.runtime.native.kernels import PRECISIONS

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


def call_all(kernels: Kernels, threads: int, precision: str) -> None:
    """Every wrapper, of arrays nobody else refers to where that can be."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, F32)

    for height, width, window, shift in ((1, 1, 7, 3), (9, 15, 7, 3), (3, 4, 2, 0)):
        x, channels, hidden = random(2, height, width, 64), 64, 96
        parameters = [random(channels) for _ in range(4)]
        for out, depth in ((3 * channels, channels), (channels, channels), (hidden, channels), (channels, hidden)):
            parameters += kernels.pack_layer((random(out, depth), random(out)), precision)
        parameters.append(random(2, window**2, kernels.padded(window**2)))
        y = np.full_like(x, np.nan)
        kernels.swin_block(x, y, parameters, 2, window, shift, hidden, (1e-5, 1e-5), precision, threads)
        assert np.isfinite(y).all()

        text = random(2, height * width, 64)
        result, mask = np.full_like(text, np.nan), np.zeros((2, 1, 1, height * width), F32)
        limits = (-5e4, 5e4, -5e4, 5e4)
        kernels.bert_layer(text, mask, result, parameters[:-1], 4, hidden, limits, (1e-12, 1e-12), precision, threads)
        assert np.isfinite(result).all()

    channels, sizes = kernels.panel, [(7, 9), (4, 5), (1, 1)]
    levels = [random(1, channels, *size) for size in sizes]
    out = np.full((1, sum(height * width for height, width in sizes), channels), np.nan, F32)
    parameters = _dyconv_parameters(kernels, random, precision)
    kernels.dyconv(levels, [out], sizes, parameters, 4, (1e-5, 1e-5, 1e-5), precision, threads)
    assert np.isfinite(out).all()

    text = random(1, 24, channels), random(1, 24, 1), random(1, 24, channels)
    to_text, to_image = np.full((1, 24, channels), np.nan, F32), np.full((1, 100, channels), np.nan, F32)
    mask = np.ones((1, 1, 1, 3), F32)
    image = random(1, 100, channels)
    for norm in (None, random(4, channels)):
        kernels.bi_attention(image, text, mask, (-5e4, 5e4), to_text, to_image, precision, threads, norm, 1e-5)
        assert np.isfinite(to_text).all() and np.isfinite(to_image).all()


def call_with_freed_sizes(kernels: Kernels) -> None:
    """What `dyconv` once did: the address of a temporary."""

    def address(array: np.ndarray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    rng = np.random.default_rng(0)
    channels = kernels.panel
    feature, out = rng.standard_normal((1, 9, channels), F32), np.empty((1, 9, channels), F32)
    parameters = _dyconv_parameters(kernels, lambda *shape: rng.standard_normal(shape, F32), "fp32")
    function = kernels._library.glip_dyconv
    function.argtypes = None
    tables = [(ctypes.c_void_p * len(arrays))(*map(address, arrays)) for arrays in ([feature], [out], parameters)]
    epsilon = (ctypes.c_float * 3)(1e-5, 1e-5, 1e-5)
    function(address(np.array([1, channels, 4, 1, 0, 0, 3, 3], np.int64)), *tables, epsilon, 0, 1)


def _dyconv_parameters(kernels: Kernels, random, precision: str) -> list[np.ndarray]:
    channels, hidden = kernels.panel, kernels.panel // 4
    convolutions = []
    for _ in range(3):
        convolutions += [kernels.pack_deform_conv(random(channels, channels, 3, 3), precision)]
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
        for precision in PRECISIONS:
            if precision != "fp32" and not getattr(compiled, f"has_{precision}"):
                continue
            for count in (1, 3):
                call_all(compiled, count, precision)
    print("done")
