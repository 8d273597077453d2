"""The CPU kernels on another architecture: built for AArch64, whose vectors are NEON's, and run under emulation."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest
from programs import HERE, KERNEL_CASES, KERNEL_FLAGS, KERNELS, assert_clean, build, run

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def test_every_case_is_right_with_neon(tmp_path: Path, kernel_cases: Path) -> None:
    if platform.machine() == "aarch64":
        pytest.skip("this machine is an AArch64 one: its kernels are tested as they are")
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"no {EMULATOR} on PATH: install qemu-user and g++-aarch64-linux-gnu")
    sources = [HERE / "kernel_cases.cpp", *KERNELS]
    program = build(tmp_path / "neon", sources, "-O2", "-static", "-march=armv8-a", *KERNEL_FLAGS, compiler=COMPILER)
    done = run(EMULATOR, program, kernel_cases)
    assert_clean(done)
    assert done.stdout == f"{KERNEL_CASES} cases, panel 16, in fp32: 0 wrong\n"
