"""Builds and runs programs of the kernels' sources, with g++'s sanitizers or for another processor."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from glip_export.runtime import native
from glip_export.runtime.native.instruction_sets import chosen_flags, has, instruction_sets

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNEL_CASES = 25  # that kernel_cases.py writes
KERNELS = sorted(Path(native.__file__).parent.glob("*.cpp"))
SHIM = sorted((ROOT / "plugins" / "host_shim").glob("*.cpp"))
KERNEL_FLAGS = ("-pthread", "-ffp-contract=fast", "-fno-math-errno")
SHIM_FLAGS = ("-ffp-contract=off", "-Wno-unknown-pragmas", "-I", str(ROOT / "plugins" / "host_shim"))
ADDRESS = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
THREAD = ("-fsanitize=thread",)
SECONDS = 600  # for one program or build, however busy the machine


def build(target: Path, sources: Sequence[Path], *flags: str, compiler: str = "g++") -> Path:
    """Compiles, with warnings as errors; skips the test where the compiler or its sanitizer is not there."""
    found = shutil.which(compiler)
    if found is None:
        pytest.skip(f"no {compiler} on PATH")
    (target.parent / "empty.cpp").write_text("int main() {}\n")
    common = ["-std=c++17", "-g", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror"]
    sanitizers = [flag for flag in flags if flag.startswith("-fsanitize")]
    probe = [found, *sanitizers, str(target.parent / "empty.cpp"), "-o", str(target.parent / "empty")]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        pytest.skip(f"{compiler} {' '.join(sanitizers)} does not build here: {done.stderr.splitlines()[-1]}")
    command = [found, *common, *flags, *map(str, sources), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs it to its end; a sanitizer ends it at the first fault."""
    options = {
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "halt_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    return subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **options, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
    )


def assert_clean(done: subprocess.CompletedProcess[str]) -> None:
    """It came to its end, and nothing was said of a fault."""
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr[-8000:]


def assert_finds(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """It was ended, with these words."""
    assert done.returncode != 0, done.stdout
    assert all(word in done.stderr for word in words), done.stderr[-8000:]


def flags_of(word: str) -> tuple[str, ...]:
    """The compiler's flags for a set of instructions; skips the test where the processor lacks it."""
    if word not in instruction_sets() or not has(instruction_sets()[word]):
        pytest.skip(f"this processor has no {word}")
    return chosen_flags(word)
