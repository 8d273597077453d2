"""The text's side of a bi-attention in two nodes, for a runtime that gains by few and small products.

Between the text and the scores stand two linear layers one after another, and so between what the text reads and what
it gains. Nothing is between the two, so each pair is multiplied into one here, in float64: per head a matrix from the
text's L channels to the image's C, which also is less work for each token (L * C against L * d + d * C, d = 256).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from glip_export.graphs.fused_nodes import put_node, settle
from glip_export.graphs.modules import BiAttentionModule, ModuleGraph
from glip_export.graphs.quantized import is_quantized
from glip_export.graphs.walking import F32, constant_of, name_of, producer_of, reader_of

TEXT_TO_IMAGE, TEXT_FROM_IMAGE = "GlipTextToImage", "GlipTextFromImage"  # as in trt/nodes.py, which is above


@dataclass(frozen=True)
class TextSide:
    """The text's side of a bi-attention of h heads; names of the graph's values, and the products of its layers.

    text (B, T, L) becomes keys and values (B, h*T, C) and bias (B, h*T, 1); read (B, h*T, C) becomes gained (B, T, L).
    """

    name: str
    text: str
    keys: str
    bias: str
    values: str
    read: str
    gained: str
    to_image: dict[str, F32]  # keys and values: _weight (h, C, L), _bias (h, 1, C); scores_weight (h, L), _bias (h, 1)
    from_image: dict[str, F32]  # weight (L, h*C), bias (L,)

    @property
    def heads(self) -> int:
        """h."""
        return len(self.to_image["keys_weight"])


def fuse_text_sides(model: onnx_ir.Model) -> int:
    """Puts nodes GlipTextToImage and GlipTextFromImage around each bi-attention of a float32 graph; gives how many.

    To run before the bi-attentions themselves are replaced; in place. GlipTextToImage: the text (B, T, L) and the
    `TextSide.to_image` -> keys, bias, values; GlipTextFromImage: what the text read (B, h*T, C) and the `from_image` ->
    what it gains (B, T, L), its gain included; attribute heads. A graph with int8 weights stays as it is, and so does a
    module that runs once a level.
    """
    if is_quantized(model):
        return 0
    sides = list(text_sides(model))
    for side in sides:
        attributes: dict[str, int | float | list[float]] = {"heads": side.heads}
        outputs = side.keys, side.bias, side.values
        put_node(model.graph, f"{side.name}.to", TEXT_TO_IMAGE, (side.text,), side.to_image, attributes, outputs)
        name, read, gained = f"{side.name}.from", (side.read,), (side.gained,)
        put_node(model.graph, name, TEXT_FROM_IMAGE, read, side.from_image, attributes, gained)
    if sides:
        settle(model)
    return len(sides)


def text_sides(model: onnx_ir.Model) -> Iterator[TextSide]:
    """Of the bi-attentions that run once, in the order they run."""
    attentions = list(ModuleGraph(model).bi_attentions())
    producers = {str(value.name): node for node in model.graph for value in node.outputs}
    for attention in attentions:
        if sum(other.name == attention.name for other in attentions) == 1:
            yield _text_side(attention, producers)


def _text_side(attention: BiAttentionModule, producers: dict[str, onnx_ir.Node]) -> TextSide:
    keys, bias, values = (
        producer_of(producers[name].inputs[0]) for name in (attention.keys, attention.bias, attention.values)
    )  # products of what the linear layers give, by head
    scaled = producer_of(keys.inputs[0])
    scale = float(constant_of(scaled.inputs[1]))
    text, key_weight, key_bias = _linear_before(producer_of(scaled.inputs[0]))
    _, value_weight, value_bias = _linear_before(producer_of(values.inputs[0]))
    image_keys, image_bias, image_values = (_wide(node.inputs[1]) for node in (keys, bias, values))  # (h, d, C or 1)
    heads = len(image_keys)

    product = reader_of(reader_of(producers[attention.to_text]))  # by head: of its shape, then the product
    offset, joined = reader_of(product), reader_of(reader_of(reader_of(product)))  # + bias, transposed, reshaped
    added = reader_of(reader_of(joined))
    gain = reader_of(added)
    read_weight, read_bias = _wide(product.inputs[1]), _wide(_other(offset, product))  # (h, C, d), (h, 1, d)
    out_weight = _wide(reader_of(joined).inputs[1]).reshape(heads, -1, len(_wide(_other(added, reader_of(joined)))))
    gains = _wide(_other(gain, added))
    out = (read_weight @ out_weight).transpose(2, 0, 1) * gains[:, None, None]  # (L, h, C)
    out_bias = ((read_bias @ out_weight).sum((0, 1)) + _wide(_other(added, reader_of(joined)))) * gains

    by_head = scale * key_weight.reshape(heads, -1, key_weight.shape[1])  # (h, d, L)
    bias_by_head = scale * key_bias.reshape(heads, 1, -1)
    value_by_head = value_weight.reshape(heads, -1, value_weight.shape[1])
    to_image = {
        "keys_weight": image_keys.transpose(0, 2, 1) @ by_head,
        "keys_bias": bias_by_head @ image_keys,
        "values_weight": image_values.transpose(0, 2, 1) @ value_by_head,
        "values_bias": value_bias.reshape(heads, 1, -1) @ image_values,
        "scores_weight": (image_bias.transpose(0, 2, 1) @ by_head)[:, 0],
        "scores_bias": (bias_by_head @ image_bias)[..., 0],
    }
    from_image = {"weight": out.reshape(len(out), -1), "bias": out_bias}
    return TextSide(
        attention.name,
        text=text,
        keys=attention.keys,
        bias=attention.bias,
        values=attention.values,
        read=attention.to_text,
        gained=name_of(gain.outputs[0]),
        to_image={name: np.ascontiguousarray(array, np.float32) for name, array in to_image.items()},
        from_image={name: np.ascontiguousarray(array, np.float32) for name, array in from_image.items()},
    )


def _linear_before(transposed: onnx_ir.Node) -> tuple[str, NDArray[np.float64], NDArray[np.float64]]:
    """Of the linear layer whose result is split into heads and transposed: input, weight (out, in), bias."""
    addition = producer_of(producer_of(transposed.inputs[0]).inputs[0])
    product = producer_of(addition.inputs[0])
    return name_of(product.inputs[0]), _wide(product.inputs[1]).T, _wide(_other(addition, product))


def _wide(value: onnx_ir.Value | None) -> NDArray[np.float64]:
    """A constant in float64, or one that a node gives another shape or order."""
    node = None if value is None else value.producer()
    if node is None or node.op_type not in ("Reshape", "Transpose"):
        return constant_of(value).astype(np.float64)
    source = _wide(node.inputs[0])
    if node.op_type == "Transpose":
        return source.transpose(node.attributes["perm"].as_ints())
    return source.reshape(constant_of(node.inputs[1]).astype(int).tolist())


def _other(node: onnx_ir.Node, than: onnx_ir.Node) -> onnx_ir.Value | None:
    """Of a node's two inputs the one that the other node does not make."""
    return next(value for value in node.inputs if value is not than.outputs[0])
