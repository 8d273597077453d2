"""The CPU kernels against the model's own modules, over random shapes, offsets and prompts."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from glip_export.config import HeadConfig
from glip_export.errors import BackendError
from glip_export.model.bi_attention import LIMIT, MASKED, NUM_HEADS, BiMultiHeadAttention
from glip_export.model.dyconv import DyConv
from glip_export.model.graph_ops import modulated_deform_conv
from glip_export.model.swin import Mlp
from glip_export.runtime import native

if TYPE_CHECKING:
    from glip_export.runtime.native import Kernels

FP32 = 2e-5  # of the output's root mean square
BF16 = 3e-2


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    try:
        return native.load_kernels()
    except BackendError as error:
        pytest.skip(str(error))


def precisions(kernels: Kernels) -> list[tuple[bool, float]]:
    return [(False, FP32), (True, BF16)] if kernels.has_bf16 else [(False, FP32)]


def assert_near(got: np.ndarray, expected: torch.Tensor, tolerance: float) -> None:
    want = expected.numpy()
    error = np.abs(got - want).max() / np.sqrt((want**2).mean())
    assert error <= tolerance


@pytest.mark.parametrize(
    ("rows", "width", "hidden"), [(1, 16, 64), (95, 96, 384), (96, 32, 128), (97, 64, 256), (500, 48, 100)]
)
def test_mlp(kernels: Kernels, rows: int, width: int, hidden: int) -> None:
    torch.manual_seed(rows)
    mlp = Mlp(width, hidden)
    x = torch.randn(rows, width) + 0.5
    with torch.inference_mode():
        expected = mlp(x)
    for bf16, tolerance in precisions(kernels):
        first, last = (
            (kernels.pack_linear(layer.weight.detach().numpy(), bf16), kernels.pad_bias(layer.bias.detach().numpy()))
            for layer in (mlp.fc1, mlp.fc2)
        )
        for threads in (1, 3):
            out = np.full((rows, width), np.nan, np.float32)
            kernels.mlp(x.numpy(), first, last, out, bf16, threads)
            assert_near(out, expected, tolerance)


def test_gelu_over_its_whole_range(kernels: Kernels) -> None:
    x = np.linspace(-40, 40, 100_001, dtype=np.float32)[:, None]
    layer = kernels.pack_linear(np.ones((1, 1), np.float32), False), kernels.pad_bias(np.zeros(1, np.float32))
    out = np.empty_like(x)
    kernels.mlp(x, layer, layer, out, False, 2)
    expected = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    assert np.abs(out - expected).max() < 3e-6


def test_in_bf16_the_mean_of_alike_rows_is_exact(kernels: Kernels) -> None:
    """Rows that are all the same lose nothing to the rounding of the weights, only to their own."""
    if not kernels.has_bf16:
        pytest.skip("this CPU has no bf16")
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((128, 64), dtype=np.float32)
    row = torch.from_numpy(rng.standard_normal(64, dtype=np.float32)).bfloat16().float().numpy()
    x = np.repeat(row[None], 200, axis=0)
    one = np.eye(128, dtype=np.float32)
    first, last = (
        (kernels.pack_linear(matrix, True), kernels.pad_bias(np.zeros(128, np.float32))) for matrix in (weight, one)
    )
    out = np.empty((200, 128), np.float32)
    kernels.mlp(x, first, last, out, True, 2)
    expected = torch.nn.functional.gelu(torch.from_numpy(weight @ row)).numpy()
    np.testing.assert_allclose(out[0], expected, atol=2e-3 * np.abs(expected).max() + 2**-8 * np.abs(expected).max())


def dyconv_parameters(kernels: Kernels, block: DyConv, bf16: bool) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []
    for layer in block.DyConv:
        packed = kernels.pack_deform_conv(layer.conv.weight.detach().numpy(), bf16)
        arrays += [packed, *(p.detach().numpy() for p in (layer.conv.bias, layer.bn.weight, layer.bn.bias))]
    layers = (block.AttnConv[1], block.relu.fc[0], block.relu.fc[2])
    arrays += [p.detach().numpy() for layer in layers for p in (layer.weight, layer.bias)]
    weight, bias = (p.detach().numpy() for p in (block.offset.weight, block.offset.bias))
    return [*arrays, *kernels.pack_offset_conv(weight, bias)]


def run_dyconv(
    kernels: Kernels, block: DyConv, features: list[torch.Tensor], bf16: bool, threads: int, maps: tuple[bool, bool]
) -> list[np.ndarray]:
    """maps: whether features go in, and results come out, as a map a level and not as (B, N, C) of all levels."""
    sizes = [tuple(feature.shape[2:]) for feature in features]
    arrays = [feature.numpy() for feature in features] if maps[0] else [as_image(features).numpy()]
    out = [torch.full_like(feature, torch.nan) for feature in features]
    out = [array.numpy() for array in (out if maps[1] else [as_image(out)])]
    norms = [layer.bn for layer in block.DyConv]
    epsilon = tuple(norm.eps for norm in norms)
    parameters = dyconv_parameters(kernels, block, bf16)
    kernels.dyconv(arrays, out, sizes, parameters, norms[0].num_groups, epsilon, bf16, threads)
    return out


def as_image(features: list[torch.Tensor]) -> torch.Tensor:
    """Maps (B, C, H, W) of all levels as (B, N, C)."""
    return torch.cat([feature.flatten(2) for feature in features], dim=2).transpose(1, 2).contiguous()


def random_dyconv(channels: int, offsets: float, seed: int) -> DyConv:
    torch.manual_seed(seed)
    block = DyConv(HeadConfig(channels=channels)).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.05) if parameter.dim() > 1 else parameter.normal_(std=0.5)
        block.offset.bias[:18].normal_(std=offsets)
        block.offset.weight[:18] *= offsets
    return block


@pytest.mark.parametrize("offsets", [0.0, 1.0, 20.0, 300.0])
@pytest.mark.parametrize("sizes", [((13, 19), (7, 10), (4, 5)), ((8, 8), (4, 4), (2, 2), (1, 1), (1, 1))])
def test_dyconv(kernels: Kernels, offsets: float, sizes: tuple[tuple[int, int], ...]) -> None:
    channels = 2 * kernels.panel
    block = random_dyconv(channels, offsets, len(sizes))
    features = [torch.randn(2, channels, *size) for size in sizes]
    with torch.inference_mode():
        expected, _ = block(tuple(features), torch.empty(0), torch.empty(0))
        for bf16, tolerance in precisions(kernels):
            for threads, maps in ((1, (True, True)), (3, (True, True)), (2, (False, True))):
                got = run_dyconv(kernels, block, features, bf16, threads, maps)
                for out, want in zip(got, expected, strict=True):
                    # Offsets are rounded in proportion to their size; with the largest hardly a sample is inside, and
                    # GroupNorm divides by next to nothing. A level of few positions shows every rounding more.
                    far = 1 + offsets if want[0, 0].numel() > 16 else 5 + offsets
                    assert_near(out, want, tolerance * (far if not bf16 else min(far, 5)))


def test_dyconv_gives_its_positions_in_one_array(kernels: Kernels) -> None:
    block = random_dyconv(kernels.panel, 2.0, 1)
    features = [torch.randn(2, kernels.panel, *size) for size in ((9, 14), (5, 7), (3, 4))]
    with torch.inference_mode():
        maps = run_dyconv(kernels, block, features, False, 2, (True, True))
        for given in (True, False):
            (image,) = run_dyconv(kernels, block, features, False, 2, (given, False))
            np.testing.assert_array_equal(image, as_image([torch.from_numpy(level) for level in maps]).numpy())


def test_a_deformable_convolution_alone(kernels: Kernels) -> None:
    """One level, GroupNorm, attention and DyReLU made the identity: what is left is the convolution."""
    channels = kernels.panel
    block = random_dyconv(channels, 3.0, 0)
    with torch.no_grad():
        for layer in block.DyConv:
            layer.bn.weight.fill_(1), layer.bn.bias.zero_()
        block.AttnConv[1].weight.zero_(), block.AttnConv[1].bias.fill_(3)
        for layer in (block.relu.fc[0], block.relu.fc[2]):
            layer.weight.zero_(), layer.bias.zero_()  # slopes 2 * 0.5 - 1 + 1 and 0, no offsets: max(x, 0)
    feature = torch.randn(1, channels, 30, 41)
    with torch.inference_mode():
        predicted = block.offset(feature)
        conv = block.DyConv[1].conv
        mask = predicted[:, 18:].sigmoid()
        expected = modulated_deform_conv(feature, predicted[:, :18], mask, conv.weight, conv.bias, 1)
        expected = block.DyConv[1].bn(expected).clamp(min=0)
        (out,) = run_dyconv(kernels, block, [feature], False, 2, (True, True))
    assert_near(out, expected, 4 * FP32)  # offsets of three pixels, rounded


@pytest.mark.parametrize("tokens", [1, 6, 16, 33, 256])
@pytest.mark.parametrize("positions", [1, 95, 403])
def test_bi_attention(kernels: Kernels, tokens: int, positions: int) -> None:
    channels = kernels.panel
    rng = np.random.default_rng(tokens * positions)
    image, keys, values = (
        rng.standard_normal((2, n, channels), dtype=np.float32)
        for n in (positions, NUM_HEADS * tokens, NUM_HEADS * tokens)
    )
    bias = rng.standard_normal((2, NUM_HEADS * tokens, 1), dtype=np.float32)
    mask = np.ones((2, 1, 1, tokens), np.float32)
    mask[1, ..., tokens // 2 + 1 :] = MASKED
    expected = attention(image, keys, bias, values, mask, LIMIT)
    for bf16, tolerance in precisions(kernels):
        for threads in (1, 3):
            to_text, to_image = np.full_like(keys, np.nan), np.full_like(image, np.nan)
            kernels.bi_attention(image, (keys, bias, values), mask, (-LIMIT, LIMIT), to_text, to_image, bf16, threads)
            for got, want in zip((to_text, to_image), expected, strict=True):
                assert_near(got, want, tolerance if not bf16 else 5 * tolerance)  # scores of ten and more, rounded


def test_bi_attention_with_extreme_scores_and_clamps(kernels: Kernels) -> None:
    """Scores far beyond an exponential's range, rising over the picture, some beyond the clamps."""
    channels, tokens, positions = kernels.panel, 5, 500
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, positions, channels), dtype=np.float32) * np.linspace(1, 4000, positions)[:, None]
    image = image.astype(np.float32)
    keys, values = (rng.standard_normal((1, NUM_HEADS * tokens, channels), dtype=np.float32) for _ in range(2))
    bias, mask = np.zeros((1, NUM_HEADS * tokens, 1), np.float32), np.ones((1, 1, 1, tokens), np.float32)
    for limit in (LIMIT, 3e38):
        to_text, to_image = np.empty_like(keys), np.empty_like(image)
        kernels.bi_attention(image, (keys, bias, values), mask, (-limit, limit), to_text, to_image, False, 2)
        for got, want in zip((to_text, to_image), attention(image, keys, bias, values, mask, limit), strict=True):
            assert np.isfinite(got).all()
            assert_near(got, want, 1e-3)  # one score's last bit is 0.004


def attention(image, keys, bias, values, mask, limit) -> tuple[torch.Tensor, torch.Tensor]:
    image, keys, bias, values, mask = (torch.from_numpy(a).double() for a in (image, keys, bias, values, mask))
    scores = (keys @ image.transpose(1, 2) + bias).clamp(-limit, limit)  # (B, h*T, N)
    to_text = scores.softmax(-1) @ image
    by_head = scores.unflatten(1, (NUM_HEADS, -1)) + mask.transpose(2, 3)
    to_image = by_head.softmax(2).flatten(1, 2).transpose(1, 2) @ values
    return to_text.float(), to_image.float()


def test_the_formula_above_is_the_models(kernels: Kernels) -> None:
    torch.manual_seed(0)
    module = BiMultiHeadAttention(HeadConfig(channels=64), 32).eval()
    v, text, mask = torch.randn(1, 50, 64), torch.randn(1, 4, 32), torch.tensor([[1, 1, 1, 0]])
    with torch.inference_mode():
        keys = module.l_proj(text).unflatten(2, (NUM_HEADS, -1)).transpose(1, 2) * module.scale
        folded = (keys @ module.v_proj.weight.view(NUM_HEADS, -1, 64)).flatten(1, 2)
        bias = (keys @ module.v_proj.bias.view(NUM_HEADS, -1, 1)).flatten(1, 2)
        out = module.out_v_proj.weight.T.reshape(NUM_HEADS, -1, 64)
        values = (module.values_l_proj(text).unflatten(2, (NUM_HEADS, -1)).transpose(1, 2) @ out).flatten(1, 2)
        added = torch.where(mask == 0, MASKED, 1.0)[:, None, None].float()
        _, to_image = attention(*(t.numpy() for t in (v, folded, bias, values, added)), LIMIT)
        expected, _ = module.plain(v, text, mask)
    assert_near((to_image + module.out_v_proj.bias).detach().numpy(), expected.detach(), 1e-5)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    native.load_kernels.cache_clear()
    yield tmp_path
    native.load_kernels.cache_clear()


def test_without_a_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    with pytest.raises(BackendError, match=r"no C\+\+ compiler was found .*: install g\+\+ or clang\+\+, or name one"):
        native.load_kernels()


def test_a_compiler_that_fails_is_one_line_and_leaves_nothing(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = fresh / "c++"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho 'x.cpp:1: error: no' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(BackendError, match=r"could not compile the CPU kernels: x\.cpp:1: error: no"):
        native.load_kernels()
    assert list((fresh / "glip-export" / "native").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_cache_that_others_may_write_is_not_trusted(fresh: Path) -> None:
    folder = fresh / "glip-export" / "native"
    folder.mkdir(parents=True)
    folder.chmod(folder.stat().st_mode | stat.S_IWOTH)
    with pytest.raises(BackendError, match="need a cache folder that can be written"):
        native.load_kernels()


def test_compiled_once(fresh: Path, kernels: Kernels) -> None:
    first = native.load_kernels()
    (library,) = (fresh / "glip-export" / "native").iterdir()
    written = library.stat().st_mtime_ns
    native.load_kernels.cache_clear()
    assert native.load_kernels().fingerprint == first.fingerprint
    assert library.stat().st_mtime_ns == written
