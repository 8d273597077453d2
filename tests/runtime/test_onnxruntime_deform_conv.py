"""DeformConv with an int8 weight as samples and an int8 product, in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx_ir import DataType
from onnx_ir.tape import Tape

from glip_export.graphs.quantized import add_initializer
from glip_export.runtime.onnxruntime_deform_conv import LEVELS, sampling_weight, split_deform_convs
from glip_export.runtime.onnxruntime_graphs import can_be_faster

CHANNELS, OUT = 6, 5
SPATIAL = {1: (7, 9), 2: (4, 5)}  # of the result, by stride, of a map of 7x9
Arrays = dict[str, NDArray]
exact = pytest.mark.skipif(not can_be_faster(), reason="without VNNI ONNX Runtime's sums of uint8 by int8 overflow")


@pytest.fixture
def arrays() -> Arrays:
    """Offsets of up to three pixels, which leave the map; a mask of 0 to 1."""
    draw = np.random.default_rng(5)
    return {
        "x": draw.standard_normal((2, CHANNELS, 7, 9)).astype(np.float32),
        "offset": draw.uniform(-3, 3, (2, 18, 7, 9)).astype(np.float32),
        "mask": draw.uniform(0, 1, (2, 9, 7, 9)).astype(np.float32),
    }


def strided(arrays: Arrays, stride: int) -> Arrays:
    height, width = SPATIAL[stride]
    return {name: array if name == "x" else array[:, :, :height, :width] for name, array in arrays.items()}


def model_of(weight: NDArray[np.float32], stride: int = 1, int8: bool = False, group: int = 1) -> onnx_ir.Model:
    """x, offset, mask -> y: one DeformConv; int8: its weight rounded, as `quantize` does, and with a bias."""
    inputs = [
        onnx_ir.Value(name=name, type=onnx_ir.TensorType(DataType.FLOAT), shape=onnx_ir.Shape([None] * 4))
        for name in ("x", "offset", "mask")
    ]
    graph = onnx_ir.Graph(inputs, [], nodes=[], opset_imports={"": 20}, name="deform_conv")
    tape, bias = Tape(), None
    if int8:
        scale = np.abs(weight).max(axis=(1, 2, 3)) / np.float32(127)
        whole = np.round(weight / scale[:, None, None, None]).astype(np.int8)
        stored = [add_initializer(graph, "w_quantized", whole), add_initializer(graph, "w_scale", scale)]
        read = tape.op("DequantizeLinear", stored, {"axis": 0})
        bias = add_initializer(graph, "b", np.linspace(-1, 1, len(weight), dtype=np.float32))
    else:
        read = add_initializer(graph, "w", weight)
    form = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [stride, stride], "group": group}
    x, offset, mask = inputs
    result = tape.op("DeformConv", [x, read, offset, bias, mask], form)
    result.name, result.type = "y", onnx_ir.TensorType(DataType.FLOAT)
    graph.extend(tape.nodes)
    graph.outputs.append(result)
    return onnx_ir.Model(graph, ir_version=10)


def run(model: onnx_ir.Model, arrays: Arrays) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = onnx_ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"]).run(["y"], arrays)[0]


@pytest.mark.parametrize("stride", [1, 2])
def test_sampling_apart_is_the_convolution(arrays: Arrays, stride: int) -> None:
    """In float32: the samples, times the weight, are what DeformConv gives."""
    weight = np.random.default_rng(1).standard_normal((OUT, CHANNELS, 3, 3)).astype(np.float32)
    given = strided(arrays, stride)
    samples = run(model_of(sampling_weight(CHANNELS), stride, group=CHANNELS // 2), given)
    assert samples.shape == (2, CHANNELS * 9, *SPATIAL[stride])
    product = np.einsum("ok,nkhw->nohw", weight.reshape(OUT, -1), samples)
    np.testing.assert_allclose(product, run(model_of(weight, stride), given), atol=2e-5)
    assert np.abs(samples).max() <= np.abs(given["x"]).max()


@exact
@pytest.mark.parametrize("stride", [1, 2])
def test_the_split_differs_by_no_more_than_rounding(arrays: Arrays, stride: int) -> None:
    weight = np.random.default_rng(2).standard_normal((OUT, CHANNELS, 3, 3)).astype(np.float32) * 0.2
    model, given = model_of(weight, stride, int8=True), strided(arrays, stride)
    whole = run(model, given)
    assert split_deform_convs(model) == 1
    operators = Counter(node.op_type for node in model.graph)
    assert operators["DequantizeLinear"] == 0 and operators["MatMulIntegerToFloat"] == 1
    split = run(model, given)
    assert split.shape == whole.shape and not np.array_equal(split, whole)
    step = np.abs(given["x"]).max() / LEVELS  # every sample is off by at most half of it
    most = 0.5 * step * np.abs(weight).sum(axis=(1, 2, 3)).max() * 1.02
    assert np.abs(split - whole).max() < 0.3 * most  # their errors cancel: a wrong tap would be far beyond


def test_a_map_of_zeros_gives_the_bias(arrays: Arrays) -> None:
    model = model_of(np.ones((OUT, CHANNELS, 3, 3), np.float32), int8=True)
    split_deform_convs(model)
    given = {**arrays, "x": np.zeros_like(arrays["x"])}
    expected = np.broadcast_to(np.linspace(-1, 1, OUT, dtype=np.float32)[:, None, None], (2, OUT, 7, 9))
    np.testing.assert_array_equal(run(model, given), expected)


def test_others_are_left(arrays: Arrays) -> None:
    """A float weight; an odd number of channels; several groups."""
    draw = np.random.default_rng(3)
    for weight, int8, group in (((OUT, CHANNELS, 3, 3), False, 1), ((4, 3, 3, 3), True, 1), ((4, 3, 3, 3), True, 2)):
        model = model_of(draw.standard_normal(weight).astype(np.float32), int8=int8, group=group)
        assert split_deform_convs(model) == 0
        assert [node.op_type for node in model.graph][-1] == "DeformConv"
