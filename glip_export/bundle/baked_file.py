"""A baked model: one ONNX file whose metadata says all that a runtime needs, and whose last bytes are its SHA-256.

Read without the onnx package. The metadata entry glip.sha256 stands last in the file, so that its 64 hexadecimal digits
are the file's end: the SHA-256 of all before them.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glip_export.bundle.external_data import external_data_files, message_fields
from glip_export.config import GlipConfig, config_from_dict
from glip_export.errors import BundleError, ConfigError

SUFFIX = ".onnx"
FORMAT = 1  # raised when an older glip-export could not read a baked model rightly
DIGEST = "glip.sha256"
_DIGITS = 64
_METADATA_PROPS = 14  # field of ModelProto
_MAKE_ONE = "make one with: glip-export bake --prompt TEXT"


@dataclass(frozen=True, kw_only=True)
class BakedFile:
    """An opened baked model."""

    path: Path
    sha256: str  # of all but its last 64 bytes
    names: tuple[str, ...]  # of labels
    config: GlipConfig
    precision: str
    inputs: tuple[str, ...]  # images f32 (B, 3, H, W), perhaps image_sizes; or image uint8 (H, W, 3)
    image_size: tuple[int, int] | None  # height, width of a static one; None: dynamic
    metadata: dict[str, str]

    @classmethod
    def open(cls, path: Path | str, verify: bool = True) -> BakedFile:
        """Reads and checks a baked model; verify=False leaves out only its SHA-256.

        Raises BundleError for what is none, is of a newer format, or was changed.
        """
        file = Path(path)
        try:
            metadata = _metadata(file)
            if metadata.get("glip.graph") != "baked" or DIGEST not in metadata:
                raise BundleError(f"{file} is no baked model, or is damaged; {_MAKE_ONE}")
            if verify and digest_of(file) != metadata[DIGEST]:
                raise BundleError(f"{file} is damaged or was changed: its SHA-256 is another; {_MAKE_ONE}")
            if external_data_files(file):
                raise BundleError(f"{file} reads weights from other files, which no baked model does; {_MAKE_ONE}")
        except OSError as error:
            raise BundleError(f"cannot read {file}: {error.strerror or error}") from error
        return cls(path=file, sha256=metadata[DIGEST], metadata=metadata, **_parsed(metadata, file))

    def graph_path(self, name: str) -> Path:
        """The file, whatever the graph is called: there is one."""
        return self.path

    @property
    def takes_pixels(self) -> bool:
        """Whether it resizes and normalises by itself: a picture as it is, one at a time."""
        return self.inputs == ("image",)


def is_baked(path: Path | str | None) -> bool:
    """Whether the path is a file's, with the suffix of a baked model; a bundle is a folder."""
    return path is not None and Path(path).suffix.lower() == SUFFIX and not Path(path).is_dir()


def seal(model: bytes) -> Iterator[bytes]:
    """The parts of a baked model's file: the serialized model, then its SHA-256 as one more entry of its metadata."""
    key = DIGEST.encode()
    entry = b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([_DIGITS])
    tag = bytes([_METADATA_PROPS << 3 | 2, len(entry) + _DIGITS]) + entry
    digest = hashlib.sha256(model)
    digest.update(tag)
    yield model
    yield tag
    yield digest.hexdigest().encode()


def digest_of(file: Path) -> str:
    """SHA-256 of all but the file's last 64 bytes."""
    digest = hashlib.sha256()
    with (
        open(file, "rb") as data,
        mmap.mmap(data.fileno(), 0, access=mmap.ACCESS_READ) as whole,
        memoryview(whole) as view,
        view[:-_DIGITS] as body,
    ):
        digest.update(body)
    return digest.hexdigest()


def _metadata(file: Path) -> dict[str, str]:
    if not file.exists():
        raise BundleError(f"there is no file {file}; {_MAKE_ONE}")
    if not file.is_file():
        raise BundleError(f"{file} is no file; {_MAKE_ONE}")
    metadata = {}
    try:
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for number, start, end in message_fields(data, 0, len(data)):
                if number == _METADATA_PROPS:
                    entry = {field: data[a:b].decode() for field, a, b in message_fields(data, start, end)}
                    metadata[entry[1]] = entry.get(2, "")
    except (ValueError, IndexError, KeyError) as error:
        raise BundleError(f"{file} is no ONNX file, or is damaged; {_MAKE_ONE}") from error
    return metadata


def _parsed(metadata: dict[str, str], file: Path) -> dict[str, Any]:
    try:
        if (made_by := int(metadata["glip.format"])) > FORMAT:
            raise BundleError(
                f"{file} was made by a newer glip-export: format {made_by}, this one reads {FORMAT}; update glip-export"
            )
        image = json.loads(metadata["glip.image"])
        size = image["size"]
        return {
            "names": tuple(map(str, json.loads(metadata["glip.names"]))),
            "config": config_from_dict(json.loads(metadata["glip.config"])),
            "precision": metadata["glip.precision"],
            "inputs": tuple(map(str, image["inputs"])),
            "image_size": None if size is None else (int(size[0]), int(size[1])),
        }
    except (KeyError, ValueError, TypeError, IndexError, ConfigError) as error:
        raise BundleError(f"{file}: its metadata cannot be read ({error!r}); {_MAKE_ONE}") from error
