"""An inference library that is too old is told in one line, with what to install; pyproject.toml asks for the same."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import onnxruntime
import pytest
from packaging.requirements import Requirement

from glip_export.cli.app import app
from glip_export.cli.console import run_app
from glip_export.runtime import versions
from glip_export.runtime.versions import OLDEST, check_version

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def installed(monkeypatch: pytest.MonkeyPatch, found: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(versions.metadata, "version", version)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            {"onnxruntime": "1.23.2"},
            "onnxruntime 1.23.2 cannot run the fusion head (no DeformConv): pip install 'onnxruntime>=1.25'",
        ),
        (
            {"onnxruntime-gpu": "1.24.0"},
            "onnxruntime-gpu 1.24.0 cannot run the fusion head (no DeformConv): pip install 'onnxruntime-gpu>=1.25'",
        ),
        (  # both are installed, and the second one's files lie on top
            {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.9.0"},
            "onnxruntime-gpu 1.9.0 cannot run the fusion head (no DeformConv): pip install 'onnxruntime-gpu>=1.25'",
        ),
    ],
)
def test_an_old_onnxruntime_ends_detect_and_export_with_one_line(
    found: dict[str, str],
    told: str,
    tiny_bundle: Path,
    oracle_tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    installed(monkeypatch, found)
    monkeypatch.setattr(onnxruntime, "__version__", list(found.values())[-1])
    photo = str(Path(versions.__file__).parents[1] / "data" / "pictures" / "cat.jpg")
    detect = ["detect", photo, "--prompt", "cat", "--bundle", str(tiny_bundle), "--backend", "onnxruntime"]
    onnx = ["onnx", "--weights", str(oracle_tiny / "weights.pth"), "--output", str(tmp_path / "new")]
    for command in (detect, onnx):
        with pytest.raises(SystemExit) as stopped:
            run_app(lambda command=command: app(command), "glip-export")
        assert stopped.value.code == 2
        assert capsys.readouterr().err.strip() == f"glip-export: {told}"
    assert not (tmp_path / "new").exists()


def test_an_old_openvino_is_told(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")
    from glip_export import Detector
    from glip_export.errors import BackendError

    installed(monkeypatch, {"openvino": "2025.4.0"})
    monkeypatch.setattr(openvino, "__version__", "2025.4.0-20398-8fdad55727d")
    with pytest.raises(BackendError, match=r"^openvino 2025\.4\.0 is older .*: pip install 'openvino>=2026\.1'$"):
        Detector.open(tiny_bundle, backend="openvino")


@pytest.mark.parametrize("version", ["1.25.0", "1.25.0.dev20260301001", "1.32.0", "2.0.0", "of-our-own"])
def test_new_enough(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    check_version(onnxruntime)


def test_the_oldest_releases_are_those_of_pyproject() -> None:
    extras = PROJECT["optional-dependencies"]
    asked = [Requirement(line) for line in (*PROJECT["dependencies"], *extras["gpu"], *extras["openvino"])]
    bounds = {requirement.name: str(requirement.specifier) for requirement in asked}
    for oldest in OLDEST.values():
        for package in oldest.packages:
            assert bounds[package] == f">={oldest.release}"
