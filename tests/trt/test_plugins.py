"""The Python plugins: what they tell TensorRT at build time, and what they launch at run time.

Nothing is parsed in this process: see `flavor` on what happens if another test imported tensorrt_rtx first.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from plugins.drawn_dyconv import LEVELS, LIMITS, drawn_block, drawn_features, epsilon_of, expected_of, parameters_of
from plugins.host_kernels import HostKernels, placed

from glip_export.trt import plugins as plugins_module
from glip_export.trt.dyconv_launches import DyConvSizes, dyconv_workspace_bytes
from glip_export.trt.flavor import is_installed, load_flavor
from glip_export.trt.plugins import dyconv_plugin, im2col_plugin, make_creator, nms_plugin, register_plugins

pytestmark = pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")


@pytest.fixture(scope="module")
def trt():
    return load_flavor("tensorrt_rtx").module


def field(trt, name: str, value: np.generic | np.ndarray):
    kind = {"int32": trt.PluginFieldType.INT32, "float32": trt.PluginFieldType.FLOAT32}[value.dtype.name]
    return trt.PluginField(name, np.array(value, ndmin=1), kind)


def tensor(trt, dtype, dims=(1,), layout=None):
    desc = SimpleNamespace(type=dtype, dims=dims, format=layout or trt.TensorFormat.LINEAR)
    return SimpleNamespace(desc=desc, type=dtype, dims=dims, max=dims)


class Expressions:
    """IExprBuilder on text."""

    def constant(self, value: int) -> str:
        return str(value)

    def operation(self, operation, left: str, right: str) -> str:
        return f"({left}{operation.name}{right})"


@pytest.fixture
def shapes_as_text(trt, monkeypatch: pytest.MonkeyPatch):
    """DimsExprs takes only TensorRT's own expressions."""
    monkeypatch.setattr(trt, "DimsExprs", list)


def test_they_are_registered_once(trt) -> None:
    register_plugins(trt)
    register_plugins(trt)
    found = [
        (creator.name, creator.plugin_version, creator.plugin_namespace, [each.name for each in creator.field_names])
        for creator in trt.get_plugin_registry().all_creators
        if creator.name.startswith("Glip")
    ]
    assert sorted(found) == [
        ("GlipDeformIm2Col", "1", "", ["stride"]),
        ("GlipDyConv", "1", "", ["levels", "groups", "epsilon"]),
        ("GlipNms", "1", "", ["iou_threshold", "max_detections"]),
    ]


def test_those_of_the_cpp_library_are_kept(trt, monkeypatch: pytest.MonkeyPatch) -> None:
    registered = []
    loaded = SimpleNamespace(name="GlipNms", plugin_version="1", plugin_namespace="")
    registry = SimpleNamespace(
        all_creators=[loaded], register_creator=lambda creator, namespace: registered.append(creator.name)
    )
    monkeypatch.setattr(plugins_module, "_registered", {})
    monkeypatch.setattr(trt, "get_plugin_registry", lambda: registry)
    register_plugins(trt)
    assert registered == ["GlipDeformIm2Col", "GlipDyConv"]


def test_fields_survive_serialisation(trt) -> None:
    nms = nms_plugin(trt)
    creator = make_creator(trt, nms)
    fields = trt.PluginFieldCollection(
        [field(trt, "max_detections", np.int32(100)), field(trt, "iou_threshold", np.float32(0.6))]
    )
    plugin = creator.create_plugin("nms", fields, trt.TensorRTPhase.BUILD)
    for _ in range(2):
        written = plugin.get_fields_to_serialize()
        assert [(each.name, each.type.name, each.data.tolist()) for each in written] == [
            ("iou_threshold", "FLOAT32", [np.float32(0.6)]),
            ("max_detections", "INT32", [100]),
        ]
        plugin = creator.create_plugin("nms", written, trt.TensorRTPhase.RUNTIME).clone()
    assert (plugin.plugin_name, plugin.plugin_version, plugin.plugin_namespace) == ("GlipNms", "1", "")
    with pytest.raises(ValueError, match="GlipNms lacks its attribute iou_threshold"):
        creator.create_plugin("nms", trt.PluginFieldCollection([]), trt.TensorRTPhase.BUILD)


def test_three_values_of_a_field_survive_too(trt) -> None:
    creator = make_creator(trt, dyconv_plugin(trt))
    numbers = [field(trt, "groups", np.int32(16)), field(trt, "levels", np.int32(5))]
    epsilon = np.array([1e-5, 1e-4, 1e-3], np.float32)
    fields = trt.PluginFieldCollection([field(trt, "epsilon", epsilon), *numbers])
    plugin = creator.create_plugin("dyconv", fields, trt.TensorRTPhase.BUILD)
    for _ in range(2):
        written = plugin.get_fields_to_serialize()
        others = [np.array([number], np.int32) for number in range(100)]  # where the fields' arrays were, had they gone
        assert [(each.name, each.type.name, each.data.tolist()) for each in written] == [
            ("levels", "INT32", [5]),
            ("groups", "INT32", [16]),
            ("epsilon", "FLOAT32", epsilon.tolist()),
        ]
        plugin = creator.create_plugin("dyconv", written, trt.TensorRTPhase.RUNTIME).clone()
        assert plugin.num_outputs == 5 and len(others) == 100
    with pytest.raises(ValueError, match="GlipDyConv's attribute epsilon has 3 values, not 1"):
        one = trt.PluginFieldCollection([field(trt, "epsilon", epsilon[:1]), *numbers])
        creator.create_plugin("dyconv", one, trt.TensorRTPhase.BUILD)


@pytest.mark.usefixtures("shapes_as_text")
def test_shapes_come_from_the_offsets(trt) -> None:
    x, offset, mask = ("b", "c", "h", "w"), ("b", "18", "ho", "wo"), ("b", "9", "ho", "wo")
    (columns,) = im2col_plugin(trt)(np.int32(2)).get_output_shapes([x, offset, mask], [], Expressions())
    assert columns == ["b", "(cPROD9)", "(hoPRODwo)"]


@pytest.mark.usefixtures("shapes_as_text")
def test_shapes_of_the_detections(trt) -> None:
    plugin = nms_plugin(trt)(np.float32(0.6), np.int32(100))
    inputs = [("b", "m", "4"), ("b", "m"), ("b", "m")]
    assert plugin.get_output_shapes(inputs, [], Expressions()) == [["b", "100", "4"], ["b", "100"], ["b", "100"], ["b"]]
    assert plugin.num_outputs == 4
    types = plugin.get_output_data_types([trt.float32, trt.float32, trt.int32])
    assert types == [trt.float32, trt.float32, trt.int32, trt.int32]


def test_im2col_takes_one_float_type_linear(trt) -> None:
    plugin = im2col_plugin(trt)(np.int32(1))

    def takes(*dtypes, layout=None) -> list[bool]:
        tensors = [tensor(trt, dtype, layout=layout) for dtype in dtypes]
        return [plugin.supports_format_combination(place, tensors, 3) for place in range(4)]

    for dtype in (trt.float32, trt.float16):
        assert takes(*[dtype] * 4) == [True] * 4
        assert plugin.get_output_data_types([dtype] * 3) == [dtype]
    assert takes(trt.float16, trt.float32, trt.float16, trt.float32) == [True, False, True, False]
    for dtype in (trt.bfloat16, trt.int8, trt.int32):
        assert not takes(*[dtype] * 4)[0]
    assert takes(*[trt.float16] * 4, layout=trt.TensorFormat.CHW2) == [False] * 4


def test_nms_takes_its_types_linear(trt) -> None:
    plugin = nms_plugin(trt)(np.float32(0.6), np.int32(100))
    right = [trt.float32, trt.float32, trt.int32, trt.float32, trt.float32, trt.int32, trt.int32]
    wrong = [trt.float16, trt.float16, trt.int64, trt.float16, trt.int32, trt.float32, trt.int64]
    for dtypes, answer in ((right, True), (wrong, False)):
        tensors = [tensor(trt, dtype) for dtype in dtypes]
        assert [plugin.supports_format_combination(place, tensors, 3) for place in range(7)] == [answer] * 7
    strided = [tensor(trt, dtype, layout=trt.TensorFormat.CHW32) for dtype in right]
    assert not plugin.supports_format_combination(0, strided, 3)


def dyconv(trt, levels: int = len(LEVELS), groups: int = 8, epsilon: tuple[float, ...] = (1e-5,) * 3):
    return dyconv_plugin(trt)(np.int32(levels), np.int32(groups), tuple(map(np.float32, epsilon)))


@pytest.mark.usefixtures("shapes_as_text")
def test_a_dyconv_gives_its_maps(trt) -> None:
    maps = [("b", "c", f"h{level}", f"w{level}") for level in range(5)]
    assert dyconv(trt).get_output_shapes([*maps, *[("c",)] * 20], [], Expressions()) == [*map(list, maps)]
    assert dyconv(trt).get_output_data_types([trt.float16] * 25) == [trt.float16] * 5


def test_a_dyconv_takes_maps_channels_last_and_parameters_linear(trt) -> None:
    places = [*["map"] * 5, *["parameter"] * 20, *["map"] * 5]
    last = {"HWC8": trt.TensorFormat.HWC8, "HWC": trt.TensorFormat.HWC, "LINEAR": trt.TensorFormat.LINEAR}

    def takes(dtype, of_maps: str, first=None) -> list[bool]:
        dtypes = [first or dtype, *[dtype] * 29]
        layouts = [last[of_maps] if place == "map" else trt.TensorFormat.LINEAR for place in places]
        tensors = [tensor(trt, each, layout=layout) for each, layout in zip(dtypes, layouts, strict=True)]
        return [dyconv(trt).supports_format_combination(place, tensors, 25) for place in range(30)]

    assert takes(trt.float32, "HWC") == takes(trt.float16, "HWC8") == [True] * 30
    parameters = [place == "parameter" for place in places]
    for wrong in ((trt.float32, "HWC8"), (trt.float16, "HWC"), (trt.float16, "LINEAR")):
        assert takes(*wrong) == parameters
    assert takes(trt.float16, "HWC8", first=trt.float32) == [False] * 30
    assert not takes(trt.bfloat16, "HWC8")[0]


@pytest.mark.parametrize("dtype", LIMITS)
def test_a_dyconv_asks_for_the_workspace_of_its_largest_maps(trt, dtype: str) -> None:
    inputs = [tensor(trt, getattr(trt, dtype), (2, 32, *size)) for size in LEVELS]
    assert dyconv(trt).get_workspace_size(inputs, []) == dyconv_workspace_bytes(dtype, DyConvSizes(2, 32, 8, LEVELS))


@pytest.mark.parametrize("dtype", LIMITS)
def test_a_dyconv_computes_what_the_model_does(
    trt, host: HostKernels, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """On maps that are not behind one another, of two pictures."""

    def launch(launches: list, stream: int) -> None:
        assert stream == 7 and len(launches) == 4
        assert {host.launch(each) for each in launches} == {0}

    module = SimpleNamespace(launch=launch)
    monkeypatch.setattr(plugins_module, "KernelModule", SimpleNamespace(current=lambda: module))
    block, features = drawn_block(32, 8), drawn_features(32, LEVELS, 2)
    maps = [placed(feature.permute(0, 2, 3, 1).numpy().astype(dtype)) for feature in features]
    given = [*maps, *map(placed, parameters_of(block, dtype))]
    made = [placed(np.full(array.shape, np.nan, dtype)) for array in maps]
    inputs = [tensor(trt, getattr(trt, dtype), (2, 32, *size)) for size in LEVELS]
    inputs += [tensor(trt, getattr(trt, dtype), array.shape) for array in given[5:]]
    plugin = dyconv(trt, epsilon=tuple(epsilon_of(block)))
    workspace = placed(np.full(plugin.get_workspace_size(inputs, []), 0xFF, np.uint8))
    sources, targets = ([array.ctypes.data for array in arrays] for arrays in (given, made))
    plugin.enqueue(inputs, inputs[:5], sources, targets, workspace.ctypes.data, 7)
    joined = np.concatenate([array.reshape(2, -1, 32).astype(np.float32) for array in made], 1)
    expected = expected_of(block, features)
    assert np.abs(joined - expected).max() <= LIMITS[dtype] * np.abs(expected).max()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list:
    """What would go to the device."""
    calls: list = []
    module = SimpleNamespace(launch=lambda launches, stream: calls.append((launches, stream)))
    monkeypatch.setattr(plugins_module, "KernelModule", SimpleNamespace(current=lambda: module))
    return calls


def values_of(launch) -> list:
    return [argument.value for argument in launch.arguments]


@pytest.mark.parametrize(("name", "suffix"), [("float32", "f32"), ("float16", "f16")])
def test_im2col_launches_its_kernel_on_the_stream(trt, launched: list, name: str, suffix: str) -> None:
    dtype = getattr(trt, name)
    inputs = [tensor(trt, dtype, dims) for dims in ((2, 16, 10, 12), (2, 18, 5, 7), (2, 9, 5, 7))]
    outputs = [tensor(trt, dtype, (2, 144, 35))]
    im2col_plugin(trt)(np.int32(2)).enqueue(inputs, outputs, [0x1000, 0x2000, 0x3000], [0x4000], 0, 77)
    (((launch,), stream),) = launched
    assert stream == 77 and launch.kernel == f"glip_deform_im2col_{suffix}"
    assert values_of(launch)[:11] == [0x1000, 0x2000, 0x3000, 0x4000, 2, 16, 10, 12, 5, 7, 2]


def test_nms_launches_its_kernels_with_the_workspace(trt, launched: list) -> None:
    plugin = nms_plugin(trt)(np.float32(0.6), np.int32(100))
    inputs = [tensor(trt, trt.float32, dims) for dims in ((2, 5000, 4), (2, 5000), (2, 5000))]
    assert plugin.get_workspace_size(inputs, []) >= 2 * 5000 * 4
    plugin.enqueue(inputs, [], [0x1000, 0x2000, 0x3000], [0x4000, 0x5000, 0x6000, 0x7000], 0x8000, 5)
    ((launches, stream),) = launched
    assert stream == 5 and [launch.kernel for launch in launches] == ["glip_nms_rank", "glip_nms_select"]
    assert values_of(launches[0]) == [0x2000, 0x8000, 2, 5000]
    pointers = [0x1000, 0x2000, 0x3000, 0x8000, 0x4000, 0x5000, 0x6000, 0x7000]
    assert values_of(launches[1]) == [*pointers, 2, 5000, 100, float(np.float32(0.6))]
