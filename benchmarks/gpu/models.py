"""The bundles that the steps run, each put into the output folder once a run by whoever asks first.

The demo's is brought along in the parcel, for exporting it takes the machine's minutes; without one it is exported.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from context import ROOT, Context

if TYPE_CHECKING:
    from compact_oracle import OracleCase

    from glip_export.bundle import Bundle
    from glip_export.model.glip import Glip

DEMO, ORACLE, FULL = "demo", "oracle", "full-size"


def bundle_of(context: Context, name: str) -> Bundle:
    """The trained demo model's, the original's small one, or the full-size GLIP-T (C)'s that the timings take too."""
    if name == FULL:
        from full_size import glip_bundle

        return glip_bundle(context)
    if name == ORACLE:
        return _once(context, name, lambda folder: export(_oracle_model(), folder))
    if (brought := context.parcel / DEMO).is_dir():
        return _once(context, name, lambda folder: shutil.copytree(brought, folder))
    return _once(context, name, lambda folder: export(demo_model(), folder))


@cache
def oracle() -> OracleCase:
    """The small GLIP that the original ran, and what it gave."""
    from compact_oracle import OracleCase

    return OracleCase("tiny")


def _once(context: Context, name: str, make: Callable[[Path], object]) -> Bundle:
    """The bundle of that name; a start that was cut off leaves none."""
    from glip_export import Bundle

    folder = context.output / name
    if not folder.is_dir():
        partial = context.output / f"{name}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        make(partial)
        partial.rename(folder)
    return Bundle.open(folder)


def export(model: Glip, folder: Path) -> None:
    """Its bundle in the folder."""
    from glip_export import export_onnx

    export_onnx(model, folder)


def demo_model() -> Glip:
    """The trained model of the repository."""
    from glip_export import load_model

    demo = ROOT / "demo"
    return load_model(demo / "glip_demo.safetensors", demo / "glip_demo.yaml", bert_config=demo / "bert_config.json")


def _oracle_model() -> Glip:
    from glip_export import load_model

    with tempfile.TemporaryDirectory() as folder:
        weights = oracle().write_checkpoint(Path(folder) / "weights.pth")
        return load_model(weights, oracle().config, bert_config=oracle().bert_config)
