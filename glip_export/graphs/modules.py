"""Finds a GLIP's modules again in its exported graphs: where each begins and ends, and its parameters.

The exporter notes on every node the module that it came from (MODULE_KEY), so that a runtime can put a kernel of its
own in place of a whole module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir

from glip_export.graphs.quantized import is_quantized, without_quantization
from glip_export.graphs.walking import F32, constant_of, name_of, producer_of, reader_of, value_of

MODULE_KEY = "glip.module"  # in a node's metadata: the module it came from, `dyhead_tower.0.b_attn`
NO_LIMIT = 3e38  # a float32 that nothing reaches


@dataclass(frozen=True)
class Linear:
    """A linear layer's weight (out, in) and bias (out,)."""

    weight: F32
    bias: F32


@dataclass(frozen=True)
class Norm:
    """A LayerNorm's weight and bias (C,), and what is added to the variance."""

    weight: F32
    bias: F32
    epsilon: float


@dataclass(frozen=True)
class PatchEmbedModule:
    """Images (B, 3, H, W) to normalized patches (B, H / size, W / size, C); names of the graph's values."""

    input: str
    output: str
    projection: Linear  # (C, 3 * size^2)
    norm: Norm
    size: int


@dataclass(frozen=True)
class SwinBlockModule:
    """A whole block of Swin, from input to output (B, H, W, C); names of the graph's values."""

    name: str
    input: str
    output: str
    norms: tuple[Norm, Norm]
    queries: Linear  # and keys and values: (3C, C)
    scale: float  # of the queries
    relative: F32  # (heads, window^2, window^2), added to the scores
    shifted: bool
    projection: Linear
    first: Linear
    last: Linear


@dataclass(frozen=True)
class BertLayerModule:
    """A whole layer of BERT, from input to output (B, T, C); names of the graph's values."""

    name: str
    input: str
    mask: str  # (B, 1, 1, T), added to the scores
    output: str
    heads: int
    norms: tuple[Norm, Norm]
    queries: Linear
    keys: Linear
    values: Linear
    scale: float  # of the scores
    scores: tuple[float, float]  # what they are clamped to
    limits: tuple[float, float]  # what the MLP's values are, and the result
    projection: Linear
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
class NormedResidual:
    """What stands around a bi-attention's image: output = norm(input) + gain * (what the image reads + offset)."""

    input: str  # (B, N, C)
    output: str
    norm: Norm
    gain: F32  # (C,)
    offset: F32


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
    residual: NormedResidual | None  # where `image` is a norm's, which nothing else reads


class ModuleGraph:
    """A graph's nodes by the module they came from; of an int8 graph those of the float one that it stands for."""

    def __init__(self, model: onnx_ir.Model) -> None:
        self.quantized = frozenset(  # modules whose products have int8 weights
            node.metadata_props.get(MODULE_KEY, "") for node in model.graph if _has_int8_weight(node)
        )
        if is_quantized(model):
            model = without_quantization(model)
        self._nodes: dict[str, list[onnx_ir.Node]] = {}
        self._producers = {str(value.name): node for node in model.graph for value in node.outputs}
        for node in model.graph:
            self._nodes.setdefault(node.metadata_props.get(MODULE_KEY, ""), []).append(node)

    def patch_embeds(self) -> Iterator[PatchEmbedModule]:
        """The embedding of patches that do not overlap (in v2 they do)."""
        for name in self._ending(".patch_embed.proj"):
            (convolution,) = self._of_type(name, "Conv")
            projection, size = _layer(convolution), constant_of(convolution.inputs[1]).shape[-1]
            if tuple(convolution.attributes["strides"].as_ints()) != (size, size):
                continue
            norm = name.removesuffix("proj") + "norm"
            yield PatchEmbedModule(
                input=name_of(convolution.inputs[0]),
                output=name_of(self._of_type(norm, "LayerNormalization")[0].outputs[0]),
                projection=projection,
                norm=self._norm(norm),
                size=size,
            )

    def swin_blocks(self) -> Iterator[SwinBlockModule]:
        """The blocks of Swin, but not those with a layer scale (v2) or that attend to the text too (vl)."""
        for name in self._ending(".attn.qkv"):
            prefix = name.removesuffix(".attn.qkv")
            softmaxes = self._of_type(f"{prefix}.attn", "Softmax")
            if len(softmaxes) != 1:
                continue
            _, first, _ = self._linear(f"{prefix}.mlp.fc1")
            _, last, end = self._linear(f"{prefix}.mlp.fc2")
            (norm,) = self._of_type(f"{prefix}.norm1", "LayerNormalization")
            scores = producer_of(softmaxes[0].inputs[0])
            shifted = producer_of(scores.inputs[0]).op_type == "Add"  # with the mask over what the relative biases made
            relative = (producer_of(scores.inputs[0]) if shifted else scores).inputs[1]
            whole = self._producers[end]
            if [use.node.op_type for use in whole.outputs[0].uses()] != ["Add"]:
                continue
            yield SwinBlockModule(
                prefix,
                input=name_of(norm.inputs[0]),
                output=name_of(reader_of(whole).outputs[0]),
                norms=(self._norm(f"{prefix}.norm1"), self._norm(f"{prefix}.norm2")),
                queries=self._linear(name)[1],
                scale=float(constant_of(self._of_type(f"{prefix}.attn", "Mul")[0].inputs[1])),
                relative=constant_of(relative).reshape(-1, *constant_of(relative).shape[-2:]),
                shifted=shifted,
                projection=self._linear(f"{prefix}.attn.proj")[1],
                first=first,
                last=last,
            )

    def bert_layers(self) -> Iterator[BertLayerModule]:
        """The layers of BERT, of the text encoder and between two fusions, in the order they run."""
        for name in self._ending(".attention.self.query"):
            prefix = name.removesuffix(".attention.self.query")
            softmaxes = self._of_type(f"{prefix}.attention.self", "Softmax")
            ends = self._of_type(f"{prefix}.output.LayerNorm", "LayerNormalization")
            clips = self._of_type(prefix, "Clip")  # before and after GELU, of what is added, and of the result
            if len(softmaxes) != 1 or len(ends) != 1 or len(clips) not in (0, 4):
                continue
            layers = [self._linear(f"{prefix}.attention.self.{part}") for part in ("query", "key", "value")]
            masked = producer_of(softmaxes[0].inputs[0])
            scaled, *scores = _unclamped(producer_of(masked.inputs[0]))
            factor = float(constant_of(scaled.inputs[1]))
            limits = {_limits(clip) for clip in clips} or {(-NO_LIMIT, NO_LIMIT)}
            if len({start for start, _, _ in layers}) != 1 or scaled.op_type not in ("Mul", "Div") or len(limits) != 1:
                continue
            queries, keys, values = (layer for _, layer, _ in layers)
            yield BertLayerModule(
                prefix,
                input=layers[0][0],
                mask=name_of(masked.inputs[1]),
                output=name_of((clips or ends)[-1].outputs[0]),
                heads=len(queries.bias) // self._depth_of_heads(name),
                norms=(self._norm(f"{prefix}.attention.output.LayerNorm"), self._norm(f"{prefix}.output.LayerNorm")),
                queries=queries,
                keys=keys,
                values=values,
                scale=factor if scaled.op_type == "Mul" else 1 / factor,
                scores=(scores[0], scores[1]),
                limits=limits.pop(),
                projection=self._linear(f"{prefix}.attention.output.dense")[1],
                first=self._linear(f"{prefix}.intermediate.dense")[1],
                last=self._linear(f"{prefix}.output.dense")[1],
            )

    def dyconvs(self) -> Iterator[DyConvModule]:
        """The DyConv blocks, in the order they run."""
        for name in self._ending(".DyConv.1"):
            prefix = name.removesuffix(".DyConv.1")
            own_level = self._of_type(name, "DeformConv")
            relus = self._of_type(f"{prefix}.relu", "Max")
            offset = self._of_type(f"{prefix}.offset", "Conv")[0]
            yield DyConvModule(
                prefix,
                features=tuple(name_of(node.inputs[0]) for node in own_level),
                outputs=tuple(name_of(node.outputs[0]) for node in relus),
                image_in=_image_before(own_level[0]),
                image_out=_image_after(relus[0]),
                offset=Linear(constant_of(offset.inputs[1]), constant_of(offset.inputs[2])),
                convolutions=tuple(self._deform_conv_norm(f"{prefix}.DyConv.{i}") for i in range(3)),
                attention=_layer(self._of_type(f"{prefix}.AttnConv.1", "Conv")[0]),
                lines=tuple(_layer(self._of_type(f"{prefix}.relu.fc.{i}", "Gemm")[0]) for i in (0, 2)),  # type: ignore[arg-type]
            )

    def bi_attentions(self) -> Iterator[BiAttentionModule]:
        """The bi-attentions, but not those that subtract the maximum of the whole batch (STABLE_SOFTMAX_2D).

        Nor a last one whose text nothing reads.

        A module that attends level by level (SEPARATE_BIDIRECTIONAL) gives five of the same name.
        """
        for name, over_positions, over_tokens in self._pairs_of_softmax(".b_attn.attn"):
            scores, low, high = _unclamped(producer_of(over_positions.inputs[0]))
            product, bias = producer_of(scores.inputs[0]), scores.inputs[1]
            pooling = reader_of(over_positions)
            reading = reader_of(reader_of(over_tokens))  # of its weights as (B, N, h*T)
            yield BiAttentionModule(
                name,
                image=name_of(pooling.inputs[1]),
                keys=name_of(product.inputs[0]),
                bias=name_of(bias),
                values=name_of(reading.inputs[1]),
                mask=name_of(producer_of(over_tokens.inputs[0]).inputs[1]),
                low=low,
                high=high,
                to_text=name_of(pooling.outputs[0]),
                to_image=name_of(reading.outputs[0]),
                residual=_normed_residual(value_of(pooling.inputs[1]), reading),
            )

    def _pairs_of_softmax(self, suffix: str) -> Iterator[tuple[str, onnx_ir.Node, onnx_ir.Node]]:
        for name in self._ending(suffix):
            if not self._of_type(name, "ReduceMax"):
                nodes = self._of_type(name, "Softmax")  # each call's two, in the order they run
                if len(nodes) % 2:  # of a last one whose text nothing reads, one is left
                    continue
                for over_positions, over_tokens in zip(nodes[::2], nodes[1::2], strict=True):
                    yield name, over_positions, over_tokens

    def _ending(self, suffix: str) -> list[str]:
        return [name for name in self._nodes if name.endswith(suffix)]

    def _of_type(self, module: str, op_type: str) -> list[onnx_ir.Node]:
        return [node for node in self._nodes.get(module, ()) if node.op_type == op_type]

    def _linear(self, module: str) -> tuple[str, Linear, str]:
        product, addition = self._of_type(module, "MatMul")[0], self._of_type(module, "Add")[0]
        biases = [value for value in addition.inputs if value is not product.outputs[0]]
        layer = Linear(constant_of(product.inputs[1]).T, constant_of(biases[0]))
        return name_of(product.inputs[0]), layer, name_of(addition.outputs[0])

    def _depth_of_heads(self, module: str) -> int:
        """The last axis of what a layer's result (B, T, C) is reshaped to."""
        shape = reader_of(self._producers[self._linear(module)[2]]).inputs[1]
        maker = value_of(shape).producer()
        parts = [shape] if maker is None else maker.inputs  # a constant, or concatenated with the sizes of the batch
        return int(constant_of(parts[-1]).ravel()[-1])

    def _norm(self, module: str) -> Norm:
        (node,) = self._of_type(module, "LayerNormalization")
        return _norm_of(node)

    def _deform_conv_norm(self, module: str) -> DeformConvNorm:
        convolution = self._of_type(module, "DeformConv")[0]
        norm = f"{module}.bn"
        instance_norm = self._of_type(norm, "InstanceNormalization")[0]
        return DeformConvNorm(
            weight=constant_of(convolution.inputs[1]),
            bias=constant_of(convolution.inputs[3]),
            norm_weight=constant_of(self._of_type(norm, "Mul")[0].inputs[1]).ravel(),
            norm_bias=constant_of(self._of_type(norm, "Add")[0].inputs[1]).ravel(),
            groups=len(constant_of(instance_norm.inputs[1])),
            epsilon=float(instance_norm.attributes["epsilon"].as_float()),
        )


def _norm_of(node: onnx_ir.Node) -> Norm:
    return Norm(constant_of(node.inputs[1]), constant_of(node.inputs[2]), float(node.attributes["epsilon"].as_float()))


def _normed_residual(image: onnx_ir.Value, reading: onnx_ir.Node) -> NormedResidual | None:
    """reading: the product that gives what the image reads; its bias and gain come after it, then the image."""
    norm, node = image.producer(), reading
    if norm is None or norm.op_type != "LayerNormalization":
        return None
    constants = []
    for op_type in ("Add", "Mul"):
        readers = [use.node for use in node.outputs[0].uses()]
        if len(readers) != 1 or readers[0].op_type != op_type:
            return None
        other = next(value for value in readers[0].inputs if value is not node.outputs[0])
        if other is None or other.const_value is None:
            return None
        constants.append(constant_of(other).ravel())
        node = readers[0]
    readers = [use.node for use in node.outputs[0].uses()]
    read_by = {id(use.node) for use in image.uses()}  # the scores, transposed; the text's means; the sum
    if len(readers) != 1 or readers[0].op_type != "Add" or image not in readers[0].inputs or len(read_by) != 3:
        return None
    offset, gain = constants
    return NormedResidual(name_of(norm.inputs[0]), name_of(readers[0].outputs[0]), _norm_of(norm), gain, offset)


def _has_int8_weight(node: onnx_ir.Node) -> bool:
    if node.op_type not in ("MatMul", "Gemm", "Conv", "DeformConv") or node.inputs[1] is None:
        return False
    maker = node.inputs[1].producer()
    return maker is not None and maker.op_type == "DequantizeLinear"


def _unclamped(scores: onnx_ir.Node) -> tuple[onnx_ir.Node, float, float]:
    """What makes an attention's scores, and what they are clamped to after it."""
    if scores.op_type != "Clip":
        return scores, -NO_LIMIT, NO_LIMIT
    return producer_of(scores.inputs[0]), *_limits(scores)


def _limits(clip: onnx_ir.Node) -> tuple[float, float]:
    low, high = (None if value is None else float(constant_of(value)) for value in (*clip.inputs[1:], None)[:2])
    return -NO_LIMIT if low is None else low, NO_LIMIT if high is None else high


def _image_before(node: onnx_ir.Node) -> str | None:
    """(B, N, C), if that is what the node's map was cut out of: transposed, split and reshaped."""
    value: onnx_ir.Value | None = node.inputs[0]
    for op_type in ("Reshape", "Split", "Transpose"):
        made_by = value_of(value).producer()
        if made_by is None or made_by.op_type != op_type:
            return None
        value = made_by.inputs[0]
    return name_of(value)


def _image_after(node: onnx_ir.Node) -> str | None:
    """(B, N, C), if that is all that becomes of the node's map: reshaped, concatenated and transposed."""
    for op_type in ("Reshape", "Concat", "Transpose"):
        readers = [use.node for use in node.outputs[0].uses()]
        if len(readers) != 1 or readers[0].op_type != op_type:
            return None
        node = readers[0]
    return name_of(node.outputs[0])


def _layer(node: onnx_ir.Node) -> Linear:
    """A Gemm with its weight transposed, or a 1x1 convolution."""
    weight, bias = constant_of(node.inputs[1]), constant_of(node.inputs[2])
    return Linear(weight.reshape(len(weight), -1), bias)
