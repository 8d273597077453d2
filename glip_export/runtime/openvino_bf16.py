"""Which matrix products of the graphs run in bf16, chosen by what each gains and what it does to the detections.

OpenVINO's own bf16 mode rounds everything between two products too: on the small oracle it finds 90 % of fp32's
detections again (the backbone alone 88 %, the head alone 97 %), on GLIP-T with random weights the head alone 91 %. In
bf16 here are the products over all image positions, which are most of what bf16 can save: the MLPs of Swin and the
bi-attention. 97 % are found again. In fp32 stay the residual stream, norms, softmax, convolutions, token logits and the
decoding of boxes, and the text encoder, whose result is kept a prompt.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset8
from openvino.passes import ConstantFolding, Manager

from glip_export.graphs.contracts import FUSION_HEAD, VISION_BACKBONE

MLP_RATIO = 4  # Swin's MLPs widen by it, its other products by 2 or 3


def lower_to_bf16(model: openvino.Model, graph: str) -> None:
    """Put the chosen MatMuls of an fp32 graph between conversions to bf16 and back, in place.

    graph: the graph's name in the contracts. To be compiled with the inference precision f32, which leaves types alone.
    """
    passes = Manager()
    passes.register_pass(ConstantFolding())  # so that weights that were reshaped are constants again
    passes.run_passes(model)
    if graph == VISION_BACKBONE.name:
        chosen = [product for product in _products(model.get_ordered_ops()) if _is_mlp(product)]
    elif graph == FUSION_HEAD.name:
        chosen = [product for product in _products(_before_deform_conv(model)) if _weight(product) is None]
    else:
        chosen = []
    for product in chosen:
        _lower(product)
    model.validate_nodes_and_infer_types()


def round_to_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest bf16 values, of two equally near the even one, still as f32; not for NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    up = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + up) & np.uint32(0xFFFF0000)).view(np.float32)


def _products(nodes: Iterable[openvino.Node]) -> list[openvino.Node]:
    f32 = openvino.Type.f32
    return [node for node in nodes if node.get_type_name() == "MatMul" and node.get_output_element_type(0) == f32]


def _weight(product: openvino.Node) -> openvino.Node | None:
    """The constant operand, if there is one."""
    operands = [value.get_node() for value in product.input_values()]
    return next((node for node in operands if node.get_type_name() == "Constant"), None)


def _is_mlp(product: openvino.Node) -> bool:
    weight = _weight(product)
    if weight is None:
        return False
    shape = weight.get_output_shape(0)
    return len(shape) == 2 and max(shape) == MLP_RATIO * min(shape)


def _before_deform_conv(model: openvino.Model) -> list[openvino.Node]:
    """The nodes that a deformable convolution depends on: the fusion blocks, not the predictions made of them."""
    pending = [node for node in model.get_ops() if node.get_type_name() == "DeformableConvolution"]
    found: dict[str, openvino.Node] = {}
    while pending:
        for value in pending.pop().input_values():
            node = value.get_node()
            if node.get_name() not in found:
                found[node.get_name()] = node
                pending.append(node)
    return list(found.values())


def _lower(product: openvino.Node) -> None:
    weight = _weight(product)
    for index in range(2):
        source = product.input_value(index)
        if weight is not None and source.get_node().get_name() == weight.get_name():
            # OpenVINO cuts the lower bits off: rounded before, weights lose half as much and are not all too small.
            source = opset8.constant(round_to_bf16(weight.get_data())).output(0)
        product.input(index).replace_source_output(opset8.convert(source, "bf16").output(0))
    readers = list(product.output(0).get_target_inputs())
    product.validate_and_infer_types()
    widened = opset8.convert(product.output(0), "f32").output(0)
    for reader in readers:
        reader.replace_source_output(widened)
