"""A DyConv block in our four kernels against the model's own module, which the original's numbers hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawn_dyconv import LEVELS, LIMITS, drawn_block, drawn_features, epsilon_of, expected_of, joined, parameters_of
from host_kernels import HostKernels

from glip_export.trt.kernels import DyConvSizes, dyconv_launches, dyconv_workspace_bytes


def run(host: HostKernels, block: Any, features: list[Any], dtype: str, order: int = 0) -> np.ndarray:
    """(B, N, C) of the kernels, in float32."""
    levels = [tuple(feature.shape[2:]) for feature in features]
    x = joined(features).astype(dtype)
    groups = block.DyConv[0].bn.num_groups
    return host.dyconv(x, levels, groups, epsilon_of(block), parameters_of(block, dtype), order).astype(np.float32)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(
    ("channels", "groups", "levels", "batch"),
    [
        (64, 16, LEVELS, 2),
        (32, 4, LEVELS[2:], 3),
        (32, 32, ((13, 1), (7, 1)), 1),
        (96, 16, ((1, 9), (1, 5), (1, 3)), 1),
        (288, 16, ((5, 3), (3, 2)), 1),  # more channels than a block makes
        (32, 8, ((16, 8),), 1),  # a whole tile, and no neighbour
        (32, 8, ((43, 3), (22, 2)), 1),  # a tile of one position
        (32, 8, ((64, 64), (32, 32), (16, 16), (8, 8), (4, 4), (2, 2)), 1),
    ],
)
def test_a_block_is_the_models(
    host: HostKernels, dtype: str, channels: int, groups: int, levels: Any, batch: int
) -> None:
    block, features = drawn_block(channels, groups), drawn_features(channels, levels, batch)
    expected = expected_of(block, features)
    found = run(host, block, features, dtype)
    assert np.abs(found - expected).max() <= LIMITS[dtype] * np.abs(expected).max()


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("levels", [LEVELS, ((64, 64), (32, 32), (16, 16), (8, 8), (4, 4), (2, 2)), ((3, 5),)])
def test_maps_in_memory_of_their_own_give_the_same_bits(host: HostKernels, dtype: str, levels: Any) -> None:
    block, features = drawn_block(32, 8), drawn_features(32, levels, 2)
    maps = [feature.permute(0, 2, 3, 1).numpy().astype(dtype) for feature in features]
    apart = host.dyconv_maps(maps, 8, epsilon_of(block), parameters_of(block, dtype))
    flat = [array.reshape(2, -1, 32).astype(np.float32) for array in apart]
    assert np.array_equal(np.concatenate(flat, 1), run(host, block, features, dtype))


@pytest.mark.parametrize("dtype", LIMITS)
def test_every_order_of_the_threads_gives_the_same_bits(host: HostKernels, dtype: str) -> None:
    block, features = drawn_block(32, 8), drawn_features(32, LEVELS[1:4], 1)
    results = {run(host, block, features, dtype, order).tobytes() for order in (0, 1, 2, 3)}
    assert len(results) == 1


@pytest.mark.parametrize("spread", [20.0, 500.0])
def test_samples_far_away_and_outside(host: HostKernels, spread: float) -> None:
    block, features = drawn_block(32, 8, offset=spread), drawn_features(32, LEVELS[1:4], 1)
    expected = expected_of(block, features)
    found = run(host, block, features, "float32")
    # An offset is a sum of 288 products: of one near a border its last bits choose the corner.
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def test_what_is_no_number_stays_in_its_image(host: HostKernels) -> None:
    block, features = drawn_block(32, 8), drawn_features(32, LEVELS[2:4], 2)
    sound = run(host, block, features, "float16")
    features[0][1, 3, 2, 2] = float("nan")
    features[1][1] = 60_000  # whose products are larger than a half can be
    found = run(host, block, features, "float16")
    assert np.array_equal(found[0], sound[0])
    assert np.isnan(found[1]).any()


@pytest.mark.parametrize(
    "change",
    [
        {"C": 48},
        {"C": 2048},
        {"groups": 5},
        {"groups": 0},
        {"levels": ()},
        {"levels": ((8, 8), (3, 4))},
        {"levels": ((8, 8), (4, 5))},
        {"levels": ((0, 8),)},
        {"levels": ((1 << 15, 1 << 15),)},
        {"B": 70_000},
    ],
)
def test_sizes_that_the_kernels_do_not_take(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"DyConv kernels|does not follow"):
        DyConvSizes(**{"B": 1, "C": 64, "groups": 16, "levels": ((8, 8), (4, 4)), **change})


def test_memory_of_another_type_or_size_and_no_image() -> None:
    sizes = DyConvSizes(1, 32, 8, ((4, 4),))
    x, parameters = np.zeros((1, 16, 32), np.float32), [256] * 20
    workspace = np.zeros(dyconv_workspace_bytes("float32", sizes), np.uint8)
    norms = (1e-5,) * 3
    with pytest.raises(ValueError, match="float32 or float16, not float64"):
        dyconv_launches("float64", sizes, norms, x, parameters, x, workspace)
    with pytest.raises(ValueError, match="x has shape"):
        dyconv_launches("float32", sizes, norms, x[:, :9], parameters, x, workspace)
    with pytest.raises(ValueError, match="19 parameters were given, and 20 are taken"):
        dyconv_launches("float32", sizes, norms, x, parameters[1:], x, workspace)
    with pytest.raises(ValueError, match="not aligned to 16 bytes"):
        dyconv_launches("float32", sizes, norms, 260, parameters, 256, 256)
    with pytest.raises(ValueError, match="x 0 has shape"):
        dyconv_launches("float32", sizes, norms, [x[:, :9]], parameters, x, workspace)
    with pytest.raises(ValueError, match="out of 2 levels were given, and 1 are taken"):
        dyconv_launches("float32", sizes, norms, x, parameters, [256, 256], workspace)
    with pytest.raises(ValueError, match="not aligned to 16 bytes"):
        dyconv_launches("float32", sizes, norms, x, parameters, [264], workspace)
    with pytest.raises(ValueError, match="workspace has shape"):
        dyconv_launches("float32", sizes, norms, x, parameters, x, workspace[:-16])
    assert dyconv_launches("float32", DyConvSizes(0, 32, 8, ((4, 4),)), norms, 0, [], 0, 0) == []
