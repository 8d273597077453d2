"""Every name that we use of TensorRT exists: in TensorRT 11 by its wheel's names, in TensorRT for RTX by import."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tensorrt_names

from glip_export.trt.recipe import read_recipe, shipped_recipes

ROOT = Path(__file__).parents[2]
ROOMS = ("glip_export/trt", "glip_export/runtime", "tests/gpu")
MODULES = ("trt", "self.trt", "library.trt", "self._library.trt")  # what the module is called in ROOMS
ONLY_RTX = {
    "ComputeCapability",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineInvalidityDiagnostics",
}
PYTHON = {"IBuilder": "Builder", "IRuntime": "Runtime", "IParser": "OnnxParser", "IParserError": "ParserError"}
DESCRIPTIONS = ("PluginTensorDesc", "DynamicPluginTensorDesc")

# What our variables are, by C++ class: file -> expression -> classes, one of which has the name.
OBJECTS: dict[str, dict[str, tuple[str, ...]]] = {
    "glip_export/runtime/cuda/engine.py": {
        "data": ("ICudaEngine",),
        "context": ("IExecutionContext",),
    },
    "glip_export/runtime/cuda/library.py": {
        "self._runtime": ("IRuntime",),
        "engine": ("ICudaEngine",),
        "config": ("IRuntimeConfig",),
        "cache": ("IRuntimeCache",),
    },
    "glip_export/trt/builder.py": {
        "builder": ("IBuilder",),
        "network": ("INetworkDefinition",),
        "parser": ("IParser",),
        "error": ("IParserError",),
        "config": ("IBuilderConfig",),
        "config.get_timing_cache()": ("ITimingCache",),
        "profile": ("IOptimizationProfile",),
        "tensor": ("ITensor",),
    },
    "glip_export/trt/plugins.py": {
        "registry": ("IPluginRegistry",),
        "creator": ("IPluginCreatorV3One",),
        "field": ("PluginField",),
        "build": ("IExprBuilder",),
        "tensors[0]": ("DynamicPluginTensorDesc",),
        "tensors[place]": ("DynamicPluginTensorDesc",),
        "first": ("PluginTensorDesc",),
        "tensor": DESCRIPTIONS,
        "inputs[0]": DESCRIPTIONS,
        "inputs[1]": DESCRIPTIONS,
    },
}
# What TensorRT calls of ours, and reads: our class -> its bases. All public names of ours but OURS are theirs.
PLUGIN = ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime")
SUBCLASSES = {
    "Logger": ("ILogger",),
    "Quiet": ("ILogger",),
    "Monitor": ("IProgressMonitor",),
    "Creator": ("IPluginCreatorV3One",),
    "Plugin": PLUGIN,
    "DeformIm2Col": PLUGIN,
    "Nms": PLUGIN,
    "DyConv": PLUGIN,
}
OURS = {"errors", "steps", "told", "values"}
# Only RTX has them; each is reached only where `hasattr` finds the first of its kind, or by an option of RTX's alone.
ONLY_RTX_MEMBERS = {
    ("IRuntimeConfig", "cuda_graph_strategy"),
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
    ("IRuntimeConfig", "create_runtime_cache"),
    ("IRuntimeConfig", "set_runtime_cache"),
    ("IRuntimeCache", "serialize"),
    ("IRuntimeCache", "deserialize"),
    ("IRuntime", "get_engine_validity"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
}
Member = tuple[tuple[str, ...], str]  # classes, name


@pytest.mark.parametrize("name", sorted({"IRuntime", "Runtime", "float32", "IPluginCreatorV3One", "nptype"}))
def test_the_collector_finds_what_we_know_we_use(name: str) -> None:
    assert name in {name[0] for name in used_of_module()} | {cls for classes, _ in used_members() for cls in classes}


def test_names_of_the_module_are_in_tensorrt_11() -> None:
    used = {name for name in used_of_module() if name[0] not in ONLY_RTX}
    assert len(used) > 25
    assert {name for name in used if not _has(*name)} == set()


def test_names_of_its_objects_are_in_tensorrt_11() -> None:
    used = used_members()
    assert len(used) > 60
    missing = {(classes, name) for classes, name in used if not any(_has(cls, name) for cls in classes)}
    assert {(cls, name) for classes, name in missing for cls in classes} == ONLY_RTX_MEMBERS


def test_most_of_them_are_found_in_the_very_class() -> None:
    """The rest, whose calls the compiler inlined, are only known to be names of the module."""
    members = _names()["members"]
    used = used_members()
    placed = [name for classes, name in used if any(name in members.get(cls, ()) for cls in classes)]
    assert len(placed) > 0.7 * len(used)


@pytest.mark.parametrize("name", ["execute_async_v4", "NO_SUCH_ENUM", "get_binding_shape"])
def test_a_name_that_is_not_there_is_missed(name: str) -> None:
    assert not _has("IExecutionContext", name)


def test_what_only_rtx_has_is_asked_for_first() -> None:
    source = (ROOT / "glip_export/runtime/cuda/library.py").read_text(encoding="utf-8")
    for guard in ('trt, "CudaGraphStrategy"', 'config, "create_runtime_cache"', 'self._runtime, "get_engine_validity"'):
        assert f"hasattr({guard})" in source
    recipe = read_recipe(next(iter(shipped_recipes().values())))
    options = {flavor: recipe.options(flavor) for flavor in ("tensorrt", "tensorrt_rtx")}
    assert [flavor for flavor, known in options.items() if "compute_capabilities" in known] == ["tensorrt_rtx"]


def test_words_of_a_recipe_are_members_of_tensorrt_11s_enums() -> None:
    """They are looked up by a table's words, not as attributes."""
    tree = ast.parse((ROOT / "glip_export/trt/builder.py").read_text(encoding="utf-8"))
    tables = {
        node.targets[0].id: [word.value for word in node.value.values if isinstance(word, ast.Constant)]
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and isinstance(node.targets[0], ast.Name)
    }
    members = _names()["members"]
    assert len(tables["flags"]) == 3 and set(tables["flags"]) <= set(members["BuilderFlag"])
    assert len(tables["levels"]) == 2 and set(tables["levels"]) <= set(members["HardwareCompatibilityLevel"])


def test_all_names_are_in_tensorrt_for_rtx() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    assert {name for name in used_of_module() if not _offers(trt, *name)} == set()
    missing = set()
    for classes, name in used_members():
        offered = [getattr(trt, PYTHON.get(cls, cls)) for cls in classes]
        if not any(_offers(cls, name) for cls in offered):
            missing.add((classes, name))
    # Methods of ours that pybind11 looks up on the object when the library calls: there is nothing to see on a class.
    assert {name for _, name in missing} <= {name for _, name in called_by_tensorrt()}


def test_the_list_is_that_of_the_wheel() -> None:
    if reason := tensorrt_names.why_not():
        pytest.skip(reason)
    wheel = tensorrt_names.wheel()
    assert wheel is not None
    assert tensorrt_names.read_wheel(wheel) == _names()


def used_of_module() -> set[tuple[str, ...]]:
    """(name,) and (name, member) of the module: trt.Runtime, trt.MemoryPoolType.WORKSPACE."""
    used: set[tuple[str, ...]] = set()
    for _, tree in _trees():
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(value=ast.Attribute(value=base, attr=first), attr=name) if _is_module(base):
                    used.add((first, name))
                case ast.Attribute(value=base, attr=name) if _is_module(base):
                    used.add((name,))
                case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[base, ast.Constant(value=name), *_]):
                    if _is_module(base):
                        used.add((name,))
                    elif isinstance(base, ast.Attribute) and _is_module(base.value):
                        used.add((base.attr, name))
    inherent = {"__version__", "__name__", "__members__"}
    return {name for name in used if name[-1] not in inherent}


def used_members() -> set[Member]:
    """(classes, name) of the library's objects that we call or read, or that it calls and reads of ours."""
    found: set[Member] = set()
    for file, expressions in OBJECTS.items():
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        seen = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                base, name = ast.unparse(node.value), node.attr
            elif _is_question(node):
                base, name = ast.unparse(node.args[0]), node.args[1].value  # type: ignore[attr-defined]
            else:
                continue
            if base in expressions:
                seen.add(base)
                found.add((expressions[base], name))
        assert seen == set(expressions), f"{file} has no {set(expressions) - seen} any more"
    return found | called_by_tensorrt()


def called_by_tensorrt() -> set[Member]:
    """(bases, name) of what our subclasses of the library's classes define for it."""
    found: set[Member] = set()
    defined = [node for _, tree in _trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    derived = [node for node in defined if node.name in SUBCLASSES and node.bases]
    assert {node.name for node in derived} == set(SUBCLASSES)
    for node in derived:
        names = {part.name for part in node.body if isinstance(part, ast.FunctionDef)} | set(_stored(node))
        found |= {(SUBCLASSES[node.name], name) for name in names - OURS if not name.startswith("_")}
    return found


def _has(first: str, member: str | None = None) -> bool:
    """Whether TensorRT 11 has the name; of a member that is not seen in its class, whether any class has it."""
    members, others = _names()["members"], _names()["others"]
    known = set(others).union(*members.values())
    return first in {*known, *members} and (member is None or member in members.get(first, ()) or member in known)


def _offers(holder: Any, *names: str) -> bool:
    for name in names:
        if not hasattr(holder, name):
            return False
        holder = getattr(holder, name)
    return True


def _stored(node: ast.ClassDef) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and ast.unparse(part.value) == "self":
            yield part.attr


def _is_question(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[_, ast.Constant(value=str()), *_]):
            return True
    return False


def _is_module(node: ast.AST) -> bool:
    return isinstance(node, (ast.Name, ast.Attribute)) and ast.unparse(node) in MODULES


def _trees() -> Iterator[tuple[str, ast.Module]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


@cache
def _names() -> dict[str, Any]:
    return json.loads(tensorrt_names.NAMES.read_text(encoding="utf-8"))
