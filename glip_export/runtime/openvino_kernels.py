"""Our own CPU kernels in OpenVINO's graphs, each in place of a whole module of the model.

OpenVINO's deformable convolution is two thirds of the fusion head at a short prompt, always in fp32; at a long one the
bi-attention's scores are its largest arrays. So DyConv blocks and bi-attentions run in kernels of ours. In bf16 the
MLPs of Swin do too, with what rounding the weights cost given back, and the last two DyConv blocks are in bf16.

Measured on GLIP-T with random weights, whose scores lie so close that little noise reorders them: clear detections
found again at 800x1216 (of 106) and at half that size (of 296).

| in bf16 | 800x1216 | half |
|---|---|---|
| MLPs | 103 | 294 |
| the last 2 DyConv blocks | 105 | 293 |
| both, as here | 104 | 289 |
| the last 4 DyConv blocks | 101 | 291 |
| MLPs and the last 4 DyConv blocks | 98 | 288 |

Of a single DyConv block in bf16 the scores' error falls from 0.004 in the first to 0.0003 in the last. Also not in
bf16: Swin's queries, keys and values (5 % of the backbone's time), its projections (95 % found again) and patch merging
(93 %), and the bi-attention. OpenVINO's own bf16 rounds everything between two products too: 90 % on the small oracle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir
import openvino
from numpy.typing import NDArray
from openvino import Dimension, Op, PartialShape, Type, opset8

from glip_export.graphs.contracts import LEVELS
from glip_export.graphs.modules import BiAttentionModule, DyConvModule, MlpModule, ModuleGraph
from glip_export.runtime.native import Kernels, load_kernels

ROUNDED_BLOCKS = 2  # DyConv blocks in bf16, the last ones

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


class MlpOp(_KernelOp):
    """In bf16: x (..., C), then of the two layers the packed weight and padded bias -> (..., width)."""

    class_type_info = openvino.DiscreteTypeInfo("GlipMlp", "glip")
    attributes: ClassVar = {"width": 0, "threads": 1}

    def validate_and_infer_types(self) -> None:
        *rows, _ = self.get_input_partial_shape(0)
        self.set_output_type(0, Type.f32, PartialShape([*rows, self._attributes["width"]]))

    def evaluate(self, outputs: list[Any], inputs: list[Any]) -> bool:
        x, *layers = map(_values, inputs)
        outputs[0].shape = [*x.shape[:-1], self._attributes["width"]]
        load_kernels().mlp(
            x,
            (layers[0], layers[1]),
            (layers[2], layers[3]),
            outputs[0].data,
            bf16=True,
            threads=int(self._attributes["threads"]),
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
        "bf16": 0,
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
            bool(self._attributes["bf16"]),
            int(self._attributes["threads"]),
        )
        return True


class BiAttentionOp(_KernelOp):
    """image (B, N, C), keys, bias and values of the text, the image's mask -> to_text (B, h*T, C), to_image."""

    class_type_info = openvino.DiscreteTypeInfo("GlipBiAttention", "glip")
    attributes: ClassVar = {"low": 0.0, "high": 0.0, "threads": 1}

    def validate_and_infer_types(self) -> None:
        self.set_output_size(2)
        for output, like in enumerate((1, 0)):
            self.set_output_type(output, Type.f32, self.get_input_partial_shape(like))

    def evaluate(self, outputs: list[Any], inputs: list[Any]) -> bool:
        image, keys, bias, values, mask = map(_values, inputs)
        for tensor, like in zip(outputs, (keys, image), strict=True):
            tensor.shape = like.shape
        load_kernels().bi_attention(
            image,
            (keys, bias, values),
            mask,
            (self._attributes["low"], self._attributes["high"]),
            outputs[0].data,
            outputs[1].data,
            bf16=False,
            threads=int(self._attributes["threads"]),
        )
        return True


OPERATORS = (MlpOp, DyConvOp, BiAttentionOp)


def use_kernels(model: openvino.Model, onnx_file: Path, kernels: Kernels, bf16: bool, threads: int) -> None:
    """Put kernels in place of the modules of `model`, which was read from onnx_file, in place.

    A graph without such modules stays as it is.
    """
    modules = ModuleGraph(onnx_ir.load(onnx_file))
    values = {name: output for node in model.get_ops() for output in node.outputs() for name in output.get_names()}
    if bf16:  # OpenVINO's own are as fast in fp32
        for mlp in modules.mlps():
            _replace([values[mlp.output]], _mlp_op(kernels, mlp, values, threads))
    for attention in modules.bi_attentions():
        if values[attention.image].get_partial_shape()[2].get_length() % kernels.panel == 0:
            op = _bi_attention_op(attention, values, threads)
            _replace([values[attention.to_text], values[attention.to_image]], op)
    blocks = list(modules.dyconvs())
    for block, dyconv in enumerate(blocks):
        if len(dyconv.attention.weight[0]) % kernels.panel == 0:
            op = _dyconv_op(kernels, dyconv, values, bf16 and block >= len(blocks) - ROUNDED_BLOCKS, threads)
            made = dyconv.outputs if dyconv.image_out is None else (dyconv.image_out,)
            _replace([values[name] for name in made], op)
    model.validate_nodes_and_infer_types()


def _mlp_op(kernels: Kernels, module: MlpModule, values: dict[str, Any], threads: int) -> MlpOp:
    constants = [
        opset8.constant(array)
        for layer in (module.first, module.last)
        for array in (kernels.pack_linear(layer.weight, bf16=True), kernels.pad_bias(layer.bias))
    ]
    width = len(module.last.bias)
    return MlpOp([values[module.input], *_outputs(constants)], width=width, threads=threads)


def _bi_attention_op(module: BiAttentionModule, values: dict[str, Any], threads: int) -> BiAttentionOp:
    names = (module.image, module.keys, module.bias, module.values, module.mask)
    limits = {"low": module.low, "high": module.high}
    return BiAttentionOp([values[name] for name in names], **limits, threads=threads)


def _dyconv_op(kernels: Kernels, module: DyConvModule, values: dict[str, Any], bf16: bool, threads: int) -> DyConvOp:
    parameters: list[NDArray] = []
    for convolution in module.convolutions:
        parameters += [
            kernels.pack_deform_conv(convolution.weight, bf16),
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
        bf16=int(bf16),
        threads=threads,
        **{f"epsilon{i}": convolution.epsilon for i, convolution in enumerate(module.convolutions)},
    )


def _values(tensor: Any) -> NDArray:
    """An input as the kernels take it: constants that OpenVINO read from its cache begin at any byte of the file."""
    return np.require(tensor.data, requirements=["C", "A"])


def _outputs(nodes: list[Any]) -> list[Any]:
    return [node.output(0) for node in nodes]


def _replace(outputs: list[Any], op: Op) -> None:
    for index, output in enumerate(outputs):
        for reader in list(output.get_target_inputs()):
            reader.replace_source_output(op.output(index))
