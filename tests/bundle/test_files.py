"""Atomic files and folders: whole or not there, also when the writer is killed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glip_export.bundle.files import (
    MANIFEST,
    atomic_directory,
    atomic_path,
    atomic_write_bytes,
    atomic_write_text,
    is_leftover,
    sha256_file,
)
from glip_export.errors import BundleError, GlipExportError

MANIFEST_TEXT = json.dumps({"format": 1, "graphs": {}, "files": {}})
DEAD_PID = 2**22 + 1  # above Linux's largest process id


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_path_replaces_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.json"
    atomic_write_text(target, "old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == target.parent and temporary.suffix == ".json" and is_leftover(temporary.name)
    assert target.read_text() == "new"
    assert names(target.parent) == ["report.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_atomic_path_leaves_nothing_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    atomic_write_bytes(tmp_path / "kept", b"\x00\xff")
    for name in ("kept", "never"):
        with pytest.raises(error), atomic_path(tmp_path / name) as temporary:
            temporary.write_text("half")
            raise error
    assert names(tmp_path) == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"\x00\xff"


def test_atomic_path_follows_a_link_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    atomic_write_text(tmp_path / "link", "é")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"\xc3\xa9"


@pytest.mark.parametrize("stem", ["a" * 250, "\u00e9" * 125])
def test_atomic_path_has_room_for_the_longest_name(tmp_path: Path, stem: str) -> None:
    """A name that the file system takes, to its last byte, is not too long for the temporary one."""
    old = tmp_path / f"{stem}.json"
    with pytest.raises(KeyboardInterrupt), atomic_path(old) as temporary:
        left = temporary.name.replace(f"-{os.getpid()}-", f"-{DEAD_PID}-")
        assert is_leftover(left)
        raise KeyboardInterrupt
    (tmp_path / left).touch()
    atomic_write_text(old, "whole")
    assert names(tmp_path) == [old.name]  # and a killed writer's leftover is known by it
    with atomic_directory(tmp_path / stem) as folder:
        (folder / MANIFEST).write_text(MANIFEST_TEXT)
    assert names(tmp_path) == sorted([old.name, stem])


def test_atomic_path_refuses_a_folder_and_a_file_as_parent(tmp_path: Path) -> None:
    with pytest.raises(GlipExportError, match="is a folder: name a file"):
        atomic_write_text(tmp_path, "")
    (tmp_path / "file").touch()
    with pytest.raises(GlipExportError, match=r"cannot write .*file/report\.json: "):
        atomic_write_text(tmp_path / "file" / "report.json", "")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no /dev/stdout")
def test_atomic_path_writes_a_pipe_directly() -> None:
    code = "from glip_export.bundle.files import atomic_write_text; atomic_write_text('/dev/stdout', 'to the pipe')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "to the pipe"


def test_atomic_directory_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "engines" / "glip_tiny"
    with atomic_directory(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("1")
        assert folder.name.startswith(".glip_tiny.partial-") and not target.exists()
    assert (target / "sub" / "file").read_text() == "1"
    assert names(target.parent) == ["glip_tiny"]
    assert target.stat().st_mode & 0o777 == (0o777 & ~current_umask())


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_directory_leaves_nothing_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_directory(tmp_path / "glip_tiny") as folder:
        (folder / "file").touch()
        raise error
    assert names(tmp_path) == []


def test_atomic_directory_replaces_an_empty_folder_and_a_bundle(tmp_path: Path) -> None:
    target = tmp_path / "glip_tiny"
    target.mkdir()
    for text in ("first", "second"):
        with atomic_directory(target) as folder:
            (folder / "manifest.json").write_text(json.dumps({"format": 1, "graphs": {}, "files": {text: {}}}))
            (folder / text).touch()
        assert names(target) == sorted([text, "manifest.json"])
    assert names(tmp_path) == ["glip_tiny"]


@pytest.mark.parametrize("mine", ["found.json", "detections/photo.jpg", "tensorrt-fp16/note.txt"])
def test_atomic_directory_never_loses_a_file_beside_a_bundle(tmp_path: Path, mine: str) -> None:
    """As overwrites_input: what somebody put into a bundle's folder is no part of the bundle that is replaced."""
    target = tmp_path / "glip_tiny"
    with atomic_directory(target) as folder:
        (folder / MANIFEST).write_text(MANIFEST_TEXT)
    (target / mine).parent.mkdir(exist_ok=True)
    (target / mine).write_text("mine")
    told = pytest.raises(BundleError, match=f"is not replaced, since {mine} in it is not of the bundle: move it")
    with told, atomic_directory(target):
        pytest.fail("the long work began although its result could not be kept")
    assert (target / mine).read_text() == "mine"
    (target / mine).unlink()
    (target / "cache" / "openvino").mkdir(parents=True)
    for name in ("cache/openvino/a.blob", ".DS_Store", f".x.partial-{DEAD_PID}-0123abcd"):
        (target / name).touch()
    with atomic_directory(target) as folder:
        (folder / MANIFEST).write_text(MANIFEST_TEXT)
    assert names(target) == [MANIFEST]


def test_atomic_directory_keeps_the_old_bundle_after_an_error(tmp_path: Path) -> None:
    target = tmp_path / "glip_tiny"
    with atomic_directory(target) as folder:
        (folder / "manifest.json").write_text(MANIFEST_TEXT)
    with pytest.raises(ValueError), atomic_directory(target) as folder:
        raise ValueError
    assert (target / "manifest.json").read_text() == MANIFEST_TEXT
    assert names(tmp_path) == ["glip_tiny"]


@pytest.mark.parametrize("manifest", [None, "{}", "not JSON", '{"manifest_version": 3, "name": "an extension"}'])
def test_atomic_directory_never_replaces_another_folder(tmp_path: Path, manifest: str | None) -> None:
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "thesis.tex").write_text("ten years")
    if manifest is not None:
        (target / "manifest.json").write_text(manifest)
    with pytest.raises(BundleError, match="is not a bundle, so it is not replaced"), atomic_directory(target):
        pytest.fail("the long work began although its result could not be kept")
    assert (target / "thesis.tex").read_text() == "ten years"
    assert names(tmp_path) == ["thesis"]


def test_atomic_directory_sees_files_that_came_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "glip_tiny"
    with pytest.raises(BundleError, match="is not replaced"), atomic_directory(target):
        target.mkdir()
        (target / "mine").touch()
    assert names(tmp_path) == ["glip_tiny"] and names(target) == ["mine"]


def test_atomic_directory_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="is a file: name a folder"), atomic_directory(tmp_path / "file"):
        pass


def test_two_writers_of_one_target_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "glip_tiny"
    with atomic_directory(target) as first:
        (first / "manifest.json").write_text(MANIFEST_TEXT)
        with atomic_directory(target) as second:
            assert first.is_dir() and first != second
            (second / "manifest.json").write_text(MANIFEST_TEXT)
    assert names(tmp_path) == ["glip_tiny"]


WRITE_AND_HANG = """
import sys, time
from glip_export.bundle.files import atomic_directory
with atomic_directory(sys.argv[1]) as folder:
    (folder / "manifest.json").write_text('{"format": 1, "graphs": {}, "files": {}}')
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a killed process's folder until it is deleted by hand")
def test_a_killed_writer_leaves_no_target_and_its_leftover_goes(tmp_path: Path) -> None:
    target = tmp_path / "glip_tiny"
    child = subprocess.Popen([sys.executable, "-c", WRITE_AND_HANG, str(target)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        leftover = Path(child.stdout.readline().strip())
        assert leftover.is_dir()
        with atomic_directory(target):
            assert leftover.is_dir()  # its writer is alive
        target.rmdir()
    finally:
        child.kill()
        child.wait()
    assert names(tmp_path) == [leftover.name] and is_leftover(leftover.name)
    with atomic_directory(target):
        assert not leftover.exists()
    assert names(tmp_path) == ["glip_tiny"]


def test_leftovers_of_dead_processes_go_and_others_stay(tmp_path: Path) -> None:
    dead = [f".glip_tiny.partial-{DEAD_PID}-0123abcd", f".glip_tiny.partial-{os.getpid()}-0123abcd"]
    kept = [
        f".glip_tiny.partial-{os.getppid()}-0123abcd",  # its process runs
        f".glip_large.partial-{DEAD_PID}-0123abcd",  # of another target
        ".glip_tiny.partial-notes",  # somebody's own
    ]
    for name in dead + kept:
        (tmp_path / name).mkdir()
    with atomic_directory(tmp_path / "glip_tiny"):
        pass
    assert names(tmp_path) == sorted([*kept, "glip_tiny"])
    (tmp_path / f".a.partial-{DEAD_PID}-0123abcd.json").touch()
    atomic_write_text(tmp_path / "a.json", "{}")
    assert names(tmp_path) == sorted([*kept, "a.json", "glip_tiny"])


def test_a_bundle_set_aside_by_a_killed_swap_comes_back(tmp_path: Path) -> None:
    aside = tmp_path / f".glip_tiny.old-{DEAD_PID}-0123abcd"
    aside.mkdir()
    (aside / "manifest.json").write_text(MANIFEST_TEXT)
    with pytest.raises(ValueError), atomic_directory(tmp_path / "glip_tiny"):
        raise ValueError
    assert names(tmp_path) == ["glip_tiny"]
    assert (tmp_path / "glip_tiny" / "manifest.json").read_text() == MANIFEST_TEXT


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_sha256_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()
