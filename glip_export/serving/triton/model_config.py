"""config.pbtxt of every model: `glip` and its like in the python backend, and the three graphs in Triton's own.

The graphs' names, axes and dtypes come from `graphs/contracts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from glip_export.bundle import BakedFile, Bundle
from glip_export.config import ImageConfig
from glip_export.graphs.contracts import BAKED, GraphSpec, TensorSpec, fixed_axes, graphs_of, pyramid_axes, specs_of
from glip_export.image import resize_shape
from glip_export.serving.triton.pbtxt import Word, to_pbtxt
from glip_export.serving.triton.settings import TritonSettings

if TYPE_CHECKING:
    from glip_export.trt.engine_set import EngineSet

GRAPHS_PARAMETER = "graphs"  # of a BLS model: what its graphs' models are called before _<graph>
HOST_NMS_PARAMETER = "host_nms"  # of a BLS model: "1" where its fusion head ends at the candidates
CANDIDATES = (
    TensorSpec("candidate_boxes", "float32", ("B", "M", 4)),
    TensorSpec("candidate_scores", "float32", ("B", "M")),
    TensorSpec("candidate_labels", "int32", ("B", "M")),
)  # what a fusion head without NMS gives: trt.lower_selection.end_at_candidates
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "int64": "TYPE_INT64", "int32": "TYPE_INT32"}


def detector_config(name: str, settings: TritonSettings, parameters: dict[str, str] | None = None) -> str:
    """A model of the python backend: pictures and prompts to detections, batched as requests come in.

    parameters: more than the settings' own.
    """
    on_gpu = runs_on_gpu(settings.backend) and not parameters
    given = {**settings.to_parameters(), **(parameters or {})}
    return to_pbtxt(
        {
            "name": name,
            "backend": "python",
            "max_batch_size": settings.max_batch,
            "input": [
                # Requests share a batch when they give the same inputs, pixels of any size.
                {"name": "image", "data_type": Word("TYPE_STRING"), "dims": [1], "optional": True},
                {
                    "name": "pixels",
                    "data_type": Word("TYPE_UINT8"),
                    "dims": [-1, -1, 3],
                    "optional": True,
                    "allow_ragged_batch": True,
                },
                {"name": "prompt", "data_type": Word("TYPE_STRING"), "dims": [1]},
                {"name": "threshold", "data_type": Word("TYPE_FP32"), "dims": [1], "optional": True},
            ],
            "output": [
                {"name": "boxes", "data_type": Word("TYPE_FP32"), "dims": [-1, 4]},
                {"name": "scores", "data_type": Word("TYPE_FP32"), "dims": [-1]},
                {"name": "labels", "data_type": Word("TYPE_INT64"), "dims": [-1]},
                {"name": "names", "data_type": Word("TYPE_STRING"), "dims": [-1]},
                {"name": "count", "data_type": Word("TYPE_INT64"), "dims": [1]},
                {"name": "image_size", "data_type": Word("TYPE_INT64"), "dims": [2]},
            ],
            "instance_group": [{"count": settings.instances, "kind": Word("KIND_GPU" if on_gpu else "KIND_CPU")}],
            "dynamic_batching": {
                "max_queue_delay_microseconds": settings.max_wait_us,
                "default_queue_policy": {
                    "timeout_action": Word("REJECT"),
                    "allow_timeout_override": True,
                    "max_queue_size": settings.max_queue,
                },
            },
            "parameters": [{"key": key, "value": {"string_value": value}} for key, value in given.items()],
        }
    )


def onnx_graph_config(name: str, graph: str, bundle: Bundle) -> str:
    """One graph in Triton's ONNX Runtime backend."""
    spec = graphs_of(bundle.config)[graph]
    return _graph_config(name, "onnxruntime", bundle, spec, spec.outputs, {})


def engine_graph_config(name: str, graph: str, bundle: Bundle, engines: EngineSet) -> str:
    """One TensorRT engine in Triton's TensorRT backend, with all of its profiles."""
    spec, engine = graphs_of(bundle.config)[graph], engines.graphs[graph]
    known = {tensor.name: tensor for tensor in (*spec.outputs, *CANDIDATES)}
    profiles = {"profile": [str(number) for number in range(len(engine.profiles))]}
    return _graph_config(name, "tensorrt", bundle, spec, [known[output] for output in engine.outputs], profiles)


def baked_config(name: str, file: BakedFile, labels: str) -> str:
    """A baked model in Triton's ONNX Runtime backend, on what Triton has; labels: the file with its names.

    The batch is an axis like others: pictures of different sizes are padded together by who sends them.
    """
    spec = specs_of(file)[BAKED.name]
    fixed = fixed_axes(file.config)
    if file.takes_pixels:
        fixed["B"] = 1
    if file.image_size is not None and not file.takes_pixels:
        fixed["H"], fixed["W"] = file.image_size
    outputs = [_tensor(tensor, fixed) for tensor in spec.outputs]
    outputs[spec.output_names.index("labels")]["label_filename"] = labels
    return to_pbtxt(
        {
            "name": name,
            "backend": "onnxruntime",
            "max_batch_size": 0,
            "input": [_tensor(tensor, fixed) for tensor in spec.inputs],
            "output": outputs,
        }
    )


def runs_on_gpu(backend: str) -> bool:
    """Whether the Detector's backend always needs a GPU."""
    name, _, kind = backend.partition(":")
    return name in ("tensorrt", "tensorrt_rtx") or kind in ("cuda", "tensorrt", "rtx")


def usual_size(config: ImageConfig) -> tuple[int, int]:
    """(H, W) in pixels of a landscape of 3 to 2, resized and padded."""
    height, width = resize_shape(2000, 3000, config)
    step = config.size_divisor
    return -(-height // step) * step, -(-width // step) * step


def _graph_config(
    name: str,
    backend: str,
    bundle: Bundle,
    spec: GraphSpec,
    outputs: Sequence[TensorSpec],
    group: dict[str, Any],
) -> str:
    """max_batch_size 0: the BLS model makes the batches, so the batch is an axis like others."""
    fixed = fixed_axes(bundle.config)
    if bundle.image_size is not None:
        fixed |= pyramid_axes(*bundle.image_size, overlapping=bundle.config.swin.is_v2)
    detection = bundle.config.detection
    fixed["M"] = len(detection.anchor_strides) * detection.pre_nms_top_n
    return to_pbtxt(
        {
            "name": name,
            "backend": backend,
            **({"platform": "tensorrt_plan"} if backend == "tensorrt" else {}),
            "max_batch_size": 0,
            "input": [_tensor(tensor, fixed) for tensor in spec.inputs],
            "output": [_tensor(tensor, fixed) for tensor in outputs],
            "instance_group": [{"count": 1, "kind": Word("KIND_GPU"), **group}],
            "model_warmup": [{"name": "usual_picture", "inputs": _warm_up(spec, bundle, fixed)}],
        }
    )


def _warm_up(spec: GraphSpec, bundle: Bundle, fixed: dict[str, int]) -> list[dict[str, Any]]:
    """Zeros for one picture of the usual size, 16 tokens and 4 names."""
    height, width = bundle.image_size or usual_size(bundle.config.image)
    sizes = fixed | {"B": 1, "T": 16, "K": 4} | pyramid_axes(height, width, bundle.config.swin.is_v2)
    inputs = []
    for tensor in spec.inputs:
        dims = [axis if isinstance(axis, int) else sizes[axis] for axis in tensor.axes]
        zeros = {"data_type": Word(_TYPES[tensor.dtype]), "dims": dims, "zero_data": True}
        inputs.append({"key": tensor.name, "value": zeros})
    return inputs


def _tensor(tensor: TensorSpec, fixed: dict[str, int]) -> dict[str, Any]:
    dims = [axis if isinstance(axis, int) else fixed.get(axis, -1) for axis in tensor.axes]
    return {"name": tensor.name, "data_type": Word(_TYPES[tensor.dtype]), "dims": dims}
