"""Which sources an engine's key covers, held against what the builder really imports."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType

from glip_export.trt.build import _NOT_IN_KEYS

OURS = re.compile(r"glip_export\.(graphs|trt)\b")


def _made_of(module: str) -> set[str]:
    """The modules of graphs/ and trt/ that define what this one imports from there, by whatever way it imports it."""
    found = set()
    for node in ast.walk(ast.parse(Path(importlib.import_module(module).__file__ or "").read_text())):
        if isinstance(node, ast.ImportFrom) and OURS.match(node.module or ""):
            source = importlib.import_module(str(node.module))
            for item in (getattr(source, each.name) for each in node.names):
                name = item.__name__ if isinstance(item, ModuleType) else getattr(item, "__module__", "")
                found.add(name if OURS.match(name) else source.__name__)
    return found


def test_what_engines_are_made_of_is_in_their_keys() -> None:
    # What the builder meets of these: which TensorRT (its name and version are in the key), what launches at run time,
    # what tells an engine's shares. Behind them nothing shapes an engine.
    aside = {"flavor.py", "kernels.py", "type_shares.py"}
    found, left_out, ahead = set(), set(), {"glip_export.trt.builder"}
    while ahead:
        module = ahead.pop()
        found.add(module)
        files = {each: f"{each.rpartition('.')[2]}.py" for each in _made_of(module)}
        left_out |= _NOT_IN_KEYS.intersection(files.values())
        ahead |= {each for each, file in files.items() if file not in _NOT_IN_KEYS} - found
    assert left_out == aside
    assert {f"glip_export.trt.{name}" for name in ("plugins", "launches", "dyconv_launches", "lowering")} <= found
