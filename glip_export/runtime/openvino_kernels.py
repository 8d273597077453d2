"""Our own CPU kernels in OpenVINO's graphs, each in place of a whole module of the model.

OpenVINO's deformable convolution is two thirds of the fusion head at a short prompt, always in fp32; at a long one the
bi-attention's scores are its largest arrays; a third of a Swin block's time goes to copies and to passes over its maps;
and OpenVINO multiplies BERT's layers in fp32, or in int8 with passes between. So these four run in kernels of ours, as
do Swin's patches with their norm, for which OpenVINO makes a map eight times; and what else there is in OpenVINO's own
operators.

What may be of a lower precision was judged by the average precision of the demo model on its 500 held-out scenes, and
by the clear detections of random weights. The AP is 0.6280 in fp32; in bf16 0.6281 with OpenVINO's own Swin and BERT,
all DyConv blocks and the bi-attentions, 0.6278 with what is left of the fusion head too; 0.6279 with all of these in 16
bits and what the bi-attentions read in 8. With DyConv blocks in 8 bits too it is 0.6282, but one clear detection in ten
of random weights is lost: in bf16 they keep 16. Its int8 bundle has 0.6265 with int16 bi-attentions, 0.6266 with int8
ones, 0.6273 with our layers of BERT.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import Dimension, Op, PartialShape, Type, opset8

from glip_export.graphs.contracts import LEVELS
from glip_export.runtime.native import Kernels, load_kernels
from glip_export.runtime.native.kernels import LANES, PRECISIONS

if TYPE_CHECKING:
    from glip_export.graphs.modules import (
        BertLayerModule,
        BiAttentionModule,
        DyConvModule,
        PatchEmbedModule,
        SwinBlockModule,
    )

NEVER = -3e38  # a score that no softmax gives anything
HEAD = 32  # channels of a head, a multiple of which the kernel takes
WIDE = 64  # a panel in AVX-512; with a narrower one OpenVINO's own Swin blocks are faster in fp32: 1.33 to 1.70 s

F32 = NDArray[np.float32]


class _KernelOp(Op):
    """An operator whose attributes are integers and floats, run by a kernel of `native`."""

    attributes: ClassVar[dict[str, float]]  # their names and types: OpenVINO fills them in when it reads its cache

    def __init__(self, inputs: list[Any] | None = None, **attributes: float) -> None:
        super().__init__(self)
        self._attributes = {**self.attributes, **attributes}
        if inputs is not None:
            self.set_arguments(inputs)
            self.constructor_validate_and_infer_types()

    def clone_with_new_inputs(self, inputs: list[Any]) -> _KernelOp:
        return type(self)(inputs, **self._attributes)

    def get_type_info(self) -> Any:
        return self.class_type_info

    def visit_attributes(self, visitor: Any) -> bool:
        visitor.on_attributes(self._attributes)
        return True

    def has_evaluate(self) -> bool:
        return True


class PatchEmbedOp(_KernelOp):
    """images (B, 3, H, W), the 4 parameters of patch_embed.cpp -> (B, H / size, W / size, C)."""

    class_type_info = openvino.DiscreteTypeInfo("GlipPatchEmbed", "glip")
    attributes: ClassVar = {"channels": 32, "size": 4, "epsilon0": 0.0, "threads": 1}

    def validate_and_infer_types(self) -> None:
        images, size = self.get_input_partial_shape(0), int(self._attributes["size"])
        sides = [
            Dimension(side.get_length() // size) if side.is_static else Dimension() for side in (images[2], images[3])
        ]
        self.set_output_type(0, Type.f32, PartialShape([images[0], *sides, int(self._attributes["channels"])]))

    def evaluate(self, outputs: list[Any], inputs: list[Any]) -> bool:
        images, *parameters = map(_values, inputs)
        size, channels = int(self._attributes["size"]), int(self._attributes["channels"])
        batch, _, height, width = images.shape
        outputs[0].shape = [batch, height // size, width // size, channels]
        epsilon, threads = self._attributes["epsilon0"], int(self._attributes["threads"])
        load_kernels().patch_embed(images, outputs[0].data, parameters, size, epsilon, threads)
        return True


class SwinBlockOp(_KernelOp):
    """x (B, H, W, C), the 13 parameters of swin_block.cpp -> (B, H, W, C)."""

    class_type_info = openvino.DiscreteTypeInfo("GlipSwinBlock", "glip")
    attributes: ClassVar = {
        "heads": 1,
        "window": 1,
        "shift": 0,
        "hidden": 32,
        "epsilon0": 0.0,
        "epsilon1": 0.0,
        "precision": 0,
        "threads": 1,
    }

    def validate_and_infer_types(self) -> None:
        self.set_output_type(0, Type.f32, self.get_input_partial_shape(0))

    def evaluate(self, outputs: list[Any], inputs: list[Any]) -> bool:
        x, *parameters = map(_values, inputs)
        outputs[0].shape = list(x.shape)
        load_kernels().swin_block(
            x,
            outputs[0].data,
            parameters,
            int(self._attributes["heads"]),
            int(self._attributes["window"]),
            int(self._attributes["shift"]),
            int(self._attributes["hidden"]),
            (self._attributes["epsilon0"], self._attributes["epsilon1"]),
            PRECISIONS[int(self._attributes["precision"])],
            int(self._attributes["threads"]),
        )
        return True


class BertLayerOp(_KernelOp):
    """x (B, T, C), the scores' mask (B, 1, 1, T), the 12 parameters of bert_layer.cpp -> (B, T, C)."""

    class_type_info = openvino.DiscreteTypeInfo("GlipBertLayer", "glip")
    attributes: ClassVar = {
        "heads": 1,
        "hidden": 16,
        "lowest_score": 0.0,
        "highest_score": 0.0,
        "low": 0.0,
        "high": 0.0,
        "epsilon0": 0.0,
        "epsilon1": 0.0,
        "precision": 0,
        "threads": 1,
    }

    def validate_and_infer_types(self) -> None:
        self.set_output_type(0, Type.f32, self.get_input_partial_shape(0))

    def evaluate(self, outputs: list[Any], inputs: list[Any]) -> bool:
        x, mask, *parameters = map(_values, inputs)
        low, high = self._attributes["low"], self._attributes["high"]
        outputs[0].shape = list(x.shape)
        load_kernels().bert_layer(
            x,
            np.repeat(mask, len(x), 0) if len(mask) < len(x) else mask,  # one text's, of a baked vocabulary
            outputs[0].data,
            parameters,
            int(self._attributes["heads"]),
            int(self._attributes["hidden"]),
            (self._attributes["lowest_score"], self._attributes["highest_score"], low, high),
            (self._attributes["epsilon0"], self._attributes["epsilon1"]),
            PRECISIONS[int(self._attributes["precision"])],
            int(self._attributes["threads"]),
        )
        return True


class DyConvOp(_KernelOp):
    """A map of every level's size, the features, the 20 parameters of dyconv.cpp -> features.

    Features are a map (B, C, H, W) a level, then the sizes' maps themselves, or one array (B, N, C) of all levels.
    """

    class_type_info = openvino.DiscreteTypeInfo("GlipDyConv", "glip")
    attributes: ClassVar = {
        "levels": 0,
        "maps_in": 0,
        "maps_out": 0,
        "groups": 1,
        "epsilon0": 0.0,
        "epsilon1": 0.0,
        "epsilon2": 0.0,
        "precision": 0,  # in PRECISIONS
        "threads": 1,
    }

    def validate_and_infer_types(self) -> None:
        levels = int(self._attributes["levels"])
        if not levels:  # OpenVINO makes an operator before it fills in what its cache says of it
            return
        maps = [self.get_input_partial_shape(level) for level in range(levels)]
        if self._attributes["maps_out"]:
            self.set_output_size(levels)
            for level, shape in enumerate(maps):
                self.set_output_type(level, Type.f32, shape)
            return
        batch, channels = maps[0][0], maps[0][1]
        positions = Dimension.dynamic()
        if all(shape.is_static for shape in maps):
            positions = Dimension(sum(shape[2].get_length() * shape[3].get_length() for shape in maps))
        self.set_output_type(0, Type.f32, PartialShape([batch, positions, channels]))

    def evaluate(self, outputs: list[Any], inputs: list[Any]) -> bool:
        levels = int(self._attributes["levels"])
        arrays = [_values(tensor) for tensor in inputs]
        maps, arrays = arrays[:levels], arrays[levels:]
        if self._attributes["maps_in"]:
            features = maps
        else:
            features, arrays = arrays[:1], arrays[1:]
        sizes = [array.shape[2:] for array in maps]
        batch, channels = maps[0].shape[:2]
        if self._attributes["maps_out"]:
            shapes = [array.shape for array in maps]
        else:
            shapes = [(batch, sum(height * width for height, width in sizes), channels)]
        for tensor, shape in zip(outputs, shapes, strict=True):
            tensor.shape = list(shape)
        load_kernels().dyconv(
            features,
            [tensor.data for tensor in outputs],
            sizes,
            arrays,
            int(self._attributes["groups"]),
            (self._attributes["epsilon0"], self._attributes["epsilon1"], self._attributes["epsilon2"]),
            PRECISIONS[int(self._attributes["precision"])],
            int(self._attributes["threads"]),
        )
        return True


class BiAttentionOp(_KernelOp):
    """image (B, N, C), keys, bias and values of the text, the image's mask, perhaps a norm -> to_text, to_image."""

    class_type_info = openvino.DiscreteTypeInfo("GlipBiAttention", "glip")
    attributes: ClassVar = {"low": 0.0, "high": 0.0, "epsilon": 0.0, "precision": 0, "threads": 1}

    def validate_and_infer_types(self) -> None:
        self.set_output_size(2)
        for output, like in enumerate((1, 0)):
            self.set_output_type(output, Type.f32, self.get_input_partial_shape(like))

    def evaluate(self, outputs: list[Any], inputs: list[Any]) -> bool:
        image, keys, bias, values, mask, *norm = map(_values, inputs)
        for tensor, like in zip(outputs, (keys, image), strict=True):
            tensor.shape = like.shape
        load_kernels().bi_attention(
            image,
            (keys, bias, values),
            mask,
            (self._attributes["low"], self._attributes["high"]),
            outputs[0].data,
            outputs[1].data,
            PRECISIONS[int(self._attributes["precision"])],
            int(self._attributes["threads"]),
            norm[0] if norm else None,
            self._attributes["epsilon"],
        )
        return True


OPERATORS = (PatchEmbedOp, SwinBlockOp, BertLayerOp, DyConvOp, BiAttentionOp)


@dataclass(frozen=True)
class KernelPrecisions:
    """What kernels compute their products in.

    plain, of modules with float weights; tolerant, of those among them that 8 bits do no harm, the bi-attentions, whose
    scores keep 16 bits; quantized, of modules with int8 weights.
    """

    plain: str = "fp32"
    tolerant: str = "fp32"
    quantized: str = "fp32"

    @classmethod
    def of(cls, kernels: Kernels, precision: str) -> KernelPrecisions:
        """The fastest that are exact enough.

        In bf16 most products are at least as exact as bf16's: whole numbers of 16 bits are three to seven times nearer
        to fp32, and no slower on any CPU that has bf16 (the Xeons of 2023 compute four times as many of them).
        """
        half = "int16" if kernels.has_int16 else "fp32"
        least = "int8" if kernels.has_int8 else half
        return cls(half, least, least) if precision == "bf16" else cls("fp32", "fp32", least)

    def of_module(self, quantized: bool, tolerant: bool = False) -> str:
        """That of one module's kernel; quantized: its own weights are int8."""
        return self.quantized if quantized else self.tolerant if tolerant else self.plain


def use_kernels(
    model: openvino.Model, onnx_file: Path, kernels: Kernels, precisions: KernelPrecisions, threads: int
) -> None:
    """Put kernels in place of the modules of `model`, which was read from onnx_file, in place.

    A graph without such modules stays as it is.
    """
    import onnx_ir  # here: a start from the cache does without

    from glip_export.graphs.modules import ModuleGraph

    modules = ModuleGraph(onnx_ir.load(onnx_file))
    values = {name: output for node in model.get_ops() for output in node.outputs() for name in output.get_names()}
    for embed in modules.patch_embeds():
        if len(embed.projection.bias) % HEAD == 0 and kernels.panel == WIDE:
            _replace(values, [embed.output], _patch_embed_op(kernels, embed, values, threads))
    for block in modules.swin_blocks():
        layers = {f"{block.name}.{layer}" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
        precision = precisions.of_module(layers <= modules.quantized)
        if precision == "fp32" and kernels.panel < WIDE:
            continue
        if len(block.projection.bias) // len(block.relative) % HEAD == 0:
            _replace(values, [block.output], _swin_block_op(kernels, block, values, precision, threads))
    for layer in modules.bert_layers():
        parts = ("self.query", "self.key", "self.value", "output.dense")
        layers = {f"{layer.name}.{part}" for part in ("intermediate.dense", "output.dense")}
        layers |= {f"{layer.name}.attention.{part}" for part in parts}
        precision = precisions.of_module(layers <= modules.quantized)
        if precision != "fp32" and not (len(layer.last.bias) % LANES or len(layer.first.bias) % LANES):
            _replace(values, [layer.output], _bert_layer_op(kernels, layer, values, precision, threads))
    for attention in modules.bi_attentions():
        if values[attention.image].get_partial_shape()[2].get_length() % kernels.panel == 0:
            # Its products have no weights: it goes with its projections.
            quantized = any(name.startswith(f"{attention.name}.") for name in modules.quantized)
            precision = precisions.of_module(quantized, tolerant=True)
            op = _bi_attention_op(attention, values, precision, threads)
            to_image = attention.to_image if attention.residual is None else attention.residual.output
            _replace(values, [attention.to_text, to_image], op)
    for dyconv in modules.dyconvs():
        if len(dyconv.attention.weight[0]) % kernels.panel == 0:
            convolutions = {f"{dyconv.name}.DyConv.{index}" for index in range(len(dyconv.convolutions))}
            precision = precisions.of_module(convolutions <= modules.quantized)
            op = _dyconv_op(kernels, dyconv, values, precision, threads)
            made = dyconv.outputs if dyconv.image_out is None else (dyconv.image_out,)
            _replace(values, made, op)
    model.validate_nodes_and_infer_types()


def _patch_embed_op(kernels: Kernels, module: PatchEmbedModule, values: dict[str, Any], threads: int) -> PatchEmbedOp:
    layer = kernels.pack_layer((module.projection.weight, module.projection.bias), "fp32")
    parameters = (*layer, module.norm.weight, module.norm.bias)
    return PatchEmbedOp(
        [values[module.input], *_outputs([opset8.constant(parameter) for parameter in parameters])],
        channels=len(module.norm.bias),
        size=module.size,
        epsilon0=module.norm.epsilon,
        threads=threads,
    )


def _swin_block_op(
    kernels: Kernels, module: SwinBlockModule, values: dict[str, Any], precision: str, threads: int
) -> SwinBlockOp:
    heads, positions, _ = module.relative.shape
    window = math.isqrt(positions)
    channels = len(module.projection.bias)
    scale = np.repeat(np.array([module.scale, 1], np.float32), [channels, 2 * channels])
    queries = module.queries.weight * scale[:, None], module.queries.bias * scale
    parameters = _packed_layers(kernels, module, queries, precision)
    beyond = kernels.padded(positions) - positions
    parameters.append(np.pad(module.relative, ((0, 0), (0, 0), (0, beyond)), constant_values=NEVER))
    return SwinBlockOp(
        [values[module.input], *_outputs([opset8.constant(parameter) for parameter in parameters])],
        heads=heads,
        window=window,
        shift=window // 2 if module.shifted else 0,
        hidden=len(module.first.bias),
        epsilon0=module.norms[0].epsilon,
        epsilon1=module.norms[1].epsilon,
        precision=PRECISIONS.index(precision),
        threads=threads,
    )


def _bert_layer_op(
    kernels: Kernels, module: BertLayerModule, values: dict[str, Any], precision: str, threads: int
) -> BertLayerOp:
    factors = np.array([module.scale, 1, 1], np.float32)
    inputs = (module.queries, module.keys, module.values)
    weight, bias = (
        np.concatenate([getattr(layer, name) * factor for layer, factor in zip(inputs, factors, strict=True)])
        for name in ("weight", "bias")
    )
    parameters = _packed_layers(kernels, module, (weight, bias), precision)
    return BertLayerOp(
        [*(values[name] for name in (module.input, module.mask)), *_outputs([opset8.constant(p) for p in parameters])],
        heads=module.heads,
        hidden=len(module.first.bias),
        lowest_score=module.scores[0],
        highest_score=module.scores[1],
        low=module.limits[0],
        high=module.limits[1],
        epsilon0=module.norms[0].epsilon,
        epsilon1=module.norms[1].epsilon,
        precision=PRECISIONS.index(precision),
        threads=threads,
    )


def _packed_layers(
    kernels: Kernels, module: SwinBlockModule | BertLayerModule, queries: tuple[F32, F32], precision: str
) -> list[NDArray]:
    """Both norms, and the four layers as swin_block.cpp and bert_layer.cpp take them; queries: with keys and values."""
    parameters: list[NDArray] = [array for norm in module.norms for array in (norm.weight, norm.bias)]
    others = ((layer.weight, layer.bias) for layer in (module.projection, module.first, module.last))
    for layer in (queries, *others):
        parameters += kernels.pack_layer(layer, precision)
    return parameters


def _bi_attention_op(module: BiAttentionModule, values: dict[str, Any], precision: str, threads: int) -> BiAttentionOp:
    attributes = {
        "low": module.low,
        "high": module.high,
        "precision": PRECISIONS.index(precision),
        "threads": threads,
    }
    image, norms = module.image, []
    if (residual := module.residual) is not None:
        image, attributes["epsilon"] = residual.input, residual.norm.epsilon
        rows = (residual.norm.weight, residual.norm.bias, residual.gain, residual.offset)
        norms = _outputs([opset8.constant(np.stack(rows))])
    names = (image, module.keys, module.bias, module.values, module.mask)
    return BiAttentionOp([*(values[name] for name in names), *norms], **attributes)


def _dyconv_op(
    kernels: Kernels, module: DyConvModule, values: dict[str, Any], precision: str, threads: int
) -> DyConvOp:
    parameters: list[NDArray] = []
    for convolution in module.convolutions:
        parameters += [
            kernels.pack_deform_conv(convolution.weight, precision),
            convolution.bias,
            convolution.norm_weight,
            convolution.norm_bias,
        ]
    for layer in (module.attention, *module.lines):
        parameters += [layer.weight, layer.bias]
    parameters += kernels.pack_offset_conv(module.offset.weight, module.offset.bias)
    # Where a bi-attention gives the features, the pyramid tells the sizes of the levels.
    names = module.features if module.image_in is None else (*LEVELS, module.image_in)
    return DyConvOp(
        [*(values[name] for name in names), *_outputs([opset8.constant(parameter) for parameter in parameters])],
        levels=len(module.features),
        maps_in=int(module.image_in is None),
        maps_out=int(module.image_out is None),
        groups=module.convolutions[0].groups,
        precision=PRECISIONS.index(precision),
        threads=threads,
        **{f"epsilon{i}": convolution.epsilon for i, convolution in enumerate(module.convolutions)},
    )


def _values(tensor: Any) -> NDArray:
    """An input as the kernels take it: constants that OpenVINO read from its cache begin at any byte of the file."""
    return np.require(tensor.data, requirements=["C", "A"])


def _outputs(nodes: list[Any]) -> list[Any]:
    return [node.output(0) for node in nodes]


def _replace(values: dict[str, Any], names: Sequence[str], op: Op) -> None:
    """The operator's outputs in place of these values, for what reads them now and what is put in place after it."""
    for index, name in enumerate(names):
        for reader in list(values[name].get_target_inputs()):
            reader.replace_source_output(op.output(index))
        values[name] = op.output(index)
