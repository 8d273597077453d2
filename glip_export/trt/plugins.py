"""The three plugins in Python, IPluginV3, for TensorRT and TensorRT for RTX alike.

Both libraries have the same API, so a plugin's class is made from the module it is for. Shapes, formats, workspace and
fields are asked for when an engine is built; `enqueue` when it runs, on a GPU. The C++ library in plugins/tensorrt
has the same names, version, fields and serialised form: an engine built with one loads with the other.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from glip_export.trt.kernels import (
    DyConvSizes,
    KernelModule,
    Launch,
    dyconv_launches,
    dyconv_workspace_bytes,
    im2col_launches,
    nms_launches,
    nms_workspace_bytes,
)
from glip_export.trt.nodes import DEFORM_IM2COL, DYCONV, NAMESPACE, NMS, VERSION

_registered: dict[str, list[Any]] = {}  # by module: a registry keeps no creator alive


class Field(NamedTuple):
    """A plugin's field: one number, or several as a tuple."""

    name: str
    dtype: Any  # NumPy's type
    kind: Any  # TensorRT's type
    length: int = 1

    def read(self, plugin: str, data: Any) -> Any:
        """The value; raises ValueError for another number of numbers."""
        if len(data) != self.length:
            raise ValueError(f"{plugin}'s attribute {self.name} has {self.length} values, not {len(data)}")
        values = tuple(map(self.dtype, data))
        return values if self.length > 1 else values[0]


def register_plugins(trt: ModuleType) -> None:
    """Registers all with `trt`, which is tensorrt or tensorrt_rtx; again, or after the C++ library, does nothing."""
    if trt.__name__ in _registered:
        return
    registry = trt.get_plugin_registry()
    present = {(creator.name, creator.plugin_version, creator.plugin_namespace) for creator in registry.all_creators}
    creators = [make_creator(trt, plugin) for plugin in (im2col_plugin(trt), nms_plugin(trt), dyconv_plugin(trt))]
    for creator in creators:
        if (creator.name, VERSION, NAMESPACE) not in present:
            registry.register_creator(creator, NAMESPACE)
    _registered[trt.__name__] = creators


def make_creator(trt: ModuleType, plugin: Any) -> Any:
    """The creator of one plugin class: from a node's attributes, or from what an engine holds of it."""
    base: Any = trt.IPluginCreatorV3One

    class Creator(base):
        def __init__(self) -> None:
            super().__init__()
            self.name, self.plugin_version, self.plugin_namespace = plugin.NAME, VERSION, NAMESPACE
            self.field_names = trt.PluginFieldCollection(
                [trt.PluginField(each.name, np.empty(0, each.dtype), each.kind) for each in plugin.FIELDS]
            )

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            given = {field.name: field.data for field in fields}
            missing = [each.name for each in plugin.FIELDS if each.name not in given]
            if missing:
                raise ValueError(f"{plugin.NAME} lacks its attribute {missing[0]}")
            return plugin(*(each.read(plugin.NAME, given[each.name]) for each in plugin.FIELDS))

    return Creator()


def im2col_plugin(trt: ModuleType) -> Any:
    """GlipDeformIm2Col: x (B, C, H, W), offset (B, 18, Ho, Wo), mask (B, 9, Ho, Wo) -> columns (B, C*9, Ho*Wo).

    All float32 or all float16, linear; field `stride` int32, 1 or 2. See `nodes` for the sampling rule.
    """

    base: Any = _plugin_base(trt)

    class DeformIm2Col(base):
        NAME = DEFORM_IM2COL
        FIELDS = (Field("stride", np.int32, trt.PluginFieldType.INT32),)

        def get_output_data_types(self, input_types: list[Any]) -> list[Any]:
            return [input_types[0]]

        def get_output_shapes(self, inputs: list[Any], shape_inputs: list[Any], build: Any) -> list[Any]:
            x, offset, _ = inputs
            times = trt.DimensionOperation.PROD
            rows = build.operation(times, x[1], build.constant(9))
            columns = build.operation(times, offset[2], offset[3])
            return [trt.DimsExprs([x[0], rows, columns])]

        def supports_format_combination(self, place: int, tensors: list[Any], inputs: int) -> bool:
            first, tensor = tensors[0].desc, tensors[place].desc
            kinds = (trt.float32, trt.float16) if place == 0 else (first.type,)
            return tensor.format == trt.TensorFormat.LINEAR and tensor.type in kinds

        def enqueue(self, inputs: Any, outputs: Any, sources: Any, targets: Any, workspace: int, stream: int) -> None:
            batch, channels, height, width = inputs[0].dims
            out_height, out_width = inputs[1].dims[2:]
            (stride,) = self.values
            dtype = _dtype_name(trt, inputs[0].type)
            sizes = (batch, channels, height, width, out_height, out_width, int(stride))
            _launch(im2col_launches(dtype, *sizes, *sources, *targets), stream)

    return DeformIm2Col


def nms_plugin(trt: ModuleType) -> Any:
    """GlipNms: boxes (B, M, 4) f32, scores (B, M) f32, labels (B, M) int32 -> the best D after class-wise NMS.

    boxes (B, D, 4) f32, scores (B, D) f32, labels (B, D) int32, count (B,) int32; fields `iou_threshold` float32 and
    `max_detections` int32, which is D.
    """

    base: Any = _plugin_base(trt)

    class Nms(base):
        NAME = NMS
        FIELDS = (
            Field("iou_threshold", np.float32, trt.PluginFieldType.FLOAT32),
            Field("max_detections", np.int32, trt.PluginFieldType.INT32),
        )
        OUTPUTS = 4

        def get_output_data_types(self, input_types: list[Any]) -> list[Any]:
            return [trt.float32, trt.float32, trt.int32, trt.int32]

        def get_output_shapes(self, inputs: list[Any], shape_inputs: list[Any], build: Any) -> list[Any]:
            batch, detections = inputs[0][0], build.constant(int(self.values[1]))
            four = build.constant(4)
            shapes = ([batch, detections, four], [batch, detections], [batch, detections], [batch])
            return [trt.DimsExprs(shape) for shape in shapes]

        def supports_format_combination(self, place: int, tensors: list[Any], inputs: int) -> bool:
            kinds = (trt.float32, trt.float32, trt.int32, trt.float32, trt.float32, trt.int32, trt.int32)
            tensor = tensors[place].desc
            return tensor.format == trt.TensorFormat.LINEAR and tensor.type == kinds[place]

        def get_workspace_size(self, inputs: list[Any], outputs: list[Any]) -> int:
            batch, candidates = inputs[1].max
            return nms_workspace_bytes(batch, candidates, int(self.values[1]))

        def enqueue(self, inputs: Any, outputs: Any, sources: Any, targets: Any, workspace: int, stream: int) -> None:
            batch, candidates = inputs[1].dims
            threshold, detections = self.values
            sizes = (batch, candidates, int(detections), float(threshold))
            addresses = (*sources, *targets, workspace)
            _launch(nms_launches(*sizes, *addresses), stream)

    return Nms


def dyconv_plugin(trt: ModuleType) -> Any:
    """GlipDyConv: L maps (B, C, H, W), the largest first, then 20 parameters -> L maps of the same shapes.

    All float32 or all float16; the maps channels last (C is a multiple of 32: HWC8 has no padding), the parameters
    linear, as `graphs.dyconv_node.parameters_of` gives them. Fields `levels` int32, which is L, `groups` int32 and
    `epsilon` float32[3]: of the three GroupNorms.
    """

    base: Any = _plugin_base(trt)

    class DyConv(base):
        NAME = DYCONV
        FIELDS = (
            Field("levels", np.int32, trt.PluginFieldType.INT32),
            Field("groups", np.int32, trt.PluginFieldType.INT32),
            Field("epsilon", np.float32, trt.PluginFieldType.FLOAT32, 3),
        )

        def __init__(self, *values: Any) -> None:
            super().__init__(*values)
            self.num_outputs = self._levels = int(values[0])

        def get_output_data_types(self, input_types: list[Any]) -> list[Any]:
            return input_types[: self._levels]

        def get_output_shapes(self, inputs: list[Any], shape_inputs: list[Any], build: Any) -> list[Any]:
            return [trt.DimsExprs(list(shape)) for shape in inputs[: self._levels]]

        def supports_format_combination(self, place: int, tensors: list[Any], inputs: int) -> bool:
            first, tensor = tensors[0].desc, tensors[place].desc
            kinds = (trt.float32, trt.float16) if place == 0 else (first.type,)
            is_map = place < self._levels or place >= inputs
            last = trt.TensorFormat.HWC8 if tensor.type == trt.float16 else trt.TensorFormat.HWC
            return tensor.type in kinds and tensor.format == (last if is_map else trt.TensorFormat.LINEAR)

        def get_workspace_size(self, inputs: list[Any], outputs: list[Any]) -> int:
            sizes = self._sizes([tensor.max for tensor in inputs])
            return dyconv_workspace_bytes(_dtype_name(trt, inputs[0].desc.type), sizes)

        def enqueue(self, inputs: Any, outputs: Any, sources: Any, targets: Any, workspace: int, stream: int) -> None:
            sizes, epsilon = self._sizes([tensor.dims for tensor in inputs]), self.values[2]
            maps, parameters = list(sources[: self._levels]), sources[self._levels :]
            given = (sizes, epsilon, maps, parameters, list(targets), workspace)
            _launch(dyconv_launches(_dtype_name(trt, inputs[0].type), *given), stream)

        def _sizes(self, shapes: list[Any]) -> DyConvSizes:
            batch, channels = shapes[0][:2]
            return DyConvSizes(
                batch, channels, int(self.values[1]), tuple(tuple(shape[2:4]) for shape in shapes[: self._levels])
            )

    return DyConv


def _plugin_base(trt: ModuleType) -> Any:
    """What all have in common: their values are all their state, and their only tactic the kernels'."""
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    class Plugin(*bases):  # type: ignore[misc]
        NAME: str
        FIELDS: tuple[Field, ...]
        OUTPUTS = 1

        def __init__(self, *values: Any) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace = self.NAME, VERSION, NAMESPACE
            self.num_outputs = self.OUTPUTS
            self.values = values
            # A collection of fields holds no array: they live as long as the plugin, which TensorRT reads them of.
            self._arrays = [
                np.array(value, each.dtype, ndmin=1) for each, value in zip(self.FIELDS, values, strict=True)
            ]

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            return type(self)(*self.values)

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def get_fields_to_serialize(self) -> Any:
            named = zip(self.FIELDS, self._arrays, strict=True)
            return trt.PluginFieldCollection([trt.PluginField(each.name, array, each.kind) for each, array in named])

        def get_workspace_size(self, inputs: list[Any], outputs: list[Any]) -> int:
            return 0

        def configure_plugin(self, inputs: list[Any], outputs: list[Any]) -> None:
            """Nothing depends on the sizes before they run."""

        def on_shape_change(self, inputs: list[Any], outputs: list[Any]) -> None:
            """Nothing is kept for a size."""

        def get_valid_tactics(self) -> list[int]:
            return []

        def set_tactic(self, tactic: int) -> None:
            """There is one."""

    return Plugin


def _dtype_name(trt: ModuleType, kind: Any) -> str:
    return "float16" if kind == trt.float16 else "float32"


def _launch(launches: list[Launch], stream: int) -> None:
    KernelModule.current().launch(launches, stream)
