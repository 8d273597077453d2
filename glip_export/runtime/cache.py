"""Where backends keep what they can make anew: in the bundle's cache folder, which the manifest leaves out, or in the
user's own, which is kept small."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from glip_export.bundle import BakedFile, Bundle
from glip_export.bundle.files import CACHE

MOST_BYTES = 10 << 30  # of all bundles; a bundle's are as large as its weights


def cache_folder(bundle: Bundle, backend: str, key: str) -> Path | None:
    """cache/<backend>/<the key's first 16 characters> of the bundle, made, or None if nothing can be written there.

    key: a hash of all that the cached files follow from, so that others in the same place never find them.
    """
    folder = bundle.path / CACHE / backend / key[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder.resolve()
    except OSError:
        return None


def graphs_key(bundle: Bundle | BakedFile) -> str:
    """SHA-256 over the hashes of the bundle's graphs and their weights; a baked model's own."""
    if isinstance(bundle, BakedFile):
        return bundle.sha256
    key = hashlib.sha256()
    for graph in sorted(bundle.graphs.values(), key=lambda graph: graph.name):
        for file in (graph.file, *graph.data):
            key.update(bundle.files[file].sha256.encode())
    return key.hexdigest()


def make_room(root: Path) -> None:
    """Removes the folders in root that were not used for longest, until the others take no more than MOST_BYTES.

    root: one of the user's cache. Used: by its time of last writing.
    """
    with suppress(OSError):
        left = MOST_BYTES
        for folder in sorted(root.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True):
            left -= sum(file.stat().st_size for file in folder.rglob("*"))
            if left < 0:
                shutil.rmtree(folder, ignore_errors=True)
