"""A bundle without its weights: two megabytes that a machine fills in seconds, where the export takes minutes.

The graphs' external data holds a model's parameters as they are, transposed, or as the window attention's bias. So each
value is noted by its parameter's name, and the few that are none are kept. Filled with the same weights the bundle is
the same to the byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from glip_export.bundle.files import atomic_write_text
from glip_export.graphs.contracts import GRAPHS
from glip_export.model.glip import Glip
from glip_export.model.swin_block import WindowAttention

if TYPE_CHECKING:
    from glip_export.bundle import Bundle

RECIPE, KEPT, MANIFEST = "recipe.json", "kept.npz", "manifest.json"
AS_IT_IS, TRANSPOSED, BIAS = "as it is", "transposed", "bias"


def made(folder: Path, brought: Path, make_model: Callable[[], Glip]) -> Bundle:
    """The bundle in `folder`, made by whoever asks first; a start that was cut off leaves none.

    From its skeleton, in seconds, where that fits; else exported, which takes minutes.
    """
    from glip_export import Bundle, export_onnx

    if not folder.is_dir():
        partial = _partial(folder)
        shutil.rmtree(partial, ignore_errors=True)
        model = make_model()
        if fits(brought, model):
            fill(brought, model, partial)
        else:
            export_onnx(model, partial)
        partial.rename(folder)
    return Bundle.open(folder)


def keep(folder: Path, brought: Path, make_model: Callable[[], Glip]) -> None:
    """Writes the skeleton of the bundle that `made` gives, if it is not there."""
    if not brought.is_dir():
        partial, model = _partial(brought), cache(make_model)
        strip(made(folder, brought, model).path, model(), partial)
        partial.rename(brought)


def strip(bundle: Path, model: Glip, skeleton: Path) -> None:
    """Writes what `fill` needs to make the bundle again from the model's weights."""
    import onnx_ir

    skeleton.mkdir(parents=True, exist_ok=True)
    known = {_digest(array): (name, form) for name, form, array in _forms(model)}
    recipe: dict[str, list[dict[str, Any]]] = {}
    kept: dict[str, np.ndarray] = {}
    for graph in GRAPHS:
        shutil.copy2(bundle / f"{graph}.onnx", skeleton)
        for value in onnx_ir.load(bundle / f"{graph}.onnx").graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, onnx_ir.ExternalTensor):
                continue
            array = np.ascontiguousarray(tensor.numpy())
            entry: dict[str, Any] = {"offset": tensor.offset, "bytes": array.nbytes}
            if found := known.get(_digest(array)):
                entry |= {"name": found[0], "form": found[1]}
            else:
                entry |= {"kept": (key := f"{graph} {value.name}")}
                kept[key] = np.frombuffer(array.tobytes(), np.uint8)
            recipe.setdefault(str(tensor.location), []).append(entry)
    sizes = {name: (bundle / name).stat().st_size for name in recipe}
    np.savez_compressed(skeleton / KEPT, **kept)
    shutil.copy2(bundle / MANIFEST, skeleton)
    atomic_write_text(
        skeleton / RECIPE, json.dumps({"weights": _weights(model), "sizes": sizes, "files": recipe}) + "\n"
    )


def fill(skeleton: Path, model: Glip, bundle: Path) -> None:
    """The bundle again, into a new folder, from the weights that it was stripped of (`fits`)."""
    bundle.mkdir(parents=True)
    recipe = json.loads((skeleton / RECIPE).read_text(encoding="utf-8"))
    kept = np.load(skeleton / KEPT)
    forms = {(name, form): array for name, form, array in _forms(model)}
    for name, size in recipe["sizes"].items():
        data = np.zeros(size, np.uint8)
        for entry in recipe["files"][name]:
            array = kept[entry["kept"]] if "kept" in entry else forms[entry["name"], entry["form"]]
            data[entry["offset"] : entry["offset"] + entry["bytes"]] = (
                np.ascontiguousarray(array).reshape(-1).view("u1")
            )
        data.tofile(bundle / name)
    for name in (*(f"{graph}.onnx" for graph in GRAPHS), MANIFEST):
        shutil.copy2(skeleton / name, bundle)


def fits(skeleton: Path, model: Glip) -> bool:
    """Whether there is a skeleton, and of these very weights: small ones stand in the graphs' own files."""
    try:
        recipe = json.loads((skeleton / RECIPE).read_text(encoding="utf-8"))
    except OSError:
        return False
    return bool(recipe["weights"] == _weights(model))


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{os.getpid()}")


def _weights(model: Glip) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode() + parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _forms(model: Glip) -> Iterator[tuple[str, str, np.ndarray]]:
    """Every parameter in each form that a graph may hold it in."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            array = parameter.detach().cpu().numpy()
            yield name, AS_IT_IS, array
            if array.ndim > 1:
                yield name, TRANSPOSED, array.reshape(len(array), -1).T
        for name, module in model.named_modules():
            if isinstance(module, WindowAttention):
                yield name, BIAS, module.relative_position_bias().cpu().numpy()


def _digest(array: np.ndarray) -> tuple[int, bytes]:
    contiguous = np.ascontiguousarray(array)
    return contiguous.nbytes, hashlib.sha256(contiguous.tobytes()).digest()
