"""Hashes that are remembered: which files are not hashed again, and that a changed one always is."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from glip_export.bundle import hashes
from glip_export.bundle.files import sha256_file
from glip_export.bundle.hashes import hash_files, remembered_hashes

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no ctime: every file is hashed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files, large and old enough to be remembered, and a small one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "LEAST_BYTES", 1000)
    monkeypatch.setattr(hashes, "SETTLED_NS", 0)
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name, data in (("a", b"a" * 1000), ("b", b"b" * 2000), ("small", b"s")):
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are really read."""
    names: list[str] = []

    def note(path: Path) -> str:
        names.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(hashes, "sha256_file", note)
    return names


NAMES = ("a", "b", "small")
TICK = 0.05  # seconds: longer than a kernel's clock stands still


def test_a_large_file_is_hashed_once_and_a_small_one_each_time(folder: Path, hashed: list[str]) -> None:
    first = remembered_hashes(folder, NAMES)
    assert sorted(hashed) == ["a", "b", "small"]
    hashed.clear()
    assert remembered_hashes(folder, NAMES) == first == {name: sha256_file(folder / name) for name in NAMES}
    assert hashed == ["small"]
    hashed.clear()
    assert hash_files(folder, NAMES) == first  # which looks at nothing that is remembered
    assert sorted(hashed) == ["a", "b", "small"]


def write_in_place(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"x")


def keep_the_time_of_writing(path: Path) -> None:
    before = path.stat()
    write_in_place(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"x" * before.st_size)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [write_in_place, keep_the_time_of_writing, replace])
def test_a_changed_file_is_hashed_again(folder: Path, change: Callable[[Path], None], hashed: list[str]) -> None:
    first = remembered_hashes(folder, NAMES)
    hashed.clear()
    time.sleep(TICK)
    change(folder / "a")
    second = remembered_hashes(folder, NAMES)
    assert sorted(hashed) == ["a", "small"]
    assert second["a"] == sha256_file(folder / "a") != first["a"]
    assert second["b"] == first["b"]


def test_a_file_that_changed_a_moment_ago_is_not_remembered(
    folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "SETTLED_NS", 3600 * 10**9)
    for _ in range(2):
        remembered_hashes(folder, NAMES)
    assert sorted(hashed) == ["a", "a", "b", "b", "small", "small"]


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_and_change(path: Path) -> str:
        digest = sha256_file(path)
        if path.name == "a":
            path.write_bytes(b"c" * 1000)
        return digest

    with monkeypatch.context() as patched:
        patched.setattr(hashes, "sha256_file", hash_and_change)
        remembered_hashes(folder, NAMES)
    assert remembered_hashes(folder, NAMES)["a"] == sha256_file(folder / "a")


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "{", "[" * 100_000])
def test_a_record_that_is_damaged_counts_for_nothing(folder: Path, text: str, hashed: list[str]) -> None:
    first = remembered_hashes(folder, NAMES)
    (record,) = Path(os.environ["XDG_CACHE_HOME"], "glip-export", "hashes").iterdir()
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert len(json.loads(record.read_text())) == 2
    record.write_text(text)
    hashed.clear()
    assert remembered_hashes(folder, NAMES) == first
    assert sorted(hashed) == ["a", "b", "small"]


def test_a_cache_that_others_may_write_to_is_not_believed(folder: Path, hashed: list[str]) -> None:
    remembered_hashes(folder, NAMES)
    Path(os.environ["XDG_CACHE_HOME"], "glip-export", "hashes").chmod(0o777)
    hashed.clear()
    remembered_hashes(folder, NAMES)
    assert sorted(hashed) == ["a", "b", "small"]


def test_the_same_files_elsewhere_are_hashed_and_old_records_go(
    folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "MOST_FOLDERS", 1)
    remembered_hashes(folder, NAMES)
    moved = folder.rename(folder.with_name("moved"))
    hashed.clear()
    remembered_hashes(moved, NAMES)
    assert sorted(hashed) == ["a", "b", "small"]
    assert len(list(Path(os.environ["XDG_CACHE_HOME"], "glip-export", "hashes").iterdir())) == 1
