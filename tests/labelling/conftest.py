"""Pictures that the tests label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder of ten small pictures of several sizes, and a file that is none."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    rng = np.random.default_rng(7)
    for number in range(10):
        shape = (rng.integers(40, 200), rng.integers(40, 200), 3)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder
