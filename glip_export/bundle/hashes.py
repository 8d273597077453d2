"""SHA-256 of a bundle's files, several at a time, and not again of a large file that has not changed since.

A full-size bundle is 0.9 GB, whose hashing takes a second or three of each start. So what was computed is kept in the
user's own cache, with all that the system says of the file: device, inode, size, and the times of its last writing
(mtime) and of its last change of any kind (ctime). Who writes to a file changes its ctime, which no program can set
back. What a remembered hash does not see is a disk that gives other bytes than it was given, and a file system that
keeps no ctime: `Bundle.open(anew=True)`, which `glip-export info` and `verify` use, hashes every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from glip_export.bundle.files import atomic_path, sha256_file, user_cache
from glip_export.errors import GlipExportError

LEAST_BYTES = 16 << 20  # smaller files are hashed as quickly as they are looked up
# A file written twice within one tick of its file system's clock has the same times after both; the coarsest tick is
# the 2 s of FAT. One that changed a moment before it was hashed is therefore not remembered.
SETTLED_NS = 3_000_000_000
MOST_FOLDERS = 256  # bundles of which something is remembered, those that were hashed last

_State = list[int]  # device, inode, size, mtime and ctime in ns


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each file, several at a time: hashlib lets go of the interpreter's lock."""
    names = list(names)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(sha256_file, (folder / name for name in names)), strict=True))


def remembered_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each file: of a large one that has not changed since, as it was last computed.

    Where nothing can be kept, and on Windows, whose ctime is of the making, every file is hashed.
    """
    names = list(names)
    record = None if os.name == "nt" else _record_of(folder)
    if record is None:
        return hash_files(folder, names)
    before = {name: _state(folder / name) for name in names}
    now = time.time_ns()
    kept = _read(record)
    known = {name: digest for name in names if (digest := kept.get(_key(name, before[name]))) is not None}
    hashes = hash_files(folder, [name for name in names if name not in known])
    settled = {
        _key(name, state): digest
        for name, digest in hashes.items()
        if (state := before[name])[2] >= LEAST_BYTES
        and now - max(state[3:]) >= SETTLED_NS
        and state == _state(folder / name)
    }
    if settled:
        current = {_key(name, state) for name, state in before.items()}
        _write(record, {key: digest for key, digest in kept.items() if key in current} | settled)
    return {name: known.get(name) or hashes[name] for name in names}


def _record_of(folder: Path) -> Path | None:
    """The file that holds what is remembered of a bundle; None where there can be none."""
    cache = user_cache("hashes")
    if cache is None:
        return None
    return cache / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.json"


def _key(name: str, state: Sequence[int]) -> str:
    return f"{name} {' '.join(map(str, state))}"


def _state(path: Path) -> _State:
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _read(record: Path) -> dict[str, str]:
    """Nothing, where the file is not there, or not of this form."""
    try:
        value = json.loads(record.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {key: digest for key, digest in value.items() if isinstance(digest, str) and len(digest) == 64}


def _write(record: Path, hashes: dict[str, str]) -> None:
    with suppress(OSError, GlipExportError):  # a full disk: hashed again next time
        with atomic_path(record, lasting=False) as temporary:
            temporary.chmod(0o600)
            temporary.write_text(json.dumps(hashes), encoding="utf-8")
        others = sorted(record.parent.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for old in others[:-MOST_FOLDERS]:
            old.unlink(missing_ok=True)
