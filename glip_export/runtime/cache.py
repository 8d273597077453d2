"""Where backends keep what they can make anew: in the bundle's cache folder, which the manifest leaves out."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from glip_export.bundle import Bundle
from glip_export.bundle.files import CACHE


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


def graphs_key(bundle: Bundle) -> str:
    """SHA-256 over the hashes of the bundle's graphs and their weights."""
    key = hashlib.sha256()
    for graph in sorted(bundle.graphs.values(), key=lambda graph: graph.name):
        for file in (graph.file, *graph.data):
            key.update(bundle.files[file].sha256.encode())
    return key.hexdigest()
