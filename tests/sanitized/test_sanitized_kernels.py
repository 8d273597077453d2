"""The CPU kernels' edge cases with AddressSanitizer and UndefinedBehaviorSanitizer, which find what is planted."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import (
    ADDRESS,
    HERE,
    KERNEL_CASES,
    KERNEL_FLAGS,
    KERNELS,
    assert_clean,
    assert_finds,
    build,
    flags_of,
    run,
)


@pytest.fixture(scope="module", params=["native", "avx2"])  # the widest vectors, and half of them
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("kernels") / "kernel_cases"
    sources = [HERE / "kernel_cases.cpp", *KERNELS]
    return build(target, sources, "-O1", *KERNEL_FLAGS, *flags_of(request.param), *ADDRESS)


def test_no_fault_in_any_case(program: Path, kernel_cases: Path) -> None:
    done = run(program, kernel_cases)
    assert_clean(done)
    assert done.stdout.startswith(f"{KERNEL_CASES} cases") and done.stdout.endswith(": 0 wrong\n")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("freed", ("heap-use-after-free", "run_batch")),
        ("short", ("heap-buffer-overflow", "find_norm")),
        ("misaligned", ("load of misaligned address", "weigh_terms")),
    ],
)
def test_threads_crash_a_planted_fault_is_found(
    program: Path, kernel_cases: Path, fault: str, words: tuple[str, ...]
) -> None:
    assert_finds(run(program, kernel_cases, fault), *words)
