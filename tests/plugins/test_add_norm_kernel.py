"""A residual sum and its LayerNorm in one kernel, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawn_add_norm import KINDS, LIMITS, norm_rows, sum_and_norm
from host_kernels import HostKernels

from glip_export.trt.kernels import add_norm_launches


def close(ours: np.ndarray, theirs: np.ndarray, dtype: str) -> None:
    assert ours.dtype == dtype
    assert np.abs(ours - theirs).max() <= LIMITS[dtype] * np.abs(theirs).max()


@pytest.mark.parametrize(("x_dtype", "dtype"), KINDS)
@pytest.mark.parametrize(("rows", "channels"), [(1, 8), (5, 16), (70, 32), (33, 96), (9, 384), (3, 768), (3, 776)])
def test_sum_and_norm(host: HostKernels, rows: int, channels: int, x_dtype: str, dtype: str) -> None:
    given = norm_rows(rows, channels, x_dtype, dtype)
    total, normed = host.add_norm(*given, 1e-3, dtype, order=rows % 4)
    expected_total, expected_normed = sum_and_norm(given, 1e-3)
    close(total, expected_total, "float32")
    close(normed, expected_normed, dtype)


@pytest.mark.parametrize(("x_dtype", "dtype"), KINDS)
@pytest.mark.parametrize("channels", [256, 3072])
def test_each_alone(host: HostKernels, channels: int, x_dtype: str, dtype: str) -> None:
    x, added, bias, *norm = given = norm_rows(6, channels, x_dtype, dtype)
    (total,) = host.add_norm(x, added, bias, None, None, 0.0, dtype)
    close(total, sum_and_norm(given, 1e-5)[0], "float32")
    (normed,) = host.add_norm(x, None, None, *norm, 1e-5, dtype)
    close(normed, sum_and_norm(given, 1e-5, adds=False)[1], dtype)


def test_every_order_of_the_threads_gives_the_same_bits(host: HostKernels) -> None:
    given = norm_rows(40, 96, "float32", "float16")
    results = {b"".join(made.tobytes() for made in host.add_norm(*given, 1e-5, "float16", order)) for order in range(4)}
    assert len(results) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "float64"}, "float32 or float16, not float32 and float64"),
        ({"x_dtype": "float16", "dtype": "float32"}, "float32 or float16, not float16 and float32"),
        ({"C": 12}, "2 rows of 12 channels"),
        ({"C": 3080}, "2 rows of 3080 channels"),
        ({"M": -1}, "-1 rows"),
        ({"bias_ptr": None}, "what is added has a bias and a sum"),
        ({"normed_ptr": None}, "a norm has weight, bias and result"),
        ({"x_ptr": 264}, "not aligned to 16 bytes"),
        ({"sum_ptr": np.zeros(15, np.float32)}, "sum has shape"),
    ],
)
def test_what_the_kernel_does_not_take(change: dict[str, Any], words: str) -> None:
    names = ("x", "added", "bias", "norm_weight", "norm_bias", "sum", "normed")
    arguments = {"x_dtype": "float32", "dtype": "float32", "M": 2, "C": 8, "epsilon": 1e-5}
    arguments |= {f"{name}_ptr": 256 for name in names}
    assert len(add_norm_launches(**arguments)) == 1  # type: ignore[arg-type]
    assert add_norm_launches(**arguments | {"M": 0}) == []  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=words):
        add_norm_launches(**arguments | change)  # type: ignore[arg-type]
