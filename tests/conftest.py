"""Where the test data is, and the small model and its bundle that many tests share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from glip_export.model.glip import Glip

DATA = Path(__file__).parent / "data"
DEMO = Path(__file__).parents[1] / "demo"


@pytest.fixture(scope="session")
def oracle_tiny() -> Path:
    """The small GLIP that the original ran: weights.pth, config.yaml, bert_config.json, prompt.json, io.npz."""
    return DATA / "oracle" / "tiny"


@pytest.fixture(scope="session")
def oracle_small() -> Path:
    """The original's captions, sizes, score aggregation, box decoding and NMS."""
    return DATA / "oracle" / "small"


@pytest.fixture(scope="session")
def tiny_io(oracle_tiny: Path) -> dict[str, np.ndarray]:
    """The original's tensors on two pictures, by the names of the oracle's README."""
    return dict(np.load(oracle_tiny / "io.npz"))


@pytest.fixture(scope="session")
def tiny_class_map(oracle_tiny: Path) -> np.ndarray:
    """(1, 64, 4) f32: the class map (MEAN) of the small oracle's prompt."""
    class_map = np.zeros((1, 64, 4), np.float32)
    for label, tokens in json.loads((oracle_tiny / "prompt.json").read_text())["positive_map"].items():
        class_map[0, tokens, int(label) - 1] = 1 / len(tokens)
    return class_map


@pytest.fixture(scope="session")
def tiny_model(oracle_tiny: Path) -> Glip:
    """The small GLIP in PyTorch."""
    from glip_export import load_model

    return load_model(
        oracle_tiny / "weights.pth", oracle_tiny / "config.yaml", bert_config=oracle_tiny / "bert_config.json"
    )


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: Glip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small GLIP's bundle, exported once for all of pytest's workers; not to be changed."""
    return _exported_once("tiny", lambda: tiny_model, tmp_path_factory)


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained demo model's bundle, exported once for all of pytest's workers; not to be changed."""
    weights = DEMO / "glip_demo.safetensors"
    if not weights.exists():
        pytest.skip(f"the demo model's weights {weights.name} are not there yet")

    def load() -> Glip:
        from glip_export import load_model

        return load_model(weights, DEMO / "glip_demo.yaml", bert_config=DEMO / "bert_config.json")

    return _exported_once("demo", load, tmp_path_factory)


def _exported_once(name: str, load: Callable[[], Glip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from filelock import FileLock

    from glip_export import export_onnx

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # the same for all workers of this run
    bundle = shared / name
    # A worker that crashes leaves no lock behind; one that hangs is ended before this runs out, with its test's name.
    with FileLock(shared / f"{name}.lock", timeout=1800):
        if not bundle.exists():
            export_onnx(load(), bundle)
    return bundle
