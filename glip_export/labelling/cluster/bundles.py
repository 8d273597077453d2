"""The bundle on every machine: where a machine has it at the same path it is used, else it is sent, once a machine."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glip_export.bundle import Bundle
from glip_export.bundle.files import MANIFEST, atomic_directory, user_cache
from glip_export.errors import BundleError
from glip_export.labelling.cluster.nodes import beside_us

PIECE = 64 << 20  # bytes of a file that travel at once
FOLDER = "bundles"  # in the user's cache


class Library:
    """An actor on the driver's machine that reads the bundle's files for machines that lack them."""

    def __init__(self, bundle: Path) -> None:
        self._bundle = bundle

    def read(self, name: str, start: int) -> bytes:
        """A piece of a file; less than PIECE bytes at its end."""
        with open(self._bundle / name, "rb") as file:
            file.seek(start)
            return file.read(PIECE)


@dataclass(frozen=True)
class Shipped:
    """A bundle, for workers on any machine. files: bytes of each, the manifest's too."""

    path: Path  # absolute, on the driver's machine
    manifest: str  # its SHA-256: it holds those of all other files
    files: dict[str, int]
    library: Any  # the actor
    cwd: str  # the driver's, from which relative paths start

    def here(self, hashed: bool = False) -> Path:
        """Where the bundle is on this machine, brought here if need be; whoever opens it checks the hashes.

        hashed: what was brought is looked at to the byte, and brought again where it is damaged.

        Raises BundleError where it cannot be kept.
        """
        if _manifest_hash(self.path) == self.manifest:
            return self.path
        cache = user_cache(FOLDER)
        if cache is None:
            raise BundleError(
                f"{self.path} is not on this machine, nor a cache folder of the user's own that it could be brought "
                "to: share the folder, or set XDG_CACHE_HOME"
            )
        return self._brought(cache / self.manifest[:32], hashed)

    def _brought(self, target: Path, hashed: bool) -> Path:
        from filelock import FileLock

        with FileLock(target.with_suffix(".lock")):  # workers of this machine: one brings it
            if _manifest_hash(target) != self.manifest or not self._whole(target, hashed):
                with atomic_directory(target) as partial:
                    for name, size in self.files.items():
                        self._bring(name, size, partial / name)
        return target

    def _bring(self, name: str, size: int, to: Path) -> None:
        import ray

        to.parent.mkdir(parents=True, exist_ok=True)
        with open(to, "wb") as file:
            for start in range(0, max(size, 1), PIECE):
                file.write(ray.get(self.library.read.remote(name, start)))
        if to.stat().st_size != size:
            raise BundleError(f"{self.path / name} changed while it was brought to other machines: start again")

    def _whole(self, folder: Path, hashed: bool) -> bool:
        """Whether the cache holds each file; it may have been cleaned, or its disk may have been full."""
        try:
            Bundle.open(folder, verify=hashed, anew=True)
        except BundleError:
            return False
        return True


def shipped(path: Path) -> Shipped:
    """The bundle at a path of this machine, and the actor that reads it for others. Raises BundleError."""
    import ray

    bundle = Bundle.open(path, verify=False)  # each worker checks the hashes when it opens it
    folder = bundle.path.resolve()
    library = ray.remote(Library).options(**beside_us()).remote(folder)
    files = {MANIFEST: (folder / MANIFEST).stat().st_size, **{n: file.bytes for n, file in bundle.files.items()}}
    manifest = _manifest_hash(folder)
    if manifest is None:
        raise BundleError(f"{folder / MANIFEST} cannot be read")
    return Shipped(folder, manifest, files, library, os.getcwd())


def _manifest_hash(folder: Path) -> str | None:
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return None
