"""The bundle's manifest: its fields, and their JSON checked on the way in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from glip_export.bundle.files import MANIFEST
from glip_export.config import GlipConfig, config_from_dict, config_to_dict
from glip_export.errors import BundleError, ConfigError

FORMAT = 1  # raised when an older glip-export could not read the manifest rightly
T = TypeVar("T")
_KIND: dict[Any, str] = {
    int: "a whole number",
    (int, float): "a number",
    str: "a text",
    dict: "an object",
    list: "a list",
}


@dataclass(frozen=True)
class Weights:
    """The checkpoint that the graphs came from."""

    path: str
    sha256: str
    ema: bool = False  # the file's averaged weights


@dataclass(frozen=True)
class Graph:
    """One ONNX graph; `write_manifest` fills in `data` and `bytes`."""

    name: str
    file: str  # relative to the bundle, with forward slashes
    opset: int
    nodes: int
    parameters: int
    seconds: float  # that its export took
    data: tuple[str, ...] = ()  # files of its external data
    bytes: int = 0  # of the graph and its external data together


@dataclass(frozen=True)
class File:
    """What a file of the bundle must be."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What manifest.json says."""

    format: int = FORMAT
    name: str
    created: str  # ISO 8601, UTC
    config: GlipConfig
    weights: Weights
    graphs: dict[str, Graph]
    files: dict[str, File]  # every file but the manifest, by its path relative to the bundle
    precision: str = "fp32"
    image_size: tuple[int, int] | None = None  # height, width of a static bundle; None: dynamic
    versions: dict[str, str] = field(default_factory=dict)  # package -> version that made it
    extra: dict[str, Any] = field(default_factory=dict)  # what later stages note, each under its own key


def parse_manifest(manifest: dict[str, Any], folder: Path) -> Manifest:
    """Check the JSON object read from `folder`'s manifest; raises BundleError naming the key that is wrong."""
    where = f"{folder / MANIFEST}"
    made_by = _get(manifest, "format", int, where)
    if made_by > FORMAT:
        raise BundleError(
            f"{folder} was made by a newer glip-export: format {made_by}, this one reads {FORMAT}; update glip-export"
        )
    if made_by < 1:
        raise BundleError(f"{where}: there is no format {made_by}")
    try:
        config = config_from_dict(_get(manifest, "config", dict, where))
    except ConfigError as error:
        raise BundleError(f"{where}: {error}") from error
    weights = _get(manifest, "weights", dict, where)
    return Manifest(
        format=made_by,
        name=_get(manifest, "name", str, where),
        created=_get(manifest, "created", str, where),
        config=config,
        weights=Weights(
            path=_get(weights, "path", str, f"{where}: weights"),
            sha256=_get(weights, "sha256", str, f"{where}: weights"),
            ema=_get_flag(weights, "ema", f"{where}: weights"),
        ),
        graphs={name: _parse_graph(name, value, where) for name, value in _objects(manifest, "graphs", where)},
        files={name: _parse_file(name, value, where) for name, value in _objects(manifest, "files", where)},
        precision=_get(manifest, "precision", str, where),
        image_size=_parse_image_size(manifest.get("image_size"), where),
        versions={key: str(value) for key, value in _get(manifest, "versions", dict, where).items()},
        extra=_get(manifest, "extra", dict, where),
    )


def manifest_to_json(manifest: Manifest) -> dict[str, Any]:
    """`manifest` as what json.dumps takes; `parse_manifest` reads it back."""
    return {
        "format": manifest.format,
        "name": manifest.name,
        "created": manifest.created,
        "precision": manifest.precision,
        "image_size": manifest.image_size,
        "weights": dataclasses.asdict(manifest.weights),
        "graphs": {name: _without_name(graph) for name, graph in manifest.graphs.items()},
        "config": config_to_dict(manifest.config),
        "versions": manifest.versions,
        "extra": manifest.extra,
        "files": {name: dataclasses.asdict(file) for name, file in manifest.files.items()},
    }


def _parse_graph(name: str, value: dict[str, Any], where: str) -> Graph:
    where = f"{where}: graph {name}"
    data = _get(value, "data", list, where)
    if not all(isinstance(item, str) for item in data):
        raise BundleError(f"{where}: data should be file names")
    return Graph(
        name=name,
        file=_get(value, "file", str, where),
        opset=_get(value, "opset", int, where),
        nodes=_get(value, "nodes", int, where),
        parameters=_get(value, "parameters", int, where),
        seconds=float(_get(value, "seconds", (int, float), where)),
        data=tuple(data),
        bytes=_get(value, "bytes", int, where),
    )


def _parse_file(name: str, value: dict[str, Any], where: str) -> File:
    path = PurePosixPath(name)
    plain = not path.is_absolute() and ".." not in path.parts and str(path) == name and name.isprintable()
    if not plain or name == MANIFEST or "\\" in name or ":" in name:  # on Windows these two lead elsewhere
        raise BundleError(f"{where} lists {name!r}, which is not the plain name of a file in the bundle")
    where = f"{where}: file {name}"
    return File(sha256=_get(value, "sha256", str, where), bytes=_get(value, "bytes", int, where))


def _parse_image_size(value: object, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(type(item) is int and item > 0 for item in value):
        return value[0], value[1]
    raise BundleError(f"{where}: image_size should be null or [height, width], not {value!r}")


def _objects(manifest: dict[str, Any], key: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in _get(manifest, key, dict, where).items():
        if not isinstance(value, dict):
            raise BundleError(f"{where}: {key}: {name} should be an object, not {value!r}")
        yield name, value


def _get(values: dict[str, Any], key: str, kind: type[T] | tuple[type[T], ...], where: str) -> T:
    if key not in values:
        raise BundleError(f"{where}: {key} is missing")
    value = values[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BundleError(f"{where}: {key} should be {_KIND[kind]}, not {str(value)[:60]!r}")
    return value


def _get_flag(values: dict[str, Any], key: str, where: str) -> bool:
    value = values.get(key, False)  # older bundles have none
    if not isinstance(value, bool):
        raise BundleError(f"{where}: {key} should be true or false, not {str(value)[:60]!r}")
    return value


def _without_name(graph: Graph) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(graph).items() if key != "name"}
