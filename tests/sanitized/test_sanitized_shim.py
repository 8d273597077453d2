"""The CUDA kernels on the host shim with AddressSanitizer and UndefinedBehaviorSanitizer, which find what is planted.

Not with ThreadSanitizer: the shim's fibers are all on one thread.
"""

from __future__ import annotations

from pathlib import Path

import host_kernels
import pytest
from host_cases import write_host_cases
from programs import ADDRESS, HERE, SHIM, SHIM_FLAGS, assert_clean, assert_finds, build, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shim")


@pytest.fixture(scope="module")
def cases(folder: Path) -> Path:
    if host_kernels.compiler() is None:
        pytest.skip("no C++ compiler: install g++, or name one in CXX")
    host_kernels.build(folder / "plain.so")
    write_host_cases(folder / "cases", folder / "plain.so")
    return folder / "cases"


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    return build(folder / "host_cases", [HERE / "host_cases.cpp", *SHIM], "-O1", *SHIM_FLAGS, *ADDRESS)


def test_no_fault_in_any_launch(program: Path, cases: Path) -> None:
    done = run(program, cases)
    assert_clean(done)
    assert done.stdout == "157 launches: 0 wrong\n"


@pytest.mark.parametrize(("fault", "words"), [("freed", "heap-use-after-free"), ("short", "heap-buffer-overflow")])
def test_a_planted_fault_is_found(program: Path, cases: Path, fault: str, words: str) -> None:
    assert_finds(run(program, cases, fault), words, "deform_im2col.cuh")
