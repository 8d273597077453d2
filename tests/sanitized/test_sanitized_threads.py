"""The CPU kernels' own threads, and calls at once, with ThreadSanitizer, which finds what is planted."""

from __future__ import annotations

import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from programs import HERE, KERNEL_CASES, KERNEL_FLAGS, KERNELS, THREAD, assert_clean, assert_finds, build, flags_of, run


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("threads") / "kernel_cases"
    return build(target, [HERE / "kernel_cases.cpp", *KERNELS], "-O1", *KERNEL_FLAGS, *flags_of("native"), *THREAD)


def run_checked(*command: str | Path) -> CompletedProcess[str]:
    """Of g++ 12 the sanitizer does not know the places that newer kernels give a program at random."""
    done = run(*command)
    if "unexpected memory mapping" in done.stderr:
        if shutil.which("setarch") is None or run("setarch", "-R", "true").returncode:
            pytest.skip("this kernel's addresses are not for ThreadSanitizer, and setarch -R may not change them")
        done = run("setarch", "-R", *command)
    return done


def test_no_race_in_any_case(program: Path, kernel_cases: Path) -> None:
    done = run_checked(program, kernel_cases)
    assert_clean(done)
    assert done.stdout.startswith(f"{KERNEL_CASES} cases") and done.stdout.endswith(": 0 wrong\n")


def test_a_planted_race_is_found(program: Path, kernel_cases: Path) -> None:
    assert_finds(run_checked(program, kernel_cases, "race"), "ThreadSanitizer: data race", "attend")
