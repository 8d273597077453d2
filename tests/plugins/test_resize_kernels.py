"""Pictures made the network's input by the kernels, to the bit of what the host makes with Pillow and NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from host_kernels import HostKernels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glip_export.config import ImageConfig
from glip_export.image import MIN_SIDE, fitted_shape, normalized_bytes, padded_shape, preprocess
from glip_export.trt.resize_launches import ResizeSizes, filter_taps, resize_filter, resize_launches

GLIP = ImageConfig(min_size=40, max_size=66)


def drawn(height: int, width: int) -> np.ndarray:
    """Noise with black and white parts."""
    picture = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture[: height // 3], picture[:, : width // 4] = 255, 0
    return picture


def run(
    host: HostKernels, picture: np.ndarray, config: ImageConfig, fixed: tuple[int, int] | None = None, order: int = 0
) -> np.ndarray:
    given = picture.shape[0], picture.shape[1]
    resized = fitted_shape(*given, config, fixed)
    sizes = ResizeSizes(given, resized, padded_shape([resized], config, fixed))
    return host.prepare_picture(picture, sizes, normalized_bytes(config), config.bgr255, order)[None]


@pytest.mark.parametrize(
    "size",
    [
        (40, 60),  # as it is
        (20, 30),
        (100, 150),
        (40, 66),
        (150, 100),
        (33, 47),
        (97, 31),
        (41, 41),
        (7, 90),  # the long side decides
        (2, 2),
        (2, 90),
        (120, 3),
        (39, 300),
    ],
)
@pytest.mark.parametrize("bgr255", [True, False])
def test_they_are_the_hosts(host: HostKernels, size: tuple[int, int], bgr255: bool) -> None:
    config = replace(GLIP, bgr255=bgr255)
    picture = drawn(*size)
    found, expected = run(host, picture, config, order=size[0] % 4), preprocess([picture], config).images
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("size", [(40, 60), (150, 80), (300, 20)])
def test_of_one_input_size(host: HostKernels, size: tuple[int, int]) -> None:
    picture = drawn(*size)
    expected = preprocess([picture], GLIP, (32, 64)).images
    np.testing.assert_array_equal(run(host, picture, GLIP, (32, 64)), expected, strict=True)


def test_rows_of_several_blocks(host: HostKernels) -> None:
    picture, config = drawn(9, 700), ImageConfig(min_size=8, max_size=900)
    np.testing.assert_array_equal(run(host, picture, config), preprocess([picture], config).images, strict=True)


@settings(deadline=None, max_examples=150)
@given(*[st.integers(MIN_SIDE, 600) for _ in range(4)])
def test_the_filters_are_pillows(h0: int, w0: int, h: int, w: int) -> None:
    picture = drawn(h0, w0)
    across = np.asarray(Image.fromarray(picture).resize((w, h0), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(filtered(picture, resize_filter(w0, w), axis=1), across)
    down = np.asarray(Image.fromarray(picture).resize((w0, h), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(filtered(picture, resize_filter(h0, h), axis=0), down)


def filtered(picture: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """By the filter's definition."""
    pixels = np.moveaxis(picture, axis, 0).astype(np.int64)
    sums = np.full((weights.shape[1], *pixels.shape[1:]), 1 << 21, np.int64)
    for tap, weight in enumerate(weights[1:]):
        sums += weight[:, None, None] * pixels[np.minimum(weights[0] + tap, len(pixels) - 1)]
    return np.moveaxis(np.minimum(sums >> 22, 255), 0, axis).astype(np.uint8)


@pytest.mark.parametrize(("old", "new"), [(1, 1), (4, 2), (2, 4), (1000, 7), (7, 1000), (100_000, 40), (2666, 2)])
def test_a_filter_reads_inside_the_picture(old: int, new: int) -> None:
    first, *weights = resize_filter(old, new)
    assert len(weights) == filter_taps(old, new)
    for tap, weight in enumerate(weights):
        assert not weight[first + tap >= old].any()
    assert first.min() >= 0 and (np.diff(first) >= 0).all()
    assert np.abs(np.sum(weights, axis=0, dtype=np.int64) - (1 << 22)).max() <= len(weights)


def test_what_is_checked() -> None:
    for sizes in ((0, 4), (4, 4), (32, 32)), ((4, 4), (33, 4), (32, 32)), ((4, 4), (4, 0), (32, 32)):
        with pytest.raises(ValueError, match="is not resized"):
            ResizeSizes(*sizes)
    with pytest.raises(ValueError, match="too large"):
        ResizeSizes((1 << 16, 1 << 15), (32, 32), (32, 32))
    sizes = ResizeSizes((4, 4), (8, 8), (32, 32))
    with pytest.raises(ValueError, match="down_filter has shape"):
        resize_launches(sizes, True, 16, 16, np.zeros((3, 8), np.int32), 16, 16, 16)
    with pytest.raises(ValueError, match="not aligned to 4"):
        resize_launches(sizes, True, 16, 16, 16, 16, 16, 18)
