"""Finds a GLIP's modules again in its exported graphs: where each begins and ends, and its parameters.

The exporter notes on every node the module that it came from (MODULE_KEY), so that a runtime can put a kernel of its
own in place of a whole module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir
from numpy.typing import NDArray

MODULE_KEY = "glip.module"  # in a node's metadata: the module it came from, `dyhead_tower.0.b_attn`
NO_LIMIT = 3e38  # a float32 that nothing reaches
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Linear:
    """A linear layer's weight (out, in) and bias (out,)."""

    weight: F32
    bias: F32


@dataclass(frozen=True)
class MlpModule:
    """last(gelu(first(x))); names of the graph's values."""

    name: str
    input: str
    output: str
    first: Linear
    last: Linear


@dataclass(frozen=True)
class DeformConvNorm:
    """A deformable convolution, weight (C, C, 3, 3) and bias (C,), and its GroupNorm."""

    weight: F32
    bias: F32
    norm_weight: F32
    norm_bias: F32
    groups: int
    epsilon: float


@dataclass(frozen=True)
class DyConvModule:
    """A DyConv block. Names of the graph's values: of each level its features and its output, (B, C, H, W).

    image_in, image_out: the same of all levels as the bi-attentions have it, (B, N, C), where one stands next to it.
    """

    name: str
    features: tuple[str, ...]
    outputs: tuple[str, ...]
    image_in: str | None
    image_out: str | None
    offset: Linear  # a convolution's (27, C, 3, 3)
    convolutions: tuple[DeformConvNorm, ...]  # DyConv 0, 1, 2
    attention: Linear
    lines: tuple[Linear, Linear]  # DyReLU's two layers


@dataclass(frozen=True)
class BiAttentionModule:
    """A folded bi-attention between its projections of the text; names of the graph's values."""

    name: str
    image: str  # (B, N, C)
    keys: str  # (B, h*T, C)
    bias: str  # (B, h*T, 1)
    values: str  # (B, h*T, C)
    mask: str  # (B, 1, 1, T), added to the scores that the image reads by
    low: float  # what scores are clamped to
    high: float
    to_text: str  # (B, h*T, C)
    to_image: str  # (B, N, C)


class ModuleGraph:
    """A graph's nodes by the module they came from."""

    def __init__(self, model: onnx_ir.Model) -> None:
        self._nodes: dict[str, list[onnx_ir.Node]] = {}
        for node in model.graph:
            self._nodes.setdefault(node.metadata_props.get(MODULE_KEY, ""), []).append(node)

    def mlps(self) -> Iterator[MlpModule]:
        """The MLPs of the Swin blocks."""
        for name in self._ending(".mlp.fc1"):
            prefix = name.removesuffix(".fc1")
            start, first, _ = self._linear(name)
            _, last, end = self._linear(f"{prefix}.fc2")
            yield MlpModule(prefix, start, end, first, last)

    def dyconvs(self) -> Iterator[DyConvModule]:
        """The DyConv blocks, in the order they run."""
        for name in self._ending(".DyConv.1"):
            prefix = name.removesuffix(".DyConv.1")
            own_level = self._of_type(name, "DeformConv")
            relus = self._of_type(f"{prefix}.relu", "Max")
            offset = self._of_type(f"{prefix}.offset", "Conv")[0]
            yield DyConvModule(
                prefix,
                features=tuple(_name(node.inputs[0]) for node in own_level),
                outputs=tuple(_name(node.outputs[0]) for node in relus),
                image_in=_image_before(own_level[0]),
                image_out=_image_after(relus[0]),
                offset=Linear(_constant(offset.inputs[1]), _constant(offset.inputs[2])),
                convolutions=tuple(self._deform_conv_norm(f"{prefix}.DyConv.{i}") for i in range(3)),
                attention=_layer(self._of_type(f"{prefix}.AttnConv.1", "Conv")[0]),
                lines=tuple(_layer(self._of_type(f"{prefix}.relu.fc.{i}", "Gemm")[0]) for i in (0, 2)),  # type: ignore[arg-type]
            )

    def bi_attentions(self) -> Iterator[BiAttentionModule]:
        """The bi-attentions, but not those that subtract the maximum of the whole batch (STABLE_SOFTMAX_2D).

        A module that attends level by level (SEPARATE_BIDIRECTIONAL) gives five of the same name.
        """
        for name, over_positions, over_tokens in self._pairs_of_softmax(".b_attn.attn"):
            scores, low, high = _unclamped(_producer(over_positions.inputs[0]))
            product, bias = _producer(scores.inputs[0]), scores.inputs[1]
            pooling = _reader(over_positions)
            reading = _reader(_reader(over_tokens))  # of its weights as (B, N, h*T)
            yield BiAttentionModule(
                name,
                image=_name(pooling.inputs[1]),
                keys=_name(product.inputs[0]),
                bias=_name(bias),
                values=_name(reading.inputs[1]),
                mask=_name(_producer(over_tokens.inputs[0]).inputs[1]),
                low=low,
                high=high,
                to_text=_name(pooling.outputs[0]),
                to_image=_name(reading.outputs[0]),
            )

    def _pairs_of_softmax(self, suffix: str) -> Iterator[tuple[str, onnx_ir.Node, onnx_ir.Node]]:
        for name in self._ending(suffix):
            if not self._of_type(name, "ReduceMax"):
                nodes = self._of_type(name, "Softmax")  # each call's two, in the order they run
                for over_positions, over_tokens in zip(nodes[::2], nodes[1::2], strict=True):
                    yield name, over_positions, over_tokens

    def _ending(self, suffix: str) -> list[str]:
        return [name for name in self._nodes if name.endswith(suffix)]

    def _of_type(self, module: str, op_type: str) -> list[onnx_ir.Node]:
        return [node for node in self._nodes.get(module, ()) if node.op_type == op_type]

    def _linear(self, module: str) -> tuple[str, Linear, str]:
        product, addition = self._of_type(module, "MatMul")[0], self._of_type(module, "Add")[0]
        biases = [value for value in addition.inputs if value is not product.outputs[0]]
        layer = Linear(_constant(product.inputs[1]).T, _constant(biases[0]))
        return _name(product.inputs[0]), layer, _name(addition.outputs[0])

    def _deform_conv_norm(self, module: str) -> DeformConvNorm:
        convolution = self._of_type(module, "DeformConv")[0]
        norm = f"{module}.bn"
        instance_norm = self._of_type(norm, "InstanceNormalization")[0]
        return DeformConvNorm(
            weight=_constant(convolution.inputs[1]),
            bias=_constant(convolution.inputs[3]),
            norm_weight=_constant(self._of_type(norm, "Mul")[0].inputs[1]).ravel(),
            norm_bias=_constant(self._of_type(norm, "Add")[0].inputs[1]).ravel(),
            groups=len(_constant(instance_norm.inputs[1])),
            epsilon=float(instance_norm.attributes["epsilon"].as_float()),
        )


def _unclamped(scores: onnx_ir.Node) -> tuple[onnx_ir.Node, float, float]:
    """The addition that makes a bi-attention's scores, and what they are clamped to after it."""
    if scores.op_type != "Clip":
        return scores, -NO_LIMIT, NO_LIMIT
    low, high = (None if value is None else float(_constant(value)) for value in (*scores.inputs[1:], None)[:2])
    return _producer(scores.inputs[0]), -NO_LIMIT if low is None else low, NO_LIMIT if high is None else high


def _image_before(node: onnx_ir.Node) -> str | None:
    """(B, N, C), if that is what the node's map was cut out of: transposed, split and reshaped."""
    value: onnx_ir.Value | None = node.inputs[0]
    for op_type in ("Reshape", "Split", "Transpose"):
        made_by = _value(value).producer()
        if made_by is None or made_by.op_type != op_type:
            return None
        value = made_by.inputs[0]
    return _name(value)


def _image_after(node: onnx_ir.Node) -> str | None:
    """(B, N, C), if that is all that becomes of the node's map: reshaped, concatenated and transposed."""
    for op_type in ("Reshape", "Concat", "Transpose"):
        readers = [use.node for use in node.outputs[0].uses()]
        if len(readers) != 1 or readers[0].op_type != op_type:
            return None
        node = readers[0]
    return _name(node.outputs[0])


def _producer(value: onnx_ir.Value | None) -> onnx_ir.Node:
    node = _value(value).producer()
    if node is None:
        raise ValueError(f"{_name(value)} is an input of the graph")
    return node


def _reader(node: onnx_ir.Node) -> onnx_ir.Node:
    (use,) = node.outputs[0].uses()
    return use.node


def _layer(node: onnx_ir.Node) -> Linear:
    """A Gemm with its weight transposed, or a 1x1 convolution."""
    weight, bias = _constant(node.inputs[1]), _constant(node.inputs[2])
    return Linear(weight.reshape(len(weight), -1), bias)


def _value(value: onnx_ir.Value | None) -> onnx_ir.Value:
    if value is None:
        raise ValueError("an input that every GLIP's graph has is missing")
    return value


def _name(value: onnx_ir.Value | None) -> str:
    return str(_value(value).name)


def _constant(value: onnx_ir.Value | None) -> F32:
    tensor = _value(value).const_value
    if tensor is None:
        raise ValueError(f"{_name(value)} is no constant")
    return np.asarray(tensor.numpy(), np.float32)
