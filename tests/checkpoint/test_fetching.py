"""Where weights come from: paths and addresses."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from glip_export.checkpoint import resolve_weights
from glip_export.errors import CheckpointError


def test_local_paths(tmp_path: Path, oracle_tiny: Path) -> None:
    weights = oracle_tiny / "weights.pth"
    assert resolve_weights(str(weights)) == weights
    assert resolve_weights(weights) == weights
    with pytest.raises(CheckpointError, match="no such weights file"):
        resolve_weights(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="cannot read"):
        resolve_weights("a\0b")


@pytest.mark.parametrize(
    "address",
    ["hf://", "hf://a/b", "hf://a//c", "hf://a/b/", "hf://../b/c", "hf://a/b/../c", "hf://a/b/c d", "hf://a/b/.x"],
)
def test_malformed_addresses(address: str) -> None:
    with pytest.raises(CheckpointError, match="expected hf://OWNER/REPO/FILE"):
        resolve_weights(address)


def fake_hub(monkeypatch: pytest.MonkeyPatch, download: Any) -> None:
    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)


@pytest.mark.parametrize("address", ["hf://GLIPModel/GLIP/glip_large_model.pth", Path("hf://GLIPModel/GLIP/x/y-1.pth")])
def test_hub_addresses(monkeypatch: pytest.MonkeyPatch, address: str | Path) -> None:
    fake_hub(monkeypatch, lambda repo, file: f"/cache/{repo}/{file}")
    expected = str(address).split("GLIPModel/GLIP/")[1]
    assert resolve_weights(address) == Path("/cache/GLIPModel/GLIP") / expected


def test_hub_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repo: str, file: str) -> str:
        raise ConnectionError("no route to host\nmore")

    fake_hub(monkeypatch, offline)
    with pytest.raises(CheckpointError, match=r"hf://a/b/c: cannot be fetched \(no route to host\); check") as caught:
        resolve_weights("hf://a/b/c")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'glip-export\[hub\]'"):
        resolve_weights("hf://a/b/c")


def test_real_hub_when_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="cannot be fetched") as caught:
        resolve_weights("hf://GLIPModel/GLIP/glip_a_tiny_o365.pth")
    assert "\n" not in str(caught.value)
