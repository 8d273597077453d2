"""Addresses of clusters that are none, or that nobody answers at, told on one line."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from importlib.util import find_spec
from pathlib import Path

import pytest
from raylets import free_port

from glip_export.errors import BackendError, GlipExportError
from glip_export.labelling.cluster.connection import connected
from glip_export.labelling.cluster.nodes import difference
from glip_export.labelling.cluster.probe import installed_package
from glip_export.labelling.cluster.settings import Cluster


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address": "ray://head:10001"}, "a Ray Client's address, through which Ray Data does not run"),
        ({"address": "head"}, "--ray is auto, local or HOST:PORT, not 'head'"),
        ({"address": "http://head:8265"}, "--ray is auto, local or HOST:PORT"),
        ({"workers": 0}, "workers are a whole number from 1 on, not 0"),
        ({"threads_per_worker": 0}, "threads a worker"),
        ({"gpus_per_worker": 1.5}, "GPUs a worker are 0, a part of 1, or a whole number, not 1.5"),
        ({"gpus_per_worker": float("nan")}, "GPUs a worker are"),
    ],
)
def test_what_no_cluster_can_be(options: dict[str, object], words: str) -> None:
    with pytest.raises(GlipExportError, match=words):
        Cluster(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["head:6379", "10.0.0.7:6379", "[::1]:6379", "auto", "local"])
def test_addresses(address: str) -> None:
    assert Cluster(address, gpus_per_worker=0.25).address == address


@pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")
def test_nobody_answers() -> None:
    with pytest.raises(BackendError, match=r"no Ray cluster answers at 127.0.0.1:\d+ \(Connection refused\)"):
        connected(Cluster(f"127.0.0.1:{free_port()}")).__enter__()


@pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")
@pytest.mark.parametrize(
    ("raised", "words"),
    [
        ("Could not find any running Ray instance. Please", "^no Ray cluster runs on this machine: start one with"),
        ("Failed to connect to Ray cluster at 1.2.3.4:6379", r"1.2.3.4:6379\).*a token, set RAY_AUTH_MODE=token$"),
    ],
)
def test_why_the_cluster_of_this_machine_is_none(raised: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def init(**options: object) -> None:
        raise ConnectionError(raised)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(BackendError, match=words), connected(Cluster()):
        pass


def test_another_package_and_none_are_told() -> None:
    ours = installed_package()
    assert len(ours) == 64 and not difference(ours, ours)
    assert "has no glip_export" in difference("", ours)
    assert "has another version of glip_export" in difference(ours[::-1], ours)


def test_a_package_is_known_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each found anew, as on a machine of its own."""
    (tmp_path / "glip_export" / "room").mkdir(parents=True)
    for name in ("__init__.py", "room/__init__.py"):
        (tmp_path / "glip_export" / name).write_text("")
    spec = importlib.machinery.PathFinder.find_spec("glip_export", [str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    first = installed_package()
    assert first == installed_package() != ""
    (tmp_path / "glip_export" / "notes.txt").write_text("no code")
    assert installed_package() == first
    (tmp_path / "glip_export" / "room" / "__init__.py").write_text("A = 1")
    assert installed_package() != first
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert installed_package() == ""
