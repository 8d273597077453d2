"""The kernels compiled: once, for what the processor has and the environment leaves, or an error of one line."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from glip_export.errors import BackendError
from glip_export.runtime import native
from glip_export.runtime.native import compiled, instruction_sets
from glip_export.runtime.native.instruction_sets import ONEDNN_VARIABLE, VARIABLE, chosen_flags, what_hides_bf16


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    native.load_kernels.cache_clear()
    yield tmp_path
    native.load_kernels.cache_clear()


def test_without_a_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    with pytest.raises(BackendError, match=r"no C\+\+ compiler was found .*: install g\+\+ or clang\+\+, or name one"):
        native.load_kernels()


def test_a_compiler_that_fails_is_one_line_and_leaves_nothing(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = fresh / "c++"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho 'x.cpp:1: error: no' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(BackendError, match=r"could not compile the CPU kernels: x\.cpp:1: error: no"):
        native.load_kernels()
    assert list((fresh / "glip-export" / "native").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_cache_that_others_may_write_is_not_trusted(fresh: Path) -> None:
    folder = fresh / "glip-export" / "native"
    folder.mkdir(parents=True)
    folder.chmod(folder.stat().st_mode | stat.S_IWOTH)
    with pytest.raises(BackendError, match="need a cache folder that can be written"):
        native.load_kernels()


def test_compiled_once(fresh: Path) -> None:
    try:
        first = native.load_kernels()
    except BackendError as error:
        pytest.skip(str(error))
    (library,) = (fresh / "glip-export" / "native").iterdir()
    written = library.stat().st_mtime_ns
    native.load_kernels.cache_clear()
    assert native.load_kernels().fingerprint == first.fingerprint
    assert library.stat().st_mtime_ns == written


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_library_is_compiled_anew(fresh: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    """The linker would end the process."""
    monkeypatch.setattr(compiled, "SOURCES", ("bf16.cpp",))  # quickly
    monkeypatch.setattr(compiled, "Kernels", lambda path: path)
    try:
        library = compiled.compiled_kernels()
    except BackendError as error:
        pytest.skip(str(error))
    whole = library.read_bytes()
    library.write_bytes(whole[:1000] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert compiled.compiled_kernels() == library and library.read_bytes() == whole
    assert list(library.parent.iterdir()) == [library]


@pytest.fixture
def intel(monkeypatch: pytest.MonkeyPatch) -> None:
    """An x86-64 machine, whose processor has AVX-512 and bf16."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(instruction_sets, "has", lambda wanted: True)
    monkeypatch.delenv(VARIABLE, raising=False)


def test_the_environment_hides_instruction_sets(intel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_flags() == ("-march=native",)
    monkeypatch.setenv(VARIABLE, "avx512")
    assert "-mavx512f" in chosen_flags() and "-mavx512bf16" not in chosen_flags()
    monkeypatch.setenv(VARIABLE, "AVX2")
    assert "-mavx2" in chosen_flags() and not any("512" in flag for flag in chosen_flags())
    monkeypatch.setenv(VARIABLE, "generic")
    assert chosen_flags() == ()
    assert chosen_flags("native") == ("-march=native",)


def test_a_processor_that_has_less_is_used_for_all_it_has(intel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruction_sets, "has", lambda wanted: "avx512f" not in wanted.needs)
    assert chosen_flags("avx512") == ("-march=native",)
    assert "-mavx2" in chosen_flags("avx2")


@pytest.mark.parametrize(
    ("machine", "word", "words"),
    [
        ("x86_64", "avx10", "native, avx512, avx2, generic"),
        ("x86_64", "neon", "native, avx512, avx2, generic"),
        ("aarch64", "avx2", "native, neon, generic"),
        ("riscv64", "neon", "native, generic"),
    ],
)
def test_a_word_that_there_is_not_is_one_line(
    monkeypatch: pytest.MonkeyPatch, machine: str, word: str, words: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setenv(VARIABLE, word)
    with pytest.raises(BackendError, match=rf"^{VARIABLE}={word} is none of what a {machine} processor has: {words}$"):
        chosen_flags()


@pytest.mark.parametrize(
    ("features", "expected"), [({"fma", "avx2", "sse"}, True), ({"avx2", "sse", "fma2"}, False), (None, True)]
)
def test_what_the_processor_has(monkeypatch: pytest.MonkeyPatch, features: set[str] | None, expected: bool) -> None:
    wanted = instruction_sets.InstructionSet((), frozenset({"avx2", "fma"}))
    monkeypatch.setattr(instruction_sets, "cpu_features", lambda: features)
    assert instruction_sets.has(wanted) is expected


@pytest.mark.parametrize(
    ("value", "hides"),
    [("AVX2", True), ("avx512_core", True), ("AVX512_CORE_BF16", False), ("ALL", False), ("", False)],
)
def test_onednns_own_setting_hides_bf16(monkeypatch: pytest.MonkeyPatch, value: str, hides: bool) -> None:
    monkeypatch.setenv(ONEDNN_VARIABLE, value)
    assert what_hides_bf16() == (f"{ONEDNN_VARIABLE}={value}" if hides else "")


def test_other_instruction_sets_are_other_libraries(monkeypatch: pytest.MonkeyPatch, fresh: Path) -> None:
    compiler = fresh / "c++"
    compiler.write_text(
        '#!/bin/sh\n[ $1 = --version ] && exit 0\necho "$@" > flags\necho "x: error: seen" >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.chdir(fresh)
    seen = []
    for word in ("native", "generic"):
        monkeypatch.setenv(VARIABLE, word)
        with pytest.raises(BackendError, match="x: error: seen"):
            native.load_kernels()
        command = (fresh / "flags").read_text().split()
        seen.append((command[-1], "-march=native" in command))
    assert [march for _, march in seen] == [True, False]
    assert seen[0][0].partition(".so")[0] != seen[1][0].partition(".so")[0]
