"""A bundle's graphs in TensorRT's dialect: our plugins' nodes, no shape that depends on values."""

from __future__ import annotations

import onnx_ir
from onnx_ir.passes import common

from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.graphs.contracts import BAKED, FUSION_HEAD, GraphSpec
from glip_export.graphs.dyconv_node import NO_KERNEL, fuse_dyconv
from glip_export.trt.function_calls import add_functions
from glip_export.trt.functions import GlipDeformIm2Col, GlipNms, keep_by_class
from glip_export.trt.lower_deform_conv import lower_deform_conv
from glip_export.trt.lower_selection import end_at_candidates, lower_class_maximum, lower_nms
from glip_export.trt.nodes import DEFORM_CONV_FORMS, FUSED, FUSED_PRECISIONS, NMS_FORMS


def lower(
    model: onnx_ir.Model, spec: GraphSpec, config: GlipConfig, *, deform_conv: str = "plugin", nms: str = "plugin"
) -> onnx_ir.Model:
    """One graph of a bundle, at any precision, as a new model that TensorRT can parse; it shares the weights.

    deform_conv: "plugin" leaves a GlipDeformIm2Col before each product, "gridsample" native operators alone, "fused"
    the GlipDyConv that `fuse_for_plugins` put there, and of other convolutions what "plugin" does.
    nms: "plugin" leaves a GlipNms and the contract's outputs, "native" native operators alone and the same outputs;
    with "host" the fusion head's outputs are candidate_boxes f32 (B, M, 4), candidate_scores f32 (B, M) and
    candidate_labels int32 (B, M), for `runtime.host_nms.finish`. A head of several scales has no NMS: its end stays as
    it is, but with "host". Raises GlipExportError for another word, or a graph that the exporter did not make.
    """
    for option, word, words in (("deform_conv", deform_conv, DEFORM_CONV_FORMS), ("nms", nms, NMS_FORMS)):
        if word not in words:
            raise GlipExportError(f"no {option} {word!r}: choose one of {', '.join(words)}")
    lowered = model.clone()
    if spec.name not in (FUSION_HEAD.name, BAKED.name):
        return lowered  # the other graphs are standard operators that TensorRT has
    lower_class_maximum(lowered)
    if nms == "host":
        end_at_candidates(lowered, config.detection)
    elif not config.detection.several_scales:
        lower_nms(lowered, config.detection, native=nms == "native")
    lower_deform_conv(lowered, native=deform_conv == "gridsample")
    return lowered


def fuse_for_plugins(head: onnx_ir.Model, precision: str) -> None:
    """What deform_conv "fused" does to the float32 fusion head before `convert` gives it this precision, in place.

    Raises GlipExportError for a precision that the kernels lack, and a head none of whose blocks they take.
    """
    if precision not in FUSED_PRECISIONS:
        raise GlipExportError(
            f"deform_conv {FUSED} is for {' and '.join(FUSED_PRECISIONS)}, not {precision}: choose plugin"
        )
    if not fuse_dyconv(head):
        raise GlipExportError(f"{NO_KERNEL}: choose deform_conv plugin")


def with_reference_functions(model: onnx_ir.Model) -> onnx_ir.Model:
    """A new model whose plugin nodes are functions of standard operators, to run where there is no plugin."""
    runnable = model.clone()
    add_functions(runnable, [GlipDeformIm2Col, GlipNms, keep_by_class])
    common.RemoveUnusedFunctionsPass()(runnable)
    common.RemoveUnusedOpsetsPass()(runnable)
    return runnable
