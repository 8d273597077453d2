"""Engines are really built here, with TensorRT for RTX and no GPU; what is built when, with a builder that pretends."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pretend_builder import Pretend
from waiting import wait_until_gone

from glip_export.bundle import Bundle
from glip_export.config import GlipConfig
from glip_export.errors import BackendError, BundleError, GlipExportError
from glip_export.graphs.contracts import GRAPHS, graphs_of
from glip_export.trt import build as build_module
from glip_export.trt.build import build_engines, plan_build
from glip_export.trt.builder import Job
from glip_export.trt.builder_process import run_builder
from glip_export.trt.engine_set import read_engine_set
from glip_export.trt.flavor import Flavor, Gpu, is_installed
from glip_export.trt.recipe import Range, Recipe, recipe_for

needs_rtx = pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
CANDIDATES = ["candidate_boxes", "candidate_scores", "candidate_labels"]


@pytest.fixture(scope="module")
def built(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small GLIP with fp16 and fp32 engines, both with plugins."""
    folder = tmp_path_factory.mktemp("built") / "tiny"
    shutil.copytree(tiny_bundle, folder)
    for precision in ("fp16", "fp32"):
        build_engines(folder, "tensorrt_rtx", precision)
    return folder


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("fp32", "float32")])
def test_three_engines_with_plugins_and_a_dynamic_profile(built: Path, precision: str, dtype: str) -> None:
    bundle = Bundle.open(built)
    engines = read_engine_set(bundle, "tensorrt_rtx", precision)
    assert (engines.deform_conv, engines.nms, engines.gpu) == ("plugin", "plugin", None)
    assert list(engines.graphs) == list(GRAPHS)
    for name, spec in graphs_of(GlipConfig()).items():
        engine = engines.graphs[name]
        assert engine.inputs == spec.input_names and engine.outputs == spec.output_names
        assert engines.engine_path(name).stat().st_size == engine.bytes > 1_000_000
        for kind in ("weight_bytes", "multiply_adds"):
            assert engine.type_shares[kind][dtype] >= 0.95 * sum(engine.type_shares[kind].values())
    (images,) = (profile["images"] for profile in engines.graphs["vision_backbone"].profiles)
    assert images == {"min": [1, 3, 64, 64], "opt": [1, 3, 800, 1216], "max": [4, 3, 1344, 1344]}
    assert engines.graphs["text_encoder"].profiles[0]["input_ids"]["max"] == [4, 64]  # what its captions hold
    content = engines.engine_path("fusion_head").read_bytes()
    assert b"GlipDeformIm2Col" in content and b"GlipNms" in content
    assert b"Glip" not in engines.engine_path("vision_backbone").read_bytes()


@needs_rtx
@pytest.mark.slow
def test_fp16_engines_are_smaller(built: Path) -> None:
    bundle = Bundle.open(built)
    sizes = {
        precision: read_engine_set(bundle, "tensorrt_rtx", precision).graphs["text_encoder"].bytes
        for precision in ("fp16", "fp32")
    }
    assert sizes["fp16"] < 0.7 * sizes["fp32"]


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_without_plugins_only_the_fusion_head_is_built_again(built: Path, tmp_path: Path, precision: str) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(built, folder)
    before = read_engine_set(Bundle.open(folder), "tensorrt_rtx", precision)
    steps: list[str] = []
    native = build_engines(
        folder, "tensorrt_rtx", precision, deform_conv="gridsample", nms="host", progress=steps.append
    )
    assert native.built == ("fusion_head",) and all(step.startswith("fusion_head: ") for step in steps)
    assert "fusion_head: building" in steps and any(" of " in step for step in steps)
    assert native.graphs["fusion_head"].outputs == CANDIDATES
    assert b"Glip" not in native.engine_path("fusion_head").read_bytes()
    assert native.graphs["vision_backbone"] == before.graphs["vision_backbone"]
    assert native == read_engine_set(Bundle.open(folder), "tensorrt_rtx", precision)  # every hash right
    assert native.key != before.key
    assert sorted(path.name for path in native.folder.iterdir()) == sorted(
        ["engines.json", *(f"{graph}.engine" for graph in GRAPHS)]
    )
    assert not list((folder / "cache").iterdir())


@needs_rtx
@pytest.mark.slow
def test_a_second_call_builds_nothing(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(job: Job, say: object) -> None:
        raise AssertionError(f"{job.graph} was built")

    monkeypatch.setattr(build_module, "run_builder", fail)
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    engines = build_engines(built, "tensorrt_rtx", "fp16")
    assert engines.built == ()
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before


BUILD = "import sys; from glip_export import build_engines; build_engines(sys.argv[1], 'tensorrt_rtx', progress=print)"


@needs_rtx
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_build_leaves_no_engine(tiny_bundle: Path, tmp_path: Path, pretend) -> None:
    import psutil

    folder = tmp_path / "tiny"
    shutil.copytree(tiny_bundle, folder)
    before = Bundle.open(folder)
    with subprocess.Popen(
        [sys.executable, "-u", "-c", BUILD, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any("vision_backbone: building" in line for line in process.stdout)  # the text encoder is finished
        (builder,) = psutil.Process(process.pid).children()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    wait_until_gone([builder.pid])  # it ends with its parent
    assert not list(folder.rglob("*.engine")) and not list(folder.rglob("engines.json"))
    opened = Bundle.open(folder)
    assert opened == before
    with pytest.raises(BundleError, match="has no fp16 engines of tensorrt_rtx"):
        read_engine_set(opened, "tensorrt_rtx", "fp16")
    assert len(list(folder.rglob("*.unfinished"))) >= 1
    pretend.build(folder)
    assert not list(folder.rglob("*.unfinished")) and not list((folder / "cache").iterdir())


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """No TensorRT at all."""
    return Pretend(monkeypatch)


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_bundle, tmp_path / "tiny")
    return tmp_path / "tiny"


def changed(recipe: Recipe, **ranges: Range) -> Recipe:
    """The recipe with other ranges in its profile."""
    return dataclasses.replace(recipe, profiles=(dataclasses.replace(recipe.profiles[0], **ranges),))


ALL = ("text_encoder", "vision_backbone", "fusion_head")
HEAD = ("fusion_head",)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda recipe: {"recipe": changed(recipe, K=Range(1, 80, 128))}, HEAD),
        (lambda recipe: {"recipe": changed(recipe, H=Range(64, 640, 1344))}, ("vision_backbone", "fusion_head")),
        (lambda recipe: {"recipe": changed(recipe, T=Range(1, 20, 64))}, ("text_encoder", "fusion_head")),
        (lambda recipe: {"recipe": changed(recipe, B=Range(1, 3, 8))}, ALL),
        (lambda recipe: {"recipe": dataclasses.replace(recipe, workspace_mb=512)}, ALL),
        (lambda recipe: {"recipe": dataclasses.replace(recipe, compute_capabilities=("8.6",))}, ALL),
        (lambda recipe: {"recipe": dataclasses.replace(recipe, name="another", hardware="ampere_plus")}, ()),
        (lambda recipe: {"recipe": dataclasses.replace(recipe, timing_cache=False)}, ()),
        (lambda recipe: {"deform_conv": "gridsample"}, HEAD),
        (lambda recipe: {"deform_conv": "fused"}, HEAD),
        (lambda recipe: {"nms": "host"}, HEAD),
        (lambda recipe: {"precision": "bf16"}, ALL),
        (lambda recipe: {"flavor": "auto"}, ()),
        (lambda recipe: {}, ()),
    ],
)
def test_what_a_change_rebuilds(
    folder: Path, pretend: Pretend, change: Callable[[Recipe], dict[str, Any]], again: tuple[str, ...]
) -> None:
    first = pretend.build(folder)
    assert first.built == ALL
    second = pretend.build(folder, **change(recipe_for(Bundle.open(folder).config)))
    assert second.built == again
    Bundle.open(folder)


def test_another_version_or_gpu_or_graph_is_another_engine(
    folder: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pretend.build(folder, "tensorrt").gpu == {"name": "NVIDIA L4", "compute_capability": "8.9"}
    assert pretend.build(folder, "tensorrt").built == ()
    assert [Path(job.timing_cache or "").name for job in plan_build(folder, "tensorrt").jobs.values()] == [
        "timing-10.13.0.cache"
    ] * 3
    monkeypatch.setattr(build_module, "find_gpu", lambda: Gpu("NVIDIA A10", "8.6"))
    assert pretend.build(folder, "tensorrt").built == ALL
    assert pretend.build(folder).built == ALL
    assert pretend.build(folder).gpu is None  # RTX builds for any
    monkeypatch.setattr(build_module, "load_flavor", lambda name: Flavor(name, "1.8.0", ModuleType(name)))
    assert pretend.build(folder).built == ALL
    bundle = Bundle.open(folder)
    file = dataclasses.replace(bundle.files["text_encoder.onnx.data"], sha256="0" * 64)
    opened = dataclasses.replace(bundle, files={**bundle.files, "text_encoder.onnx.data": file})
    jobs = plan_build(folder).jobs
    flavor = Flavor("tensorrt_rtx", "1.8.0", ModuleType("tensorrt_rtx"))
    differ = [
        name
        for name in ALL
        if build_module._key(opened, jobs[name], flavor) != build_module._key(bundle, jobs[name], flavor)
    ]
    assert differ == ["text_encoder"]


def test_a_changed_pass_is_another_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "glip_export"
    sources = Path(build_module.__file__).parents[1]
    for part in ("graphs", "trt"):
        shutil.copytree(sources / part, package / part)
    monkeypatch.setattr(build_module, "__file__", str(package / "trt" / "build.py"))
    passes = build_module._passes.__wrapped__
    before = passes()
    for name in build_module._NOT_IN_KEYS:
        (found,) = package.rglob(name)
        found.write_text(found.read_text() + "\n")
    assert passes() == before
    keyed = ("lowering", "builder", "plugins", "launches", "dyconv_launches")
    for name in (*(f"trt/{each}.py" for each in keyed), "graphs/precision.py", "graphs/contracts.py"):
        (package / name).write_text((package / name).read_text() + "\n")
        assert passes() != before
        before = passes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "engines.json").write_text("{"),
        lambda folder: (folder / "engines.json").unlink(),
        shutil.rmtree,
    ],
)
def test_a_damaged_set_is_built_anew(folder: Path, pretend: Pretend, damage: Callable[[Path], None]) -> None:
    damage(pretend.build(folder).folder)
    with pytest.raises(BundleError):
        Bundle.open(folder)
    assert pretend.build(folder).built == ALL
    assert pretend.build(folder).built == ()


def test_a_damaged_engine_alone_is_built_anew(folder: Path, pretend: Pretend) -> None:
    first = pretend.build(folder)
    content = bytearray(first.engine_path("vision_backbone").read_bytes())
    content[0] ^= 1
    first.engine_path("vision_backbone").write_bytes(content)
    assert pretend.build(folder).built == ("vision_backbone",)
    Bundle.open(folder)


def test_a_failed_build_leaves_the_old_engines(folder: Path, pretend: Pretend) -> None:
    pretend.build(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    pretend.fails = "fusion_head"
    with pytest.raises(BackendError, match="fusion_head: TensorRT would not"):
        build_engines(folder, "tensorrt_rtx", nms="host")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_precisions_and_flavors_stand_side_by_side(folder: Path, pretend: Pretend) -> None:
    for flavor in ("tensorrt", "tensorrt_rtx"):
        for precision in ("fp16", "bf16", "fp32"):
            assert pretend.build(Bundle.open(folder), flavor, precision).built == ALL
    assert sum(name.endswith(".engine") for name in Bundle.open(folder).files) == 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "there is no precision 'int4': choose fp16 or bf16 or fp32 or int8"),
        ({"deform_conv": "native"}, "there is no form of deform_conv 'native': choose plugin or gridsample or fused"),
        (
            {"deform_conv": "fused", "precision": "bf16"},
            "deform_conv fused is for fp16 and fp32, not bf16: choose plugin",
        ),
        ({"nms": "gpu"}, "there is no form of nms 'gpu': choose plugin or native or host"),
        ({"recipe": "none.yaml"}, r"there is no recipe none\.yaml"),
    ],
)
def test_wrong_words(folder: Path, pretend: Pretend, options: dict[str, str], message: str) -> None:
    with pytest.raises(GlipExportError, match=message):
        build_engines(folder, **options)


def test_what_needs_a_gpu_is_told_before(folder: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dataclasses.replace(recipe_for(Bundle.open(folder).config), refit=True)
    assert pretend.build(folder, recipe=recipe).built == ALL  # there is one
    monkeypatch.setattr(build_module, "find_gpu", lambda: None)
    with pytest.raises(BackendError, match="recipe glip_t: refit needs a GPU to build, and none works here"):
        build_engines(folder, recipe=recipe)


def test_only_an_fp32_bundle_is_built_from(folder: Path, pretend: Pretend) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "precision": "fp16"}))
    with pytest.raises(BundleError, match="is fp16; engines are built from an fp32 bundle"):
        build_engines(folder)


def test_int8_engines_are_of_an_int8_bundle_and_no_others(folder: Path, pretend: Pretend) -> None:
    with pytest.raises(BundleError, match=r"is fp32; int8 engines are built from an int8 bundle: .*quantize"):
        build_engines(folder, precision="int8")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "precision": "int8"}))
    with pytest.raises(BundleError, match="is int8; engines are built from an fp32 bundle; of this one with --int8"):
        build_engines(folder)
    assert plan_build(folder, precision="int8").jobs["fusion_head"].precision == "int8"


def job_of(folder: Path, graph: str = "text_encoder", **changes: Any) -> Job:
    return dataclasses.replace(plan_build(folder).jobs[graph], engine=str(folder / "an.engine"), **changes)


def ending(program: str, folder: Path) -> str:
    """An interpreter that runs `program` whatever it is told."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{program}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(os.name == "nt", reason="shell scripts")
@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.abort()", "text_encoder: its builder was ended by SIGABRT$"),
        ("import os; os.kill(os.getpid(), 9)", r"its builder was ended by SIGKILL \(out of memory\?\)$"),
        ("import sys; print('no space', file=sys.stderr); sys.exit(3)", "its builder ended with code 3: no space$"),
        ("""print('{"error": "node x cannot be"}')""", "text_encoder: node x cannot be$"),
        (
            "import sys; sys.stdin.readline(); print('{\"engine\": {}}', flush=True); "
            "print('[ERROR] Exception caught in get_workspace_size()', file=sys.stderr)",
            r"text_encoder: \[ERROR\] Exception caught in get_workspace_size",
        ),
    ],
)
def test_how_a_builder_ends_is_told(
    folder: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    job = job_of(folder)
    monkeypatch.setattr(sys, "executable", ending(program, folder))
    with pytest.raises(BackendError, match=message) as caught:
        run_builder(job, lambda step: None)
    assert "\n" not in str(caught.value)


@needs_rtx
@pytest.mark.slow
def test_several_profiles_and_chosen_gpus(folder: Path, pretend: Pretend) -> None:
    """A bfloat16 engine of the text encoder alone, with every option that RTX takes without a GPU."""
    recipe = recipe_for(Bundle.open(folder).config)
    profiles = (recipe.profiles[0], dataclasses.replace(recipe.profiles[0], B=Range(4, 8, 8)))
    recipe = dataclasses.replace(
        recipe, profiles=profiles, workspace_mb=512, optimization_level=2, compute_capabilities=("8.6", "8.9")
    )
    job = plan_build(folder, precision="bf16", recipe=recipe).jobs["text_encoder"]
    said: list[str] = []
    facts = run_builder(dataclasses.replace(job, engine=str(folder / "an.engine")), said.append)
    assert len(job.profiles) == 2 and job.profiles[1]["input_ids"]["min"] == [4, 1]
    assert facts["outputs"] == ["text_features"] and facts["type_shares"]["weight_bytes"]["bfloat16"] > 4_000_000
    assert (folder / "an.engine").stat().st_size > 4_000_000
    assert said[0] == "converting to bf16" and "building" in said
    assert not list(folder.glob("tmp*"))


FALLING = {name: {"min": [1, 9], "opt": [1, 4], "max": [4, 64]} for name in ("input_ids", "attention_mask")}


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profiles": [FALLING]}, "TensorRT refuses the recipe's shapes"),
        ({"options": {"compute_capabilities": ("7.0",)}}, r"cannot compile for 7\.0, only for .*SM86"),
        ({"onnx": "none.onnx"}, r"none\.onnx"),
    ],
)
def test_what_tensorrt_refuses_is_one_line(
    folder: Path, pretend: Pretend, changes: dict[str, Any], message: str
) -> None:
    options = {"workspace_mb": None, "optimization_level": None, **changes.pop("options", {})}
    with pytest.raises(BackendError, match=message) as caught:
        run_builder(job_of(folder, options=options, **changes), lambda step: None)
    assert "\n" not in str(caught.value) and "text_encoder: " in str(caught.value)
    assert not (folder / "an.engine").exists()


PARSE_WHAT_IT_DOES_NOT_KNOW = """
import sys
from pathlib import Path
import onnx
from onnx import TensorProto, helper
from glip_export.errors import BackendError
from glip_export.trt.builder import Job, _build_engine

x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
y = helper.make_tensor_value_info("y", TensorProto.INT64, None)
graph = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"], name="the_node")], "g", [x], [y])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), sys.argv[1])
job = Job("g", "", "", {}, "tensorrt_rtx", "fp16", "plugin", "plugin", [], {}, None)
try:
    _build_engine(job, Path(sys.argv[1]), print)
except BackendError as error:
    print(error)
"""


@needs_rtx
def test_a_node_that_tensorrt_does_not_know_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARSE_WHAT_IT_DOES_NOT_KNOW, str(tmp_path / "graph.onnx")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("reading\nTensorRT cannot read the node the_node (NonZero): ")
    assert len(done.stdout.splitlines()) == 2
