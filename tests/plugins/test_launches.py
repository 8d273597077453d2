"""Launch descriptions: the same plan as the C++ launchers', refused sizes, alignment."""

from __future__ import annotations

import ctypes
import gc
import weakref
from math import prod
from typing import Any

import numpy as np
import pytest
from drawn_dyconv import pyramid
from host_kernels import HostKernels

from glip_export.trt.dyconv_launches import parameter_shapes
from glip_export.trt.kernels import (
    DyConvSizes,
    dyconv_launches,
    dyconv_workspace_bytes,
    im2col_launches,
    nms_launches,
    nms_workspace_bytes,
)

IM2COL = {"B": 1, "C": 16, "H": 10, "W": 12, "Ho": 10, "Wo": 12, "stride": 1}
POINTERS = {"x_ptr": 256, "offset_ptr": 512, "mask_ptr": 1024, "out_ptr": 2048}


def test_the_launchers_plan_the_same_im2col(host: HostKernels) -> None:
    rng = np.random.default_rng(0)
    plan = (ctypes.c_longlong * 5)()
    seen = set()
    for _ in range(500):
        batch, channels = int(rng.choice([1, 2, 3, 70_000])), int(rng.integers(1, 600))
        sizes = [int(size) for size in rng.integers(1, (200, 300, 200, 300))]
        stride, aligned = int(rng.integers(1, 3)), bool(rng.integers(0, 2))
        assert host.library.glip_host_plan_im2col(batch, channels, *sizes, stride, int(aligned), plan) == 1
        pointers = (256, 512, 1024, 2048 if aligned else 2052)
        (launch,) = im2col_launches("float32", batch, channels, *sizes, stride, *pointers)
        assert [*launch.grid, launch.arguments[-1].value] == list(plan[:4])
        assert launch.kernel == "glip_deform_im2col_f32" + ("_pair" if plan[4] else "")
        seen.add((plan[3], plan[4]))
    assert len(seen) == 6  # every slab, with and without pairs


def test_the_launchers_plan_the_same_nms(host: HostKernels) -> None:
    plan = (ctypes.c_longlong * 7)()
    for batch, candidates, detections in ((1, 1, 1), (3, 5000, 100), (70_000, 257, 10), (2, 20_000_000, 100)):
        assert host.library.glip_host_plan_nms(batch, candidates, detections, ctypes.c_float(0.5), plan) == 1
        rank, select = nms_launches(batch, candidates, detections, 0.5, *[256] * 8)
        assert [*rank.grid, *select.grid] == list(plan[:6])
        assert nms_workspace_bytes(batch, candidates, detections) == plan[6]


def test_the_launchers_plan_the_same_dyconv(host: HostKernels) -> None:
    plan = (ctypes.c_longlong * 48)()
    levels_of = {1: ((43, 3),), 2: ((13, 1), (7, 1)), 5: tuple(pyramid(100, 152)), 6: (*pyramid(168, 168), (6, 6))}
    for levels in levels_of.values():
        for batch, channels, groups in ((1, 32, 4), (3, 96, 16), (2, 256, 16), (1, 1024, 32)):
            sides = (ctypes.c_int32 * 12)(*(side for level in levels for side in level))
            for dtype in (np.float32, np.float16):
                sizes = DyConvSizes(batch, channels, groups, levels)
                given = (batch, channels, groups, len(levels), sides, np.dtype(dtype).itemsize)
                assert host.library.glip_host_plan_dyconv(*given, plan) == 1
                launches = dyconv_launches(dtype, sizes, (1e-5,) * 3, 256, [256] * 20, 256, 0)
                made = [sizes.positions, sizes.rows, sizes.tiles]
                for launch in launches:
                    made += [*launch.grid, launch.block[0], launch.shared_bytes]
                (_, *_, predicted), (*_, terms, statistics), (*_, coefficients), _ = [
                    each.arguments for each in launches
                ]
                made += [each.value or 0 for each in (predicted, terms, statistics, coefficients)]
                made += [dyconv_workspace_bytes(dtype, sizes), *map(prod, parameter_shapes(channels))]
                assert made == list(plan)


@pytest.mark.parametrize(
    "change",
    [
        {"C": 48},
        {"C": 2048},
        {"groups": 5},
        {"levels": ((8, 8), (3, 4))},
        {"levels": ((0, 8),)},
        {"levels": ((1 << 15, 1 << 15),)},
        {"levels": ((2**31 - 1, 2**31 - 1), (1 << 30, 1 << 30))},
        {"B": 70_000},
    ],
)
def test_both_refuse_the_same_dyconv(host: HostKernels, change: dict[str, Any]) -> None:
    sizes = {"B": 1, "C": 64, "groups": 16, "levels": ((8, 8), (4, 4)), **change}
    with pytest.raises(ValueError, match=r"level|DyConv kernels"):
        DyConvSizes(**sizes)
    sides = (ctypes.c_int32 * 12)(*(side for level in sizes["levels"] for side in level))
    given = (sizes["B"], sizes["C"], sizes["groups"], len(sizes["levels"]), sides, 4)
    assert host.library.glip_host_plan_dyconv(*given, (ctypes.c_longlong * 48)()) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"stride": 3},
        {"H": 1 << 16, "W": 1 << 15},
        {"Ho": 1 << 16, "Wo": 1 << 15},
        {"C": 60_000},
    ],
)
def test_both_refuse_the_same_im2col_sizes(host: HostKernels, change: dict[str, int]) -> None:
    sizes = IM2COL | change
    with pytest.raises(ValueError, match="deformable im2col"):
        im2col_launches("float32", **sizes, **POINTERS)
    assert host.library.glip_host_plan_im2col(*sizes.values(), 1, (ctypes.c_longlong * 5)()) == 0


@pytest.mark.parametrize(
    ("candidates", "detections", "threshold"),
    [(5000, 0, 0.5), (-1, 10, 0.5), ((1 << 30) + 1, 10, 0.5), (10, 10, -0.1), (10, 10, float("nan"))],
)
def test_both_refuse_the_same_nms(host: HostKernels, candidates: int, detections: int, threshold: float) -> None:
    with pytest.raises(ValueError, match="cannot"):
        nms_launches(1, candidates, detections, threshold, *[256] * 8)
    plan = (ctypes.c_longlong * 7)()
    assert host.library.glip_host_plan_nms(1, candidates, detections, ctypes.c_float(threshold), plan) == 0


def test_an_empty_size_launches_nothing() -> None:
    for name in ("B", "C", "H", "Wo"):
        assert im2col_launches("float16", **IM2COL | {name: 0}, **POINTERS) == []
    assert nms_launches(0, 10, 10, 0.5, *[256] * 8) == []


@pytest.mark.parametrize("name", POINTERS)
def test_addresses_that_are_off_a_value_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not aligned to 2 bytes"):
        im2col_launches("float16", **IM2COL, **POINTERS | {name: 4097})


def test_boxes_need_16_bytes() -> None:
    for place in (0, 3):
        pointers = [256] * 8
        pointers[place] = 264
        with pytest.raises(ValueError, match="not aligned to 16 bytes"):
            nms_launches(1, 10, 10, 0.5, *pointers)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="not float64"):
        im2col_launches("float64", **IM2COL, **POINTERS)


def test_a_launch_keeps_large_addresses() -> None:
    (launch,) = im2col_launches("float32", **IM2COL, **POINTERS | {"out_ptr": 0x7F12_3456_7890_0000})
    address = launch.argument_pointers()[3]
    assert ctypes.c_uint64.from_address(address).value == 0x7F12_3456_7890_0000


def test_a_launch_holds_its_arrays_and_its_pointers_the_arguments() -> None:
    arrays = [np.zeros((1, depth, 4, 4), np.float16) for depth in (2, 18, 9)]
    out = np.empty((1, 18, 16), np.float16)
    alive = weakref.ref(out.base if out.base is not None else out)
    (launch,) = im2col_launches("float16", 1, 2, 4, 4, 4, 4, 1, *arrays, out)
    pointers = launch.argument_pointers()
    del launch, out, arrays
    gc.collect()
    assert alive() is not None
    assert ctypes.c_void_p.from_address(pointers[3]).value == alive().ctypes.data  # type: ignore[union-attr]
    del pointers
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    ("place", "array", "error", "words"),
    [
        (0, np.zeros((1, 16, 10, 11), np.float32), ValueError, r"x has shape \(1, 16, 10, 11\), and 1920 values"),
        (1, np.zeros((1, 18, 120)), TypeError, "offset is float64 and should be float32"),
        (2, np.zeros((1, 9, 10, 24), np.float32)[..., ::2], ValueError, "not C-contiguous"),
        (3, np.broadcast_to(np.float32(0), (1, 144, 120)), ValueError, "not C-contiguous"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(place: int, array: np.ndarray, error: type[Exception], words: str) -> None:
    memory = [*POINTERS.values()]
    memory[place] = array
    with pytest.raises(error, match=words):
        im2col_launches("float32", *IM2COL.values(), *memory)


def test_results_that_are_read_only_and_a_short_workspace_are_refused() -> None:
    count = np.zeros(1, np.int32)
    count.flags.writeable = False
    for place, array, words in ((6, count, "read-only"), (7, np.zeros(39, np.uint8), "workspace has shape")):
        memory = [256] * 8
        memory[place] = array
        with pytest.raises(ValueError, match=words):
            nms_launches(1, 10, 10, 0.5, *memory)


def test_an_array_on_the_device_is_held() -> None:
    class OnDevice:
        pointer, shape, dtype = 4096, (1,), np.dtype(np.int32)

    count = OnDevice()
    memory = [256] * 8
    memory[6] = count
    rank, select = nms_launches(1, 10, 10, 0.5, *memory)
    assert select.holds_memory and not rank.holds_memory
    assert any(getattr(argument, "held", ()) == (count,) for argument in select.arguments)
