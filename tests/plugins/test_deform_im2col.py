"""The deformable im2col kernel against NumPy in float64 and against ONNX Runtime's DeformConv."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from host_kernels import HostKernels
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from glip_export.trt.kernels import im2col_launches

TOLERANCE = {"float32": 2e-6, "float16": 1e-3}  # of the largest value: one rounding to the dtype


def numpy_columns(x: np.ndarray, offset: np.ndarray, mask: np.ndarray, stride: int) -> np.ndarray:
    """The sampling rule in float64: a corner outside is 0, the mask multiplies what was interpolated."""
    batch, channels, height, width = x.shape
    out_height, out_width = offset.shape[2:]
    tap = np.arange(9).reshape(9, 1, 1)
    moved = offset.astype(np.float64).reshape(batch, 9, 2, out_height, out_width)
    y = moved[:, :, 0] + (np.arange(out_height) * stride - 1).reshape(-1, 1) + tap // 3
    x_at = moved[:, :, 1] + np.arange(out_width) * stride - 1 + tap % 3
    y, x_at = np.clip(y, -9, height + 9), np.clip(x_at, -9, width + 9)
    top, left = np.floor(y), np.floor(x_at)
    columns = np.zeros((batch, channels, 9, out_height, out_width))
    for corner_y, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for corner_x, weight_x in ((left, left + 1 - x_at), (left + 1, x_at - left)):
            inside = (corner_y >= 0) & (corner_y < height) & (corner_x >= 0) & (corner_x < width)
            row, column = np.where(inside, corner_y, 0).astype(int), np.where(inside, corner_x, 0).astype(int)
            for image in range(batch):
                values = x[image].astype(np.float64)[:, row[image], column[image]]  # (C, 9, Ho, Wo)
                columns[image] += values * (weight_y * weight_x * inside)[image]
    columns *= mask.astype(np.float64)[:, None]
    return columns.reshape(batch, channels * 9, out_height * out_width)


def inputs(
    rng: np.random.Generator, dtype: str, sizes: tuple[int, int, int, int], out: tuple[int, int], spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random x, offset and mask; every seventh offset is a whole number."""
    batch = sizes[0]
    offset = rng.normal(0, spread, (batch, 18, *out))
    offset.reshape(-1)[::7] = np.rint(offset.reshape(-1)[::7])
    return (
        rng.normal(0, 1, sizes).astype(dtype),
        np.clip(offset, -6e4, 6e4).astype(dtype),
        rng.uniform(0, 1, (batch, 9, *out)).astype(dtype),
    )


def check(host: HostKernels, x: np.ndarray, offset: np.ndarray, mask: np.ndarray, stride: int, **how: int) -> None:
    expected = numpy_columns(x, offset, mask, stride)
    found = host.im2col(x, offset, mask, stride, **how).astype(np.float64)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE[str(x.dtype)] * max(1.0, np.abs(x).max()), rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 3),
    channels=st.integers(1, 20),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    out=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.sampled_from([1, 2]),
    spread=st.sampled_from([0.0, 0.5, 3.0, 100.0, 3e4]),
    shift=st.sampled_from([0, 1]),
)
def test_any_sizes_and_offsets(
    host: HostKernels,
    dtype: str,
    seed: int,
    batch: int,
    channels: int,
    size: tuple[int, int],
    out: tuple[int, int],
    stride: int,
    spread: float,
    shift: int,
) -> None:
    rng = np.random.default_rng(seed)
    x, offset, mask = inputs(rng, dtype, (batch, channels, *size), out, spread)
    check(host, x, offset, mask, stride, order=seed % 5, shift=shift)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_feature_map_of_several_blocks_and_slabs(host: HostKernels, dtype: str, stride: int) -> None:
    out = (-(-26 // stride), -(-38 // stride))
    check(host, *inputs(np.random.default_rng(1), dtype, (2, 70, 26, 38), out, 2.0), stride)


def test_without_offsets_rows_are_channel_then_tap(host: HostKernels) -> None:
    x = np.arange(2 * 3 * 4, dtype=np.float32).reshape(1, 2, 3, 4)
    columns = host.im2col(x, np.zeros((1, 18, 3, 4), np.float32), np.ones((1, 9, 3, 4), np.float32), 1)
    padded = np.pad(x[0], ((0, 0), (1, 1), (1, 1)))
    for channel in range(2):
        for tap in range(9):
            window = padded[channel, tap // 3 : tap // 3 + 3, tap % 3 : tap % 3 + 4]
            np.testing.assert_array_equal(columns[0, channel * 9 + tap].reshape(3, 4), window)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("far", [-np.inf, -6e4, -20.0, 20.0, 6e4, np.inf])
def test_far_outside_is_zero_whatever_the_map_holds(host: HostKernels, dtype: str, far: float) -> None:
    x = np.full((1, 3, 5, 7), np.inf, dtype)
    offset = np.full((1, 18, 5, 7), far, dtype)
    assert not host.im2col(x, offset, np.ones((1, 9, 5, 7), dtype), 1).any()


def test_one_pixel_beyond_the_edge_is_interpolated_with_zero(host: HostKernels) -> None:
    x = np.full((1, 1, 2, 2), 8.0, np.float32)
    offset = np.full((1, 18, 1, 1), 0.25, np.float32)
    columns = host.im2col(x, offset, np.full((1, 9, 1, 1), 0.5, np.float32), 1)
    # Tap 0 samples at (-0.75, -0.75): a quarter of each axis lies on the one corner inside.
    assert columns[0, 0, 0] == pytest.approx(8 * 0.25 * 0.25 * 0.5)
    assert columns[0, 8, 0] == pytest.approx(8 * 0.75 * 0.75 * 0.5)  # at (1.25, 1.25)


def test_the_grid_does_not_change_the_result(host: HostKernels) -> None:
    x, offset, mask = inputs(np.random.default_rng(3), "float32", (3, 11, 9, 8), (9, 8), 1.0)
    out = np.full((3, 99, 72), np.nan, np.float32)
    (launch,) = im2col_launches("float32", 3, 11, 9, 8, 9, 8, 1, x, offset, mask, out)
    grid = (1, launch.grid[1], 1)
    assert host.launch_raw(launch.kernel, grid, (8, 1, 1), 0, launch.argument_pointers()) == 0
    np.testing.assert_array_equal(out, host.im2col(x, offset, mask, 1))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_columns_times_weight_is_onnxruntimes_deform_conv(host: HostKernels, stride: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch, channels, filters, height, width = rng.integers(1, (4, 10, 7, 14, 14), endpoint=True)
    out = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    x, offset, mask = inputs(rng, "float32", (batch, channels, height, width), out, 2.0)
    weight = rng.normal(0, 1, (filters, channels, 3, 3)).astype(np.float32)
    bias = rng.normal(0, 1, filters).astype(np.float32)
    columns = host.im2col(x, offset, mask, stride)
    found = weight.reshape(filters, channels * 9) @ columns + bias[:, None]
    expected = _deform_conv(x, weight, offset, bias, mask, stride)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-4)


def _deform_conv(
    x: np.ndarray, weight: np.ndarray, offset: np.ndarray, bias: np.ndarray, mask: np.ndarray, stride: int
) -> np.ndarray:
    names = {"x": x, "weight": weight, "offset": offset, "bias": bias, "mask": mask}
    node = helper.make_node(
        "DeformConv", list(names), ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[stride, stride]
    )
    graph = helper.make_graph(
        [node],
        "deform_conv",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in names.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, names)[0]
