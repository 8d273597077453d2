"""Compiled graphs of OpenVINO in the user's cache, from which a start maps them: 0.9 GB in half a second.

OpenVINO's own cache goes by a hash of the whole model, so that at each start it has to be read and changed as if there
were none: our kernels' weights packed anew, which takes longer than the rest. Here the folder's name holds all that a
compiled graph follows from, and the file is read in place, its pages shared with other processes of the same bundle.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from glip_export.bundle import BakedFile, Bundle
from glip_export.bundle.files import atomic_path, user_cache
from glip_export.errors import GlipExportError
from glip_export.runtime.cache import graphs_key, make_room
from glip_export.runtime.cpu import cpu_features

_SUFFIX = ".blob"


class CompiledCache:
    """The compiled graphs of one bundle, compiled in one way.

    Not in the bundle, which may come from someone else: a compiled graph is loaded as it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mapped: list[Any] = []  # what compiled graphs read their weights in, to be held as long as they

    @classmethod
    def of(cls, bundle: Bundle | BakedFile, compiled_with: str) -> CompiledCache | None:
        """None where nothing can be written. compiled_with: a word for all that is chosen when graphs are compiled."""
        isa = {name: value for name, value in os.environ.items() if name.endswith("_MAX_CPU_ISA")}
        machine = f"{openvino.__version__} {sorted(cpu_features() or ())} {sorted(isa.items())}"
        key = hashlib.sha256(f"{graphs_key(bundle)} {_sources()} {machine} {compiled_with}".encode()).hexdigest()
        folder = user_cache(f"openvino/{key[:16]}")
        return None if folder is None else cls(folder)

    def read(self, core: openvino.Core, name: str, options: dict[str, Any]) -> openvino.CompiledModel | None:
        """The compiled graph; None where it is not there or not whole."""
        for path in self.folder.glob(f"{name}.*{_SUFFIX}"):
            with suppress(Exception):  # OpenVINO raises RuntimeError and others, by release
                with open(path, "rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                if len(mapped) != int(path.name.split(".")[1]):  # cut, as a power failure leaves it
                    continue
                tensor = openvino.Tensor(np.frombuffer(mapped, np.uint8), shared_memory=True)
                compiled = core.import_model(tensor, "CPU", options)
                if sys.platform == "linux":  # elsewhere the advice may mean another thing
                    # Most weights were copied, in the order that OpenVINO's kernels read; others come from the file.
                    mapped.madvise(mmap.MADV_DONTNEED)
                self.mapped.append(tensor)
                return compiled
        return None

    def write(self, name: str, compiled: openvino.CompiledModel) -> None:
        """Keeps a graph that was compiled, if its disk has room."""
        with suppress(OSError, RuntimeError, GlipExportError):
            buffer = io.BytesIO()
            compiled.export_model(buffer)
            for old in self.folder.glob(f"{name}.*{_SUFFIX}"):
                old.unlink(missing_ok=True)
            data = buffer.getbuffer()
            with atomic_path(self.folder / f"{name}.{len(data)}{_SUFFIX}", lasting=False) as temporary:
                temporary.write_bytes(data)
            make_room(self.folder.parent)

    def used(self) -> None:
        """Notes that these were used: what no one used for longest goes first."""
        with suppress(OSError):
            os.utime(self.folder)


@cache
def _sources() -> str:
    """SHA-256 of the sources by which a graph is changed before it is compiled, and its weights are packed."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    patterns = ("graphs/*.py", "runtime/openvino*.py", "runtime/native/*.py", "runtime/native/*.?pp")
    for source in (file for pattern in patterns for file in sorted(package.glob(pattern))):
        digest.update(source.read_bytes())
    return digest.hexdigest()
