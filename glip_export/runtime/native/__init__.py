"""The CPU kernels of this folder, compiled once for the very machine they run on.

They are worth a compiler: with them GLIP-T's fusion head takes 0.8 s on two cores where OpenVINO's own operators take
1.15 s (800x1216, 11 tokens, fp32).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glip_export.bundle.files import atomic_path, user_cache
from glip_export.errors import BackendError

SOURCES = ("vector.hpp", "product.hpp", "mlp.cpp", "dyconv.cpp", "bi_attention.cpp")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-std=c++17", "-shared", "-fPIC", "-pthread")
COMPILERS = ("c++", "g++", "clang++")
COMPILE_SECONDS = 300
OFFSET_COLUMNS = 32  # kNarrow in dyconv.cpp

Bytes = NDArray[np.uint8]
F32 = NDArray[np.float32]


class Kernels:
    """The compiled library. Arrays are C-contiguous; packed weights fit this machine only."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.glip_panel.restype = ctypes.c_int64
        self.panel = int(self._library.glip_panel())  # what DyConv's channels must be a multiple of
        self.has_bf16 = bool(self._library.glip_has_bf16())
        self.fingerprint = path.stem

    def pack_linear(self, weight: F32, bf16: bool) -> Bytes:
        """A linear layer's weight (out, in), packed; in bf16 with what the rounding cut off."""
        weight = np.ascontiguousarray(weight)
        out, depth = weight.shape
        packed = np.empty(self.padded(depth) * self.padded(out) * 4, np.uint8)
        self._library.glip_linear_pack(
            _pointer(weight),
            ctypes.c_int64(depth),
            ctypes.c_int64(out),
            int(bf16),
            _pointer(packed),
        )
        return packed

    def pad_bias(self, bias: F32) -> F32:
        """A linear layer's bias as `mlp` takes it."""
        return np.pad(bias, (0, self.padded(len(bias)) - len(bias)))

    def padded(self, width: int) -> int:
        """The width that packed weights have for a layer of `width`."""
        return -(-width // self.panel) * self.panel

    def mlp(
        self, x: F32, first: tuple[Bytes, F32], last: tuple[Bytes, F32], out: F32, bf16: bool, threads: int
    ) -> None:
        """out (..., O) = last(gelu(first(x))) of x (..., I); each layer its packed weight and padded bias."""
        sizes = np.array([x.size // x.shape[-1], x.shape[-1], len(first[1]), out.shape[-1]], np.int64)
        arrays: list[NDArray] = [*first, *last, out]
        self._library.glip_mlp(
            _pointer(sizes), _pointer(x), *(_pointer(array) for array in arrays), int(bf16), int(threads)
        )

    def pack_deform_conv(self, weight: F32, bf16: bool) -> Bytes:
        """A deformable convolution's weight (C, C, 3, 3), packed."""
        weight = np.ascontiguousarray(weight)
        packed = np.empty(weight.size * (2 if bf16 else 4), np.uint8)
        self._library.glip_deform_conv_pack(_pointer(weight), ctypes.c_int64(len(weight)), int(bf16), _pointer(packed))
        return packed

    def pack_offset_conv(self, weight: F32, bias: F32) -> tuple[Bytes, F32]:
        """An offset convolution's weight (27, C, 3, 3), packed, and its bias (27,), padded."""
        weight = np.ascontiguousarray(weight)
        packed = np.empty(9 * weight.shape[1] * OFFSET_COLUMNS * 4, np.uint8)
        self._library.glip_offset_conv_pack(_pointer(weight), ctypes.c_int64(weight.shape[1]), _pointer(packed))
        return packed, np.pad(bias, (0, OFFSET_COLUMNS - len(bias)))

    def dyconv(
        self,
        features: list[F32],
        out: list[F32],
        sizes: list[tuple[int, int]],
        parameters: list[NDArray],
        groups: int,
        epsilon: tuple[float, float, float],
        bf16: bool,
        threads: int,
    ) -> None:
        """One DyConv block over levels of (H, W) `sizes`, from `features` to `out`.

        Each of the two is one map (B, C, H, W) a level, or a single array (B, N, C) of all levels' positions.
        parameters: 20 arrays in the order of dyconv.cpp, the four convolutions' weights packed.
        """
        planes = [arrays[0].ndim == 4 for arrays in (features, out)]
        channels = features[0].shape[1 if planes[0] else 2]
        numbers = [len(features[0]), channels, groups, len(sizes), *planes, *(side for size in sizes for side in size)]
        self._library.glip_dyconv(
            _pointer(np.array(numbers, np.int64)),
            _pointers(features),
            _pointers(out),
            _pointers(parameters),
            (ctypes.c_float * 3)(*epsilon),
            int(bf16),
            int(threads),
        )

    def bi_attention(
        self,
        image: F32,
        text: tuple[F32, F32, F32],
        mask: F32,
        limits: tuple[float, float],
        to_text: F32,
        to_image: F32,
        bf16: bool,
        threads: int,
    ) -> None:
        """The image's half of a folded bi-attention: image (B, N, C) and a text of h heads and T tokens.

        text: keys (B, h*T, C), their bias (B, h*T, 1) and values (B, h*T, C). mask (B, 1, 1, T) is added to the scores
        that the image reads by. Gives to_text (B, h*T, C), the means of `image`, and to_image (B, N, C).
        """
        keys, bias, values = text
        heads = keys.shape[1] // mask.shape[-1]
        sizes = np.array([*image.shape, heads, mask.shape[-1]], np.int64)
        arrays: list[NDArray] = [sizes, image, keys, bias, values, mask, to_text, to_image]
        low, high = (ctypes.c_float(limit) for limit in limits)
        self._library.glip_bi_attention(*map(_pointer, arrays), low, high, int(bf16), int(threads))


@lru_cache(maxsize=1)
def load_kernels() -> Kernels:
    """The kernels, compiled if they are not yet in the user's cache.

    Raises BackendError, with what to install, where there is no C++ compiler or nothing can be cached.
    """
    compiler = next(filter(None, map(shutil.which, (*filter(None, [os.environ.get("CXX")]), *COMPILERS))), None)
    if compiler is None:
        raise BackendError("no C++ compiler was found for the CPU kernels: install g++ or clang++, or name one in CXX")
    folder = user_cache("native")
    if folder is None:
        raise BackendError("the CPU kernels need a cache folder that can be written: set XDG_CACHE_HOME")
    here = Path(__file__).parent
    key = hashlib.sha256(f"{_version(compiler)} {FLAGS} {_processor()}".encode())
    for source in SOURCES:
        key.update((here / source).read_bytes())
    library = folder / f"kernels-{key.hexdigest()[:16]}.so"
    if not library.exists():
        with atomic_path(library) as temporary:
            _compile(compiler, [here / source for source in SOURCES if source.endswith(".cpp")], temporary)
    return Kernels(library)


def _compile(compiler: str, sources: list[Path], target: Path) -> None:
    command = [compiler, *FLAGS, *map(str, sources), "-o", str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{compiler} could not compile the CPU kernels: {error}") from error
    if done.returncode:
        line = next((line for line in done.stderr.splitlines() if "error" in line), f"exit code {done.returncode}")
        raise BackendError(f"{compiler} could not compile the CPU kernels: {line}")


def _version(compiler: str) -> str:
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{compiler} does not run: {error}") from error
    return done.stdout


def _processor() -> str:
    """What this machine's processor is and can do: a home folder may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return platform.machine() + "".join(sorted(kept))


def _pointer(array: NDArray) -> ctypes.c_void_p:
    """Of an array that the caller holds until the call is over."""
    return ctypes.c_void_p(array.ctypes.data)


def _pointers(arrays: Sequence[NDArray]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
