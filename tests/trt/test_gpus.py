"""The table of GPUs: the builder's own list, what documents and help say, and what a build and a session do by it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from pretend_builder import Pretend
from typer.testing import CliRunner

from glip_export.bundle import Bundle
from glip_export.cli.app import app
from glip_export.errors import BackendError, GlipExportError
from glip_export.runtime import tensorrt_session
from glip_export.runtime.tensorrt_session import TensorRtSession
from glip_export.trt import build as build_module
from glip_export.trt.build import plan_build
from glip_export.trt.flavor import choose_flavor, is_installed, load_flavor
from glip_export.trt.gpus import (
    GPUS,
    RTX_DEFAULT,
    RTX_TARGETS,
    Gpu,
    engine_targets,
    kind_of,
    markdown_table,
    owners,
    rtx_serves,
    rtx_summary,
)
from glip_export.trt.recipe import recipe_for

ROOT = Path(__file__).parents[2]
H100, A100 = Gpu("NVIDIA H100", "9.0"), Gpu("NVIDIA A100", "8.0")


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_bundle, tmp_path / "tiny", ignore=shutil.ignore_patterns("cache"))
    return tmp_path / "tiny"


def test_the_table() -> None:
    assert RTX_DEFAULT == ("8.6", "8.9", "12.0", "12.1")
    assert [kind.compute_capability for kind in GPUS if kind.cuda.value == "no"] == ["10.0", "10.3"]
    assert kind_of("13.0").tensorrt_rtx.value == kind_of("13.0").cuda.value == "unknown"
    assert kind_of("7.0").tensorrt_rtx.value == kind_of("7.0").cuda.value == "no"
    assert rtx_serves(Gpu("T4", "7.5"), ("7.5", "8.9")) and not rtx_serves(Gpu("T4", "7.5"))
    assert not rtx_serves(Gpu("RTX 3060", "8.6"), ("8.9",)) and not rtx_serves(A100, ("8.0",))


@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_the_installed_rtx_compiles_for_what_the_table_says() -> None:
    trt = load_flavor("tensorrt_rtx").module
    known = {name for name in vars(trt.ComputeCapability) if re.fullmatch(r"SM\d+", name)}
    assert known == {f"SM{word.replace('.', '')}" for word in RTX_TARGETS}


def test_documents_and_help_say_what_the_table_says() -> None:
    readme, gpu_doc = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/gpu.md"))
    help_text = CliRunner().invoke(app, ["trt", "--help"]).output
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", help_text).split())
    assert markdown_table() in gpu_doc
    assert len(set(owners())) == 3
    for line in owners():
        assert f"- {line}\n" in readme and f"- {line}\n" in gpu_doc and line in shown
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
    texts |= {path: path.read_text(encoding="utf-8") for path in ROOT.glob("engines/*.yaml")}
    for path, text in texts.items():
        assert not re.search(r"from Ampere|Ampere (and|or) later|Ampere \(", text), path


def test_engines_say_for_which_gpus_they_are() -> None:
    l4 = {"name": "NVIDIA L4", "compute_capability": "8.9"}
    assert engine_targets("tensorrt_rtx", {}, None) == RTX_DEFAULT
    assert engine_targets("tensorrt_rtx", {"compute_capabilities": ["7.5"]}, None) == ("7.5",)
    assert engine_targets("tensorrt", {"hardware": "this_gpu"}, l4) == ("8.9",)
    assert engine_targets("tensorrt", {"hardware": "ampere_plus"}, l4)[:3] == ("8.0", "8.6", "8.9")
    summary = rtx_summary()
    assert "12.0 and 12.1" in summary and "not for T4 (7.5), A100 (8.0), H100 (9.0), B200 (10.0)" in summary


def test_without_a_gpu_trt_says_for_which_gpus_the_engines_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pretend(monkeypatch)
    monkeypatch.setattr(build_module, "find_gpu", lambda: None)
    words = ["trt", str(folder), "--fp32", "--flavor", "tensorrt_rtx", "--json", str(tmp_path / "trt.json")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and rtx_summary() in done.output.replace("\n", "")
    assert "Mind" not in done.output
    assert json.loads((tmp_path / "trt.json").read_text())["compute_capabilities"] == list(RTX_DEFAULT)


def test_a_gpu_that_rtx_cannot_serve_is_told_before_anything_is_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend = Pretend(monkeypatch)
    monkeypatch.setattr(build_module, "choose_flavor", choose_flavor)
    monkeypatch.setattr("glip_export.trt.flavor.find_gpu", lambda: H100)
    with pytest.raises(BackendError, match=r"NVIDIA H100 .* no code for it: use --flavor tensorrt, or backend onnx"):
        pretend.build(folder, "tensorrt_rtx")
    assert not pretend.asked and not (folder / "cache").exists()
    recipe = dataclasses.replace(recipe_for(Bundle.open(folder).config), compute_capabilities=("9.0",))
    monkeypatch.setattr("glip_export.trt.flavor.is_installed", lambda name: True)
    with pytest.raises(
        GlipExportError, match="recipe glip_t: compute_capabilities: TensorRT for RTX has no code for 9"
    ):
        pretend.build(folder, "tensorrt_rtx", recipe=recipe)


def test_what_is_doubtful_is_told_and_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend = Pretend(monkeypatch)
    monkeypatch.setattr(build_module, "find_gpu", lambda: A100)
    assert pretend.build(folder).built
    assert [record.message for record in caplog.records] == [plan_build(folder, "tensorrt_rtx").doubt]
    assert "NVIDIA A100 (compute capability 8.0) is not on NVIDIA's list" in caplog.text
    monkeypatch.setattr(build_module, "find_gpu", lambda: H100)
    recipe = dataclasses.replace(recipe_for(Bundle.open(folder).config), compute_capabilities=("8.9",))
    doubt = plan_build(folder, "tensorrt_rtx", recipe=recipe).doubt
    assert doubt == "these engines are for compute capability 8.9, not for this NVIDIA H100 (compute capability 9.0)"
    assert plan_build(folder, "tensorrt").doubt is None


def test_engines_that_this_gpu_cannot_run_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Pretend(monkeypatch).build(folder)
    bundle = Bundle.open(folder)

    class LoadedError(Exception):
        pass

    def load(*_: object) -> None:
        raise LoadedError

    monkeypatch.setattr(tensorrt_session, "_load_library", load)

    def open_on(name: str, major: int, minor: int) -> None:
        from runtime.cuda.fake_driver import FakeDriver

        driver = FakeDriver()
        driver.name, driver.compute_capability = name, (major, minor)
        TensorRtSession(bundle, "tensorrt_rtx", driver=driver)

    for name, major, minor in (("NVIDIA H100", 9, 0), ("Orin", 8, 7), ("NVIDIA B200", 10, 0), ("Tesla T4", 7, 5)):
        with pytest.raises(BackendError, match=rf"^{name} \(.*{major}\.{minor}\): TensorRT for RTX .*: use --flavor "):
            open_on(name, major, minor)
    assert not caplog.records
    with pytest.raises(LoadedError):
        open_on("NVIDIA GeForce RTX 4090", 8, 9)
    assert not caplog.records
    with pytest.raises(LoadedError):
        open_on("NVIDIA A100", 8, 0)
    assert "NVIDIA A100 (compute capability 8.0) is not on NVIDIA's list" in caplog.text


def test_missing_engines_are_not_told_to_be_built_where_they_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = SimpleNamespace(path=Path("engines/tiny"), files={}, precision="fp32")
    monkeypatch.setattr(tensorrt_session, "find_gpu", lambda: H100)
    with pytest.raises(BackendError, match=r"^NVIDIA H100 .* no code for it: use --flavor tensorrt, or backend onnx"):
        tensorrt_session.open_engine_set(bundle, "tensorrt_rtx")  # type: ignore[arg-type]
    with pytest.raises(BackendError, match=r"has no tensorrt engines: build them with: .* --flavor tensorrt$"):
        tensorrt_session.open_engine_set(bundle, "tensorrt")  # type: ignore[arg-type]
