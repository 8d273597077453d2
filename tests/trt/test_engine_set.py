"""engines.json: what is written can be read, and whatever was changed in it is one line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_bundle import fill

from glip_export.bundle import Bundle
from glip_export.config import GlipConfig
from glip_export.errors import BundleError
from glip_export.graphs.contracts import GRAPHS, graphs_of
from glip_export.trt.engine_set import Engine, EngineSet, engine_sets, read_engine_set

SPECS = graphs_of(GlipConfig())  # of the published models

FOLDER = "tensorrt_rtx-fp16"
KEY = hashlib.sha256(b"key").hexdigest()


def engine(graph: str, content: bytes) -> Engine:
    shapes = {tensor.name: [2] * len(tensor.axes) for tensor in SPECS[graph].inputs}
    return Engine(
        file=f"{graph}.engine",
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        seconds=1.5,
        key=KEY,
        profiles=[{name: {"min": shape, "opt": shape, "max": shape} for name, shape in shapes.items()}],
        inputs=SPECS[graph].input_names,
        outputs=SPECS[graph].output_names,
        type_shares={"weight_bytes": {"float16": 3, "float32": 1}, "multiply_adds": {"float16": 99}},
    )


def add_engines(folder: Path, flavor: str = "tensorrt_rtx", precision: str = "fp16", **changes: Any) -> Bundle:
    """A set of engines that are a few bytes each, added to a bundle as a build does."""
    bundle = Bundle.open(folder)
    made = folder / "cache" / "made"
    made.mkdir(parents=True)
    for graph in GRAPHS:
        (made / f"{graph}.engine").write_bytes(graph.encode())
    fields = {
        "flavor": flavor, "version": "1.7.1.116", "precision": precision, "deform_conv": "plugin", "nms": "plugin",
        "recipe": {"name": "glip_t"}, "key": KEY, "graphs": {graph: engine(graph, graph.encode()) for graph in GRAPHS},
    }  # fmt: skip
    engines = EngineSet(folder=made, **{**fields, **changes})
    (made / "engines.json").write_text(json.dumps(engines.to_json()))
    return bundle.take_folder(made, f"{flavor}-{precision}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "glip_tiny")
    add_engines(tmp_path / "glip_tiny")
    return tmp_path / "glip_tiny"


def test_round_trip(folder: Path) -> None:
    engines = read_engine_set(Bundle.open(folder), "tensorrt_rtx", "fp16")
    assert engines.folder == folder / FOLDER
    assert (engines.flavor, engines.version, engines.precision) == ("tensorrt_rtx", "1.7.1.116", "fp16")
    assert (engines.deform_conv, engines.nms, engines.key) == ("plugin", "plugin", KEY)
    assert engines.gpu is None and engines.built == ()
    assert list(engines.graphs) == list(GRAPHS)
    assert engines.graphs["fusion_head"] == engine("fusion_head", b"fusion_head")
    assert engines.engine_path("text_encoder").read_bytes() == b"text_encoder"
    assert engines == dataclasses.replace(engines, built=("text_encoder",))


def test_all_sets_of_a_bundle_in_order(folder: Path) -> None:
    gpu = {"name": "NVIDIA L4", "compute_capability": "8.9"}
    add_engines(folder, "tensorrt", "bf16", gpu=gpu)
    add_engines(folder, "tensorrt_rtx", "fp32")
    sets = engine_sets(Bundle.open(folder))
    assert [each.folder.name for each in sets] == ["tensorrt-bf16", "tensorrt_rtx-fp16", "tensorrt_rtx-fp32"]
    assert sets[0].gpu == gpu


def test_none_built(tmp_path: Path) -> None:
    bundle = fill(tmp_path / "glip_tiny")
    assert engine_sets(bundle) == []
    with pytest.raises(
        BundleError, match=r"has no bf16 engines of tensorrt; build them with: glip-export trt .* --bf16"
    ):
        read_engine_set(bundle, "tensorrt", "bf16")


def test_a_folder_that_is_not_listed_is_not_read(folder: Path) -> None:
    (folder / FOLDER).rename(folder / "tensorrt-fp32")
    bundle = Bundle.open(folder, without=FOLDER)
    with pytest.raises(BundleError, match="has no fp32 engines of tensorrt;"):
        read_engine_set(bundle, "tensorrt", "fp32")


def damaged(folder: Path, content: bytes, message: str) -> None:
    (folder / FOLDER / "engines.json").write_bytes(content)
    (folder / FOLDER).rename(folder / "cache" / "again")
    bundle = Bundle.open(folder, without=FOLDER).take_folder(folder / "cache" / "again", FOLDER)  # listed as it is now
    with pytest.raises(BundleError, match=message) as caught:
        read_engine_set(bundle, "tensorrt_rtx", "fp16")
    text = str(caught.value)
    assert "\n" not in text and text.endswith("--fp16 --flavor tensorrt_rtx") and "engines.json is damaged" in text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b"[]", b" " * (4 << 20) + b"{}"])
def test_what_is_no_json_object(folder: Path, content: bytes) -> None:
    damaged(folder, content, "is damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda j: j.update(format=2), "a newer glip-export made it"),
        (lambda j: j.pop("key"), "it: key is missing"),
        (lambda j: j.update(version=3), "it: version should be a text"),
        (lambda j: j.update(recipe=[]), "it: recipe should be an object"),
        (lambda j: j.update(precision="fp32"), "it is of tensorrt_rtx at fp32"),
        (lambda j: j.update(gpu="RTX"), "gpu should be an object"),
        (lambda j: j["graphs"].pop("fusion_head"), "its graphs are text_encoder, vision_backbone"),
        (lambda j: j["graphs"].update(fusion_head=3), "fusion_head should be an object"),
        (lambda j: j["graphs"]["fusion_head"].update(bytes=True), "fusion_head: bytes should be a whole number"),
        (lambda j: j["graphs"]["fusion_head"].update(seconds="1"), "fusion_head: seconds should be a number"),
        (lambda j: j["graphs"]["fusion_head"].update(bytes=1), "is not the engine that it describes"),
        (lambda j: j["graphs"]["fusion_head"].update(sha256=KEY), "is not the engine that it describes"),
        (lambda j: j["graphs"]["fusion_head"].update(file="../secret"), "'../secret' is no file of the bundle"),
        (lambda j: j["graphs"]["fusion_head"].update(file="none"), "'none' is no file of the bundle"),
        (lambda j: j["graphs"]["fusion_head"].update(inputs=["p3"]), "inputs should be p3, p4"),
        (lambda j: j["graphs"]["fusion_head"].update(outputs=[1]), "and outputs names"),
        (
            lambda j: j["graphs"]["fusion_head"]["type_shares"].update(weight_bytes=1),
            "weight_bytes should hold numbers",
        ),
        (lambda j: j["graphs"]["fusion_head"]["type_shares"]["weight_bytes"].update(a="b"), "should hold numbers"),
        (lambda j: j["graphs"]["fusion_head"].update(profiles=[]), "profiles should hold the min, opt and max shape"),
        (lambda j: j["graphs"]["fusion_head"]["profiles"][0].pop("p3"), "profiles should hold"),
        (lambda j: j["graphs"]["fusion_head"]["profiles"][0].update(p3=1), "profiles should hold"),
        (lambda j: j["graphs"]["fusion_head"]["profiles"][0]["p3"].update(min=[1, "2", 3, 4]), "profiles"),
        (lambda j: j["graphs"]["fusion_head"]["profiles"][0]["p3"].update(min=[1]), "profiles should hold"),
    ],
)
def test_wrong_fields_are_told(folder: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    values = json.loads((folder / FOLDER / "engines.json").read_text())
    change(values)
    damaged(folder, json.dumps(values).encode(), message)


def test_a_damaged_file_names_the_build_that_mends_it(folder: Path) -> None:
    (folder / FOLDER / "fusion_head.engine").write_bytes(b"fusion_heaD")
    with pytest.raises(BundleError, match=r"SHA-256 .* glip-export trt .* --fp16 --flavor tensorrt_rtx$"):
        Bundle.open(folder)
    (folder / FOLDER / "fusion_head.engine").unlink()
    with pytest.raises(BundleError, match=r"lacks its file tensorrt_rtx-fp16/fusion_head\.engine: build its engines"):
        Bundle.open(folder, verify=False)
    assert len(Bundle.open(folder, without=FOLDER).files) == 4
