"""Pictures as files, the Detector to compare with, and a repository of the small model."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glip_export import Detector
from glip_export.serving.triton.repository import write_repository
from glip_export.serving.triton.settings import TritonSettings

PICTURES = Path(__file__).parents[2] / "glip_export" / "data" / "pictures"


def picture(width: int, height: int, name: str = "cat.jpg", turn: int = 0) -> bytes:
    """A PNG of this size."""
    stream = io.BytesIO()
    Image.open(PICTURES / name).convert("RGB").resize((width, height)).rotate(turn).save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """Twenty, of nine padded sizes."""
    sizes = [(96, 64), (96, 65), (64, 96), (160, 64), (90, 90), (128, 96), (70, 180), (200, 150), (333, 500), (99, 80)]
    return [picture(*size) for size in sizes] + [picture(*size, "coffee.jpg", 180) for size in sizes]


@pytest.fixture(scope="session")
def prompts() -> list[str | list[str]]:
    """Twenty: of one name and many, some too long for one caption."""
    names = ["cat", "remote control", "a very long name of a thing", "person", "traffic light", "U.S. flag", "Füße"]
    texts: list[str | list[str]] = [". ".join(names[first : first + 1 + first % 3]) for first in range(5)]
    texts += [names[first:] for first in range(7)]
    texts += [[f"red car number {number}" for number in range(60)], ["[cat", "dog]"]]
    return texts + [f"object {number}. cup" for number in range(20 - len(texts))]


@pytest.fixture(scope="session")
def detector(tiny_bundle: Path) -> Detector:
    """What every answer is compared with."""
    return Detector.open(tiny_bundle, threads=1)


@pytest.fixture(scope="session")
def repository(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with all models that can be written without an engine; not to be changed."""
    folder = tmp_path_factory.mktemp("triton") / "repository"
    write_repository(tiny_bundle, folder, TritonSettings(instances=2, max_wait_us=20_000), gpu=True)
    return folder


def text(*values: str | bytes) -> np.ndarray:
    """(n, 1) of BYTES."""
    return np.array([[v.encode() if isinstance(v, str) else v] for v in values], np.object_)
