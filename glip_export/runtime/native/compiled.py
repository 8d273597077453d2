"""Compiles the kernels once for the very machine they run on, and keeps them in the user's cache."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from glip_export.bundle.files import sha256_file, user_cache
from glip_export.errors import BackendError
from glip_export.runtime.native.instruction_sets import chosen_flags
from glip_export.runtime.native.kernels import Kernels

SOURCES = (
    *(
        "vector.hpp",
        "product.hpp",
        "integers.hpp",
        "linear.hpp",
        "layer_norm.hpp",
        "team.hpp",
        "window_attention.hpp",
        "window_attention_int16.hpp",
        "deform_samples.hpp",
        "deform_conv.hpp",
        "offset_conv.hpp",
        "dyconv_level.hpp",
        "bi_attention.hpp",
        "bi_attention_whole.hpp",
        "bi_attention_softmax.hpp",
    ),
    *("bf16.cpp", "patch_embed.cpp", "swin_block.cpp", "bert_layer.cpp", "dyconv.cpp"),
    *("bi_attention.cpp", "bi_attention_whole.cpp"),
)
FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-std=c++17", "-shared", "-fPIC", "-pthread")
COMPILERS = ("c++", "g++", "clang++")
COMPILE_SECONDS = 300


@lru_cache(maxsize=1)
def load_kernels() -> Kernels:
    """The kernels for the instruction sets that the environment leaves, which is read once.

    Raises BackendError as `compiled_kernels` does.
    """
    return compiled_kernels()


def compiled_kernels(instruction_set: str | None = None) -> Kernels:
    """The kernels for a word of `instruction_sets`, by default the environment's; compiled if not in the user's cache.

    Raises BackendError, with what to install, where there is no C++ compiler or nothing can be cached, and for a word
    that there is not.
    """
    flags = (*FLAGS, *chosen_flags(instruction_set))
    compiler = next(filter(None, map(shutil.which, (*filter(None, [os.environ.get("CXX")]), *COMPILERS))), None)
    if compiler is None:
        raise BackendError("no C++ compiler was found for the CPU kernels: install g++ or clang++, or name one in CXX")
    folder = user_cache("native")
    if folder is None:
        raise BackendError("the CPU kernels need a cache folder that can be written: set XDG_CACHE_HOME")
    here = Path(__file__).parent
    key = hashlib.sha256(f"{_version(compiler)} {flags} {_processor()}".encode())
    for source in SOURCES:
        key.update((here / source).read_bytes())
    name = f"kernels-{key.hexdigest()[:16]}"
    for library in folder.glob(f"{name}-*.so"):
        if library.stem == f"{name}-{sha256_file(library)[:16]}":
            return Kernels(library)
        library.unlink(missing_ok=True)  # cut or changed: the linker would end this process
    with TemporaryDirectory(prefix=f"{name}.", dir=folder) as temporary:
        made = Path(temporary, "kernels.so")
        _compile(compiler, flags, [here / source for source in SOURCES if source.endswith(".cpp")], made)
        library = folder / f"{name}-{sha256_file(made)[:16]}.so"
        made.replace(library)
    return Kernels(library)


def _compile(compiler: str, flags: tuple[str, ...], sources: list[Path], target: Path) -> None:
    command = [compiler, *flags, *map(str, sources), "-o", str(target)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMPILE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{compiler} could not compile the CPU kernels: {error}") from error
    if done.returncode:
        line = next((line for line in done.stderr.splitlines() if "error" in line), f"exit code {done.returncode}")
        raise BackendError(f"{compiler} could not compile the CPU kernels: {line}")


def _version(compiler: str) -> str:
    try:
        done = subprocess.run(
            [compiler, "--version"],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{compiler} does not run: {error}") from error
    return done.stdout


def _processor() -> str:
    """What this machine's processor is and can do: a home folder may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return platform.machine() + "".join(sorted(kept))
