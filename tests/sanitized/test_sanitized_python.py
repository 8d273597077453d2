"""What Python hands to the CPU kernels, with AddressSanitizer: it finds an array that was freed before C read it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ADDRESS, HERE, KERNEL_FLAGS, KERNELS, assert_clean, assert_finds, build, flags_of, run

SHARED = ("-shared", "-fPIC")


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The kernels, and memory for NumPy's arrays that the sanitizer knows of."""
    folder = tmp_path_factory.mktemp("python")
    kernels = build(folder / "kernels.so", KERNELS, "-O1", *KERNEL_FLAGS, *flags_of("native"), *ADDRESS, *SHARED)
    compiler = shutil.which("gcc") or pytest.skip("no gcc on PATH")
    memory = folder / "uncached.so"
    source = HERE / "uncached_arrays.c"
    subprocess.run([compiler, "-Wall", "-Wextra", "-Werror", *SHARED, str(source), "-o", str(memory)], check=True)
    return [kernels, memory]


def call(libraries: list[Path], *words: str) -> subprocess.CompletedProcess[str]:
    found = run("g++", "-print-file-name=libasan.so").stdout.strip()
    program = HERE / "call_kernels.py"
    return run(sys.executable, program, *libraries, *words, LD_PRELOAD=found, PYTHONMALLOC="malloc")


def test_every_array_is_there_while_c_reads_it(libraries: list[Path]) -> None:
    done = call(libraries)
    assert_clean(done)
    assert done.stdout == "done\n"


def test_threads_crash_a_planted_use_after_free_is_found(libraries: list[Path]) -> None:
    """The very fault: the sizes' array was freed when `dyconv` read them."""
    assert_finds(call(libraries, "freed"), "heap-use-after-free", "run_batch")
