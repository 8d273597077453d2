"""A real `glip-export serve` over the small model, shared by this folder's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import ServerProcess, running_server


@pytest.fixture(scope="session")
def server(tiny_bundle: Path) -> Iterator[ServerProcess]:
    with running_server(
        tiny_bundle, ["--backend", "onnxruntime", "--threads", "1", "--deadline-ms", "600000"]
    ) as running:
        yield running
