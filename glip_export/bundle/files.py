"""Files and folders that are either whole or not there, whatever stops the process that writes them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glip_export.errors import BundleError, GlipExportError

MANIFEST = "manifest.json"  # the file that makes a folder a bundle
CACHE = "cache"  # its subfolder of what backends make anew at will: not part of the bundle, not hashed
_READ_BYTES = 1 << 20
_LEFTOVER = re.compile(r"\..+\.(?:partial|old)-\d+-[0-9a-f]{8}")
# What only writing meets: a full disk or quota, a file beyond a limit, a medium that became read-only.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_OF_FILE_MANAGERS = {".DS_Store", "Thumbs.db", "desktop.ini"}
_LONGEST_NAME = 255  # bytes, of most file systems
_TEMPORARY_ADDS = 40  # ".", ".partial-", a process id, "-", 8 digits; and room
_in_progress: set[str] = set()  # names this process is writing: a pid alone does not tell them from leftovers


@contextmanager
def atomic_path(target: Path | str, lasting: bool = True) -> Iterator[Path]:
    """A temporary sibling of `target` to write to, which takes its place when the block ends well, else disappears.

    It has `target`'s suffix, for writers that go by it. A device or pipe (/dev/stdout) is written directly. lasting:
    the disk holds it when the block has ended, and leftovers of killed processes are removed; for thousands of files
    that can be made again both take longer than the writing. Raises GlipExportError where `target` cannot be written,
    in the block too: a disk may be full only then.
    """
    target = Path(target)
    with _writable(target, GlipExportError):
        is_device = target.exists() and not target.is_file() and not target.is_dir()
    if is_device:
        with _writable(target, GlipExportError, target):
            yield target
        return
    target = target.resolve()  # through a link, to replace the file and not the link
    if target.is_dir():
        raise GlipExportError(f"{target} is a folder: name a file")
    with _writable(target, GlipExportError):
        target.parent.mkdir(parents=True, exist_ok=True)
        if lasting:
            _remove_leftovers(target.parent, target.stem, target.suffix)
        temporary = _temporary(target.parent, target.stem, "partial", target.suffix)
        temporary.touch()
    _in_progress.add(temporary.name)
    try:
        with _writable(target, GlipExportError, temporary):
            yield temporary
        with _writable(target, GlipExportError):
            if lasting:
                _sync(temporary)
            os.replace(temporary, target)
            if lasting:
                _sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        _in_progress.discard(temporary.name)


@contextmanager
def atomic_text(target: Path | str) -> Iterator[Callable[[str], None]]:
    """Writes to `target`, as UTF-8, the texts that the given function is called with: whole or not at all.

    Raises GlipExportError where `target` cannot be written, or not to its end.
    """
    with atomic_path(target) as temporary:
        with _writable(Path(target), GlipExportError):
            # replace: of a file's name that is not UTF-8 there is no more to show.
            file = temporary.open("w", encoding="utf-8", errors="replace", newline="\n")

        def write(text: str) -> None:
            with _writable(Path(target), GlipExportError):
                file.write(text)

        try:
            yield write
            with _writable(Path(target), GlipExportError):
                file.close()
        finally:
            with suppress(OSError):  # told above, unless something else went wrong before
                file.close()


def remove_link(target: Path) -> None:
    """Removes `target` if it is a symbolic link: what is written then is a file here, and not the one it leads to.

    For files that are ours alone; atomic writes replace the file that a link leads to. Raises GlipExportError.
    """
    with _writable(target, GlipExportError):
        if target.is_symlink():
            target.unlink()


def atomic_write_bytes(target: Path | str, data: bytes) -> None:
    """Write `data` to `target`, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(target: Path | str, text: str) -> None:
    """Write `text` to `target` as UTF-8, whole or not at all."""
    atomic_write_bytes(target, text.encode("utf-8"))


@contextmanager
def atomic_directory(
    target: Path | str, replaceable: Callable[[Path], None] | None = None, lasting: bool = True
) -> Iterator[Path]:
    """A temporary sibling folder to fill, which becomes `target` when the block ends well, else disappears.

    An existing `target` is replaced only if it is empty, or a bundle that holds no file of others: any other raises
    BundleError, before the block runs, as does what cannot be written, in the block too. What a killed process left
    of the same target goes at the next start. replaceable: raises in its own words what may not be replaced, for
    folders that are no bundles. lasting: as of `atomic_path`; a million files are not waited for.
    """
    target = Path(target).resolve()
    check = replaceable or _check_replaceable
    check(target)
    with _writable(target, BundleError):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target.parent, target.name)
        temporary = _temporary(target.parent, target.name, "partial")
        temporary.mkdir()
    _in_progress.add(temporary.name)
    try:
        with _writable(target, BundleError, temporary):
            yield temporary
        check(target)
        with _writable(target, BundleError):
            if lasting:
                _sync_tree(temporary)
            _take_place(temporary, target)
            _sync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        _in_progress.discard(temporary.name)


def user_cache(name: str) -> Path | None:
    """The folder `name` of this user's cache, made where it is not; None if it cannot be written or is another's.

    In $XDG_CACHE_HOME or ~/.cache: what is found there is trusted as the user's own, so others may not write to it.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(root, "glip-export", name)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if os.name != "nt" and (status.st_uid != os.getuid() or status.st_mode & 0o022):
            return None
        with tempfile.TemporaryFile(dir=folder):
            return folder.resolve()
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is the temporary one of an atomic write, running or killed."""
    return _LEFTOVER.match(name) is not None


def file_identity(path: Path | str) -> tuple[int, int] | None:
    """Device and inode, which tell a file or folder from others by whatever name; None where it cannot be looked at."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    return status.st_dev, status.st_ino


def sha256_file(path: Path | str) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits; other threads run meanwhile."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_READ_BYTES))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise BundleError(f"{target} is a file: name a folder for the bundle")
    if not any(target.iterdir()):
        return
    listed = _listed_files(target)
    if listed is None:
        raise BundleError(f"{target} holds files and is not a bundle, so it is not replaced: name another folder")
    foreign = next((name for name in _files_below(target) if name not in listed and not _is_ours(name)), None)
    if foreign is not None:
        raise BundleError(f"{target} is not replaced, since {foreign} in it is not of the bundle: move it elsewhere")


def _listed_files(folder: Path) -> set[str] | None:
    """The files that a bundle's manifest lists; None for what is no bundle."""
    # The name alone would not do: browser extensions and web apps have a manifest.json too.
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or not {"format", "graphs", "files"} <= manifest.keys():
        return None
    return set(manifest["files"]) if isinstance(manifest["files"], dict) else None


def _files_below(folder: Path) -> Iterator[str]:
    for parent, _, files in os.walk(folder):
        yield from (Path(parent, name).relative_to(folder).as_posix() for name in sorted(files))


def _is_ours(name: str) -> bool:
    """Whether a file of a bundle that its manifest does not list may go with it all the same."""
    last = name.rpartition("/")[2]
    return name == MANIFEST or name.startswith(f"{CACHE}/") or is_leftover(last) or last in _OF_FILE_MANAGERS


def _temporary(parent: Path, stem: str, kind: str, suffix: str = "") -> Path:
    return parent / f".{_short(stem, suffix)}.{kind}-{os.getpid()}-{secrets.token_hex(4)}{suffix}"


def _short(stem: str, suffix: str) -> str:
    """The stem, cut where the temporary name would be longer than file systems allow, though the target's is not."""
    data = os.fsencode(stem)
    most = _LONGEST_NAME - _TEMPORARY_ADDS - len(os.fsencode(suffix))
    if len(data) <= most:
        return stem
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{data[: max(0, most - 8)].decode(errors='ignore')}{digest}"


def _remove_leftovers(parent: Path, stem: str, suffix: str = "") -> None:
    short = _short(stem, suffix)
    pattern = re.compile(rf"\.{re.escape(short)}\.(partial|old)-(\d+)-[0-9a-f]{{8}}{re.escape(suffix)}")
    for path in list(parent.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is None or path.name in _in_progress or _is_running(int(match[2])):
            continue
        if match[1] == "old" and not (parent / stem).exists():  # killed between the two renames of _take_place
            os.rename(path, parent / stem)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False  # an earlier process of the same id, as in containers: ours are in _in_progress
    if os.name == "nt":
        return True  # os.kill(pid, 0) would end it there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _take_place(temporary: Path, target: Path) -> None:
    if not target.exists():
        os.rename(temporary, target)
        return
    old = _temporary(target.parent, target.name, "old")
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_symlink():
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    """Have the disk hold what was written, so that a power cut after the rename leaves no empty file."""
    if os.name == "nt":
        return  # Windows syncs only handles opened for writing, and no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writable(target: Path, error: type[GlipExportError], temporary: Path | None = None) -> Iterator[None]:
    """Errors of writing `target` as `error`. temporary: what a caller's block writes, whose other errors stay."""
    try:
        yield
    except OSError as reason:
        if temporary is not None and not _is_of_writing(reason, temporary):
            raise
        raise error(f"cannot write {target}: {reason.strerror or reason}") from reason
    except GlipExportError as reason:  # of a file within: the temporary name says nothing to a person
        if temporary is None or temporary == target or str(temporary) not in str(reason):
            raise
        raise error(str(reason).replace(str(temporary), str(target))) from reason


def _is_of_writing(error: OSError, temporary: Path) -> bool:
    """Whether an error in the block is of the file or folder that it writes, and not of something that it reads."""
    if isinstance(error, BrokenPipeError) or error.errno in _FULL:
        return error.errno in _FULL
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, Path))]
    if names:
        return any(Path(name) == temporary or temporary in Path(name).parents for name in names)
    return error.errno in (None, errno.EIO)  # None: Pillow's and NumPy's, which say only that not all was written
