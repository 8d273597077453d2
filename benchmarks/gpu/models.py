"""The bundles that the steps run, each put into the output folder once a run by whoever asks first.

From the skeletons that the parcel brings (`skeleton`), for an export takes the machine's minutes; else exported.
"""

from __future__ import annotations

import tempfile
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
    import skeleton
    from full_size import glip_bundle

    if name == FULL:
        return glip_bundle(context)
    return skeleton.made(context.output / name, context.parcel / name, MODELS[name])


def prepare(context: Context, name: str) -> None:
    """Writes the skeleton of the demo's or the original's bundle into the parcel, if it is not there."""
    import skeleton

    skeleton.keep(context.output / name, context.parcel / name, MODELS[name])


@cache
def oracle() -> OracleCase:
    """The small GLIP that the original ran, and what it gave."""
    from compact_oracle import OracleCase

    return OracleCase("tiny")


def _demo_model() -> Glip:
    from glip_export import load_model

    demo = ROOT / "demo"
    return load_model(demo / "glip_demo.safetensors", demo / "glip_demo.yaml", bert_config=demo / "bert_config.json")


def _oracle_model() -> Glip:
    from glip_export import load_model

    with tempfile.TemporaryDirectory() as folder:
        weights = oracle().write_checkpoint(Path(folder) / "weights.pth")
        return load_model(weights, oracle().config, bert_config=oracle().bert_config)


MODELS = {DEMO: _demo_model, ORACLE: _oracle_model}
