"""The engines of a bundle for one flavor and precision: a folder of three, and engines.json that says what they are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from glip_export.bundle import Bundle
from glip_export.errors import BundleError
from glip_export.graphs.contracts import GRAPHS, GraphSpec, graphs_of
from glip_export.trt.flavor import FLAVORS

FORMAT = 1  # raised when an older glip-export could not read engines.json rightly
ENGINES_JSON = "engines.json"
MAX_JSON_BYTES = 4 << 20
INT8 = "int8"  # engines of an int8 bundle; all others are of an fp32 one
PRECISIONS = ("fp16", "bf16", "fp32", INT8)

_SET: dict[str, type] = {
    "format": int, "flavor": str, "version": str, "precision": str, "deform_conv": str, "nms": str,
    "recipe": dict, "key": str, "graphs": dict,
}  # fmt: skip
_ENGINE: dict[str, type] = {
    "file": str, "sha256": str, "bytes": int, "seconds": float, "key": str, "profiles": list,
    "inputs": list, "outputs": list, "type_shares": dict,
}  # fmt: skip
_KIND = {int: "a whole number", float: "a number", str: "a text", dict: "an object", list: "a list"}


@dataclass(frozen=True)
class Engine:
    """One engine."""

    file: str  # in the set's folder
    sha256: str
    bytes: int
    seconds: float  # that its conversion and build took
    key: str  # of all that decides it: the same key, the same engine
    profiles: list[dict[str, dict[str, list[int]]]]  # for each: input -> {"min", "opt", "max"} -> shape
    inputs: list[str]
    outputs: list[str]  # not the contract's where the runtime finishes: nms "host"
    type_shares: dict[str, Any]  # of the graph's weights and multiply-adds; see graphs/type_shares.py


@dataclass(frozen=True)
class EngineSet:
    """A bundle's three engines for one flavor and precision."""

    folder: Path
    flavor: str  # tensorrt or tensorrt_rtx
    version: str  # of the flavor that built them
    precision: str
    deform_conv: str  # plugin, gridsample or fused
    nms: str  # plugin, native or host
    recipe: dict[str, Any]
    key: str
    graphs: dict[str, Engine]
    gpu: dict[str, str] | None = None  # that tensorrt built on: name, compute_capability
    built: tuple[str, ...] = field(default=(), compare=False)  # the graphs that this call built; the rest were there

    def engine_path(self, graph: str) -> Path:
        """Where the engine of this graph is."""
        return self.folder / self.graphs[graph].file

    def to_json(self) -> dict[str, Any]:
        """What engines.json holds."""
        values = {key: value for key, value in asdict(self).items() if key not in ("folder", "built")}
        return {"format": FORMAT, **values}


def folder_name(flavor: str, precision: str) -> str:
    """The engines' folder in their bundle."""
    return f"{flavor}-{precision}"


def engine_sets(bundle: Bundle) -> list[EngineSet]:
    """All that were built, in the order of flavors and precisions; raises BundleError if one is damaged."""
    pairs = [(flavor, precision) for flavor in FLAVORS for precision in PRECISIONS]
    return [read_engine_set(bundle, *pair) for pair in pairs if f"{folder_name(*pair)}/{ENGINES_JSON}" in bundle.files]


def read_engine_set(bundle: Bundle, flavor: str, precision: str) -> EngineSet:
    """The engines built for this flavor and precision; raises BundleError if there are none or they are damaged."""
    again = f"glip-export trt {bundle.path} --{precision} --flavor {flavor}"
    name = folder_name(flavor, precision)
    path = bundle.path / name / ENGINES_JSON
    if f"{name}/{ENGINES_JSON}" not in bundle.files:
        raise BundleError(f"{bundle.path} has no {precision} engines of {flavor}; build them with: {again}")
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_JSON_BYTES + 1)
        if len(text) > MAX_JSON_BYTES:
            raise ValueError(f"it is over {MAX_JSON_BYTES >> 20} MB")
        return _parse(json.loads(text), bundle, path.parent, (flavor, precision))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is damaged ({error}); build the engines again with: {again}") from error


def _parse(values: Any, bundle: Bundle, folder: Path, asked: tuple[str, str]) -> EngineSet:
    _check(values, _SET, "it")
    if values.pop("format") > FORMAT:
        raise ValueError("a newer glip-export made it")
    if (values["flavor"], values["precision"]) != asked:
        raise ValueError(f"it is of {values['flavor']} at {values['precision']}")
    graphs = values.pop("graphs")
    if set(graphs) != set(GRAPHS):
        raise ValueError(f"its graphs are {', '.join(sorted(graphs)) or 'none'}")
    gpu = values.pop("gpu", None)
    if gpu is not None:
        _check(gpu, {"name": str, "compute_capability": str}, "gpu")
    engines = {name: _parse_engine(graphs[name], bundle, folder, name) for name in GRAPHS}
    return EngineSet(folder=folder, graphs=engines, gpu=gpu, **{name: values[name] for name in _SET if name in values})


def _parse_engine(values: Any, bundle: Bundle, folder: Path, graph: str) -> Engine:
    _check(values, _ENGINE, graph)
    engine = Engine(**{name: values[name] for name in _ENGINE})
    listed = bundle.files.get(f"{folder.name}/{engine.file}")
    if PurePosixPath(engine.file).name != engine.file or listed is None:
        raise ValueError(f"{graph}: {engine.file!r} is no file of the bundle")
    if (listed.sha256, listed.bytes) != (engine.sha256, engine.bytes):
        raise ValueError(f"{graph}: {engine.file} is not the engine that it describes")
    spec = graphs_of(bundle.config)[graph]
    if engine.inputs != spec.input_names or not all(isinstance(name, str) for name in engine.outputs):
        raise ValueError(f"{graph}: inputs should be {', '.join(spec.input_names)}, and outputs names")
    if not engine.profiles or not all(_is_profile(profile, spec) for profile in engine.profiles):
        raise ValueError(f"{graph}: profiles should hold the min, opt and max shape of every input")
    for kind, amounts in engine.type_shares.items():
        if not isinstance(amounts, dict) or not all(type(amount) in (int, float) for amount in amounts.values()):
            raise ValueError(f"{graph}: type_shares: {kind} should hold numbers")
    return engine


def _is_profile(profile: Any, spec: GraphSpec) -> bool:
    if not isinstance(profile, dict) or set(profile) != set(spec.input_names):
        return False
    for tensor in spec.inputs:
        shapes = profile[tensor.name]
        if not isinstance(shapes, dict) or set(shapes) != {"min", "opt", "max"}:
            return False
        for shape in shapes.values():
            if not isinstance(shape, list) or len(shape) != len(tensor.axes):
                return False
            if not all(type(side) is int for side in shape):
                return False
    return True


def _check(values: Any, kinds: dict[str, type], where: str) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{where} should be an object")
    for key, kind in kinds.items():
        accepted = (int, float) if kind is float else kind
        if key not in values:
            raise ValueError(f"{where}: {key} is missing")
        if not isinstance(values[key], accepted) or isinstance(values[key], bool):
            raise ValueError(f"{where}: {key} should be {_KIND[kind]}")
