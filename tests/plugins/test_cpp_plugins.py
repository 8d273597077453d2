"""The C++ plugins, compiled against declarations of TensorRT's API, are those of the Python side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cpp_plugins import CHW2, HWC, HWC8, LINEAR, CppPlugins, Plugin, build
from drawn_dyconv import LEVELS, LIMITS, drawn_block, drawn_features, epsilon_of, expected_of, parameters_of
from host_kernels import HostKernels, compiler, placed

from glip_export.trt.dyconv_launches import DyConvSizes, dyconv_workspace_bytes, parameter_shapes
from glip_export.trt.nodes import DEFORM_IM2COL, DYCONV, NAMESPACE, NMS, VERSION

FIELDS = {
    DEFORM_IM2COL: {"stride": np.array([2], np.int32)},
    NMS: {"iou_threshold": np.array([0.6], np.float32), "max_detections": np.array([100], np.int32)},
    DYCONV: {
        "levels": np.array([5], np.int32),
        "groups": np.array([8], np.int32),
        "epsilon": np.array([1e-5, 1e-4, 1e-3], np.float32),
    },
}
MAPS = [(2, 32, *size) for size in LEVELS]
SHAPES = [*MAPS, *parameter_shapes(32), *MAPS]


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> CppPlugins:
    if compiler() is None:
        pytest.skip("no C++ compiler: install g++, or name one in CXX")
    library: Path = tmp_path_factory.mktemp("cpp_plugins") / "libcpp_plugins.so"
    build(library)
    return CppPlugins(library)


@pytest.fixture
def dyconv(plugins: CppPlugins) -> Plugin:
    return made(plugins, DYCONV)


def made(plugins: CppPlugins, name: str, **fields: np.ndarray) -> Plugin:
    plugin = plugins.create(name, FIELDS[name] | fields)
    assert plugin is not None
    return plugin


@pytest.mark.parametrize("name", FIELDS)
def test_names_and_fields_are_those_of_the_nodes(plugins: CppPlugins, name: str) -> None:
    creator = plugins.creator(name)
    assert plugins.library.creator_version(creator).decode() == VERSION
    assert plugins.library.creator_namespace(creator).decode() == NAMESPACE
    assert plugins.field_names(name) == {key: (each.dtype, len(each)) for key, each in FIELDS[name].items()}
    assert plugins.library.count_creators() == len(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_fields_survive_serialisation_and_a_clone(plugins: CppPlugins, name: str) -> None:
    fields = dict(reversed(FIELDS[name].items()))
    plugin = plugins.create(name, fields)
    assert plugin is not None
    for _ in range(2):
        plugin = plugin.clone()
        written = plugin.serialized()
        assert [*written] == [*FIELDS[name]]  # as the Python plugin writes them
        for key, array in FIELDS[name].items():
            np.testing.assert_array_equal(written[key], array, strict=True)
        assert plugin.name == name
        plugin = made(plugins, name, **written)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (DEFORM_IM2COL, {"stride": np.array([3], np.int32)}),
        (NMS, {"max_detections": np.array([0], np.int32)}),
        (NMS, {"iou_threshold": np.array([1], np.int32)}),
        (DYCONV, {"epsilon": np.array([1e-5], np.float32)}),
        (DYCONV, {"levels": np.array([7], np.int32)}),
        (DYCONV, {"groups": np.array([0], np.int32)}),
    ],
)
def test_other_fields_make_no_plugin(plugins: CppPlugins, name: str, change: dict[str, np.ndarray]) -> None:
    assert plugins.create(name, FIELDS[name] | change) is None
    (key,) = change
    assert plugins.create(name, {other: array for other, array in FIELDS[name].items() if other != key}) is None


def test_shapes_of_columns_and_detections(plugins: CppPlugins) -> None:
    im2col, nms = made(plugins, DEFORM_IM2COL), made(plugins, NMS)
    assert im2col.output_shapes([(2, 16, 10, 12), (2, 18, 5, 6), (2, 9, 5, 6)]) == [(2, 144, 30)]
    assert nms.output_shapes([(2, 50, 4), (2, 50), (2, 50)]) == [(2, 100, 4), (2, 100), (2, 100), (2,)]
    assert im2col.output_shapes([(2, 16, 10, 12), (2, 18, 5, 6)]) is None


def test_a_dyconv_gives_its_maps(dyconv: Plugin) -> None:
    assert dyconv.outputs == 5
    assert dyconv.output_shapes(SHAPES[:25]) == MAPS
    assert dyconv.output_shapes(SHAPES[:24]) is None
    for kind in LIMITS:
        assert dyconv.output_types([kind] * 25) == [kind] * 5


def test_a_dyconv_takes_maps_channels_last_and_parameters_linear(dyconv: Plugin) -> None:
    places = [*["map"] * 5, *["parameter"] * 20, *["map"] * 5]

    def takes(kind: str, of_maps: int, first: str = "") -> list[bool]:
        kinds = [first or kind, *[kind] * 29]
        formats = [of_maps if place == "map" else LINEAR for place in places]
        return dyconv.supports(list(zip(kinds, SHAPES, strict=True)), formats)

    assert takes("float32", HWC) == takes("float16", HWC8) == [True] * 30
    parameters = [place == "parameter" for place in places]
    for wrong in (("float32", HWC8), ("float16", HWC), ("float16", LINEAR), ("float32", CHW2)):
        assert takes(*wrong) == parameters
    assert takes("float16", HWC8, first="float32") == [False] * 30
    assert not takes("int32", HWC)[0]
    assert not any(dyconv.supports([("float16", shape) for shape in SHAPES], [HWC8] * 30)[5:25])


@pytest.mark.parametrize("kind", LIMITS)
def test_a_dyconv_asks_for_the_workspace_that_python_counts(dyconv: Plugin, kind: str) -> None:
    tensors = [(kind, shape) for shape in SHAPES]
    assert dyconv.configure(tensors) == 0
    assert dyconv.workspace_bytes(tensors) == dyconv_workspace_bytes(kind, DyConvSizes(2, 32, 8, LEVELS))
    tensors[1] = (kind, (2, 32, 10, 14))  # not half as wide
    assert dyconv.configure(tensors) == 1


@pytest.mark.parametrize("kind", LIMITS)
def test_a_dyconv_computes_what_the_model_and_the_python_launches_do(
    plugins: CppPlugins, host: HostKernels, kind: str
) -> None:
    block, features = drawn_block(32, 8), drawn_features(32, LEVELS, 2)
    epsilon, parameters = epsilon_of(block), parameters_of(block, kind)
    plugin = made(plugins, DYCONV, epsilon=np.array(epsilon, np.float32))
    maps = [feature.permute(0, 2, 3, 1).numpy().astype(kind) for feature in features]
    inputs = [placed(array) for array in (*maps, *parameters)]
    outputs = [placed(np.full(array.shape, np.nan, kind)) for array in maps]
    space = placed(np.full(dyconv_workspace_bytes(kind, DyConvSizes(2, 32, 8, LEVELS)), 0xFF, np.uint8))
    assert plugin.enqueue(SHAPES, inputs, outputs, space) == 0
    for found, expected in zip(outputs, host.dyconv_maps(maps, 8, epsilon, parameters), strict=True):
        assert np.array_equal(found, expected)
    joined = np.concatenate([array.reshape(2, -1, 32).astype(np.float32) for array in outputs], 1)
    expected = expected_of(block, features)
    assert np.abs(joined - expected).max() <= LIMITS[kind] * np.abs(expected).max()


def test_addresses_and_sizes_that_the_kernels_do_not_take_are_an_error(dyconv: Plugin) -> None:
    maps = [placed(np.zeros(shape, np.float32)) for shape in MAPS]
    parameters = [placed(np.zeros(shape, np.float32)) for shape in SHAPES[5:25]]
    space = placed(np.zeros(1 << 22, np.uint8))
    off = [placed(maps[0], 1), *maps[1:]]
    assert dyconv.enqueue(SHAPES, [*off, *parameters], maps, space) == 1
    assert dyconv.enqueue(SHAPES, [*maps, *parameters], off, space) == 1
    assert dyconv.enqueue(SHAPES, [*maps, placed(parameters[0], 1), *parameters[1:]], maps, space) == 1
    assert dyconv.enqueue(SHAPES, [*maps, *parameters], maps, space[4:]) == 1
    wrong = [(2, 32, 30, 20), *SHAPES[1:]]
    assert dyconv.enqueue(wrong, [*maps, *parameters], maps, space) == 1
