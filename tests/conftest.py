"""Where the test data is."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def oracle_tiny() -> Path:
    """The small GLIP that the original ran: weights.pth, config.yaml, bert_config.json, prompt.json, io.npz."""
    return DATA / "oracle" / "tiny"


@pytest.fixture(scope="session")
def oracle_small() -> Path:
    """The original's captions, sizes, score aggregation, box decoding and NMS."""
    return DATA / "oracle" / "small"
