"""What stands in config.pbtxt: read by Triton's own model configuration, and equal to the graphs' contract."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2 as triton

from glip_export import Bundle
from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.graphs.contracts import GRAPHS, graphs_of, pyramid_axes
from glip_export.serving.triton.model_config import detector_config, engine_graph_config, onnx_graph_config, runs_on_gpu
from glip_export.serving.triton.pbtxt import Word, to_pbtxt
from glip_export.serving.triton.settings import TritonSettings
from glip_export.trt.engine_set import Engine, EngineSet

SPECS = graphs_of(GlipConfig())  # of the published models


def parse(text: str) -> Any:
    """As Triton does: an unknown field or a wrong type is an error."""
    return text_format.Parse(text, triton.ModelConfig())


def dims(tensors: Any) -> dict[str, tuple[int, list[int]]]:
    return {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in tensors}


def test_every_config_of_a_repository_is_triton_s(repository: Path) -> None:
    configs = {path.parent.name: parse(path.read_text()) for path in repository.glob("*/config.pbtxt")}
    assert set(configs) == {"glip", "glip_gpu", *(f"glip_gpu_{graph}" for graph in GRAPHS)}
    for name, config in configs.items():
        assert config.name == name and list(config.instance_group)
        versions = [path.name for path in (repository / name).iterdir() if path.is_dir()]
        assert versions == ["1"]


def test_detector_config() -> None:
    settings = TritonSettings("openvino:bf16", 3, 2, 5, 700, 9, 1000, 2000, 30, 0)
    config = parse(detector_config("glip", settings))
    assert (config.backend, config.max_batch_size) == ("python", 5)
    assert [(group.count, group.kind) for group in config.instance_group] == [(2, triton.ModelInstanceGroup.KIND_CPU)]
    batching = config.dynamic_batching
    assert batching.max_queue_delay_microseconds == 700 and batching.default_queue_policy.max_queue_size == 9
    assert batching.default_queue_policy.timeout_action == triton.ModelQueuePolicy.REJECT
    assert dims(config.input) == {
        "image": (triton.TYPE_STRING, [1]),
        "pixels": (triton.TYPE_UINT8, [-1, -1, 3]),
        "prompt": (triton.TYPE_STRING, [1]),
        "threshold": (triton.TYPE_FP32, [1]),
    }
    assert [tensor.name for tensor in config.input if not tensor.optional] == ["prompt"]
    assert [tensor.name for tensor in config.input if tensor.allow_ragged_batch] == ["pixels"]
    assert dims(config.output) == {
        "boxes": (triton.TYPE_FP32, [-1, 4]),
        "scores": (triton.TYPE_FP32, [-1]),
        "labels": (triton.TYPE_INT64, [-1]),
        "names": (triton.TYPE_STRING, [-1]),
        "count": (triton.TYPE_INT64, [1]),
        "image_size": (triton.TYPE_INT64, [2]),
    }


def test_the_model_reads_its_settings_back() -> None:
    settings = TritonSettings("openvino:bf16", 3, 2, 5, max_bytes=1000, max_pixels=2000, max_names=30)
    given = json_format.MessageToDict(parse(detector_config("glip", settings)), preserving_proto_field_name=True)
    # Triton gives its models this JSON; numbers of 64 bits are texts in it.
    assert TritonSettings.from_config(json.loads(json.dumps(given))) == settings


@pytest.mark.parametrize(
    ("backend", "on_gpu"),
    [
        ("onnxruntime", False),
        ("openvino:bf16", False),
        ("auto", False),
        ("tensorrt", True),
        ("tensorrt_rtx:fp16", True),
        ("onnxruntime:cuda", True),
    ],
)
def test_instances_are_on_the_gpu_where_the_backend_is(backend: str, on_gpu: bool) -> None:
    kinds = triton.ModelInstanceGroup
    config = parse(detector_config("glip", TritonSettings(backend)))
    assert runs_on_gpu(backend) == on_gpu
    assert config.instance_group[0].kind == (kinds.KIND_GPU if on_gpu else kinds.KIND_CPU)
    # A model over others computes nothing itself.
    over_others = parse(detector_config("glip_gpu", TritonSettings(backend), {"graphs": "glip_gpu"}))
    assert over_others.instance_group[0].kind == kinds.KIND_CPU
    assert over_others.parameters["graphs"].string_value == "glip_gpu"


def test_graph_configs_follow_the_contract(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle, verify=False)
    fixed = {"C": 64, "L": 64, "F": 64, "D": 100}
    types = {"float32": triton.TYPE_FP32, "int64": triton.TYPE_INT64}
    for graph, spec in SPECS.items():
        config = parse(onnx_graph_config("name", graph, bundle))
        assert (config.backend, config.max_batch_size) == ("onnxruntime", 0)
        for tensors, specs in ((config.input, spec.inputs), (config.output, spec.outputs)):
            assert dims(tensors) == {
                tensor.name: (
                    types[tensor.dtype],
                    [axis if isinstance(axis, int) else fixed.get(axis, -1) for axis in tensor.axes],
                )
                for tensor in specs
            }
        warm_up = config.model_warmup[0].inputs
        assert set(warm_up) == set(spec.input_names)
        for tensor in config.input:
            pairs = zip(tensor.dims, warm_up[tensor.name].dims, strict=True)
            assert all(warm > 0 and dim in (-1, warm) for dim, warm in pairs)


def test_a_static_bundle_fixes_the_pictures_size(tiny_bundle: Path) -> None:
    bundle = replace(Bundle.open(tiny_bundle, verify=False), image_size=(64, 96))
    backbone = parse(onnx_graph_config("name", "vision_backbone", bundle))
    assert list(backbone.input[0].dims) == [-1, 3, 64, 96]
    assert [list(level.dims) for level in backbone.output][::2] == [[-1, 64, 8, 12], [-1, 64, 2, 3], [-1, 64, 1, 1]]
    assert list(backbone.model_warmup[0].inputs["images"].dims) == [1, 3, 64, 96]


def test_a_backbone_that_fuses_text_is_given_it(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle, verify=False)
    fusing = replace(bundle, config=replace(bundle.config, swin=replace(bundle.config.swin, version="v2_vl")))
    backbone = parse(onnx_graph_config("name", "vision_backbone", fusing))
    assert {name: dims for name, (_, dims) in dims(backbone.input).items()} == {
        "images": [-1, 3, -1, -1],
        "text_features": [-1, -1, 64],
        "attention_mask": [-1, -1],
    }
    assert dims(backbone.output)["fused_text_features"] == (triton.TYPE_FP32, [-1, -1, 64])
    warm_up = parse(onnx_graph_config("name", "fusion_head", fusing)).model_warmup[0].inputs
    height = backbone.model_warmup[0].inputs["images"].dims[2]
    assert warm_up["p3"].dims[2] == pyramid_axes(height, height, overlapping=True)["H3"]


@pytest.mark.parametrize("nms", ["plugin", "host"])
def test_engines(tiny_bundle: Path, nms: str) -> None:
    bundle = Bundle.open(tiny_bundle, verify=False)
    candidates = ["candidate_boxes", "candidate_scores", "candidate_labels"]
    outputs = SPECS["fusion_head"].output_names if nms == "plugin" else candidates
    engine = Engine("fusion_head.engine", "", 1, 1.0, "", [{}, {}], SPECS["fusion_head"].input_names, outputs, {})
    engines = EngineSet(Path(), "tensorrt", "10.13", "fp16", "plugin", nms, {}, "", {"fusion_head": engine})
    config = parse(engine_graph_config("name", "fusion_head", bundle, engines))
    assert (config.backend, config.platform) == ("tensorrt", "tensorrt_plan")
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert [tensor.name for tensor in config.output] == outputs
    if nms == "host":
        many = 5 * bundle.config.detection.pre_nms_top_n
        assert list(config.output[0].dims) == [-1, many, 4]
        assert dims(config.output)["candidate_labels"] == (triton.TYPE_INT32, [-1, many])


def test_pbtxt() -> None:
    message = {"name": 'a "b"\n', "kind": Word("KIND_CPU"), "is": True, "dims": [1, -1], "one": {"many": [{"x": 1.5}]}}
    assert to_pbtxt(message) == (
        'name: "a \\"b\\"\\n"\nkind: KIND_CPU\nis: true\ndims: [1, -1]\none {\n  many {\n    x: 1.5\n  }\n}\n'
    )
    with pytest.raises(ValueError, match="ASCII"):
        to_pbtxt({"name": "ä"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("instances", 0), ("max_batch", 0), ("max_queue", 0), ("max_bytes", 0), ("max_pixels", 10**9), ("threads", -1)],
)
def test_numbers_out_of_bounds(name: str, value: int) -> None:
    with pytest.raises(GlipExportError, match=f"--{name.replace('_', '-')} is {value}"):
        TritonSettings(**{name: value})


def test_a_parameter_that_is_no_number() -> None:
    config = {"max_batch_size": 8, "parameters": {"max_names": {"string_value": "many"}}}
    with pytest.raises(GlipExportError, match="parameter max_names is 'many'"):
        TritonSettings.from_config(config)
