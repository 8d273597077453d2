"""torch:cuda with whole layers of BERT in our kernels, compiled as C++."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from plugins.host_kernels import HostKernels
from runtime.torch_cuda.host_device import open_on_host, use_host_kernels
from runtime.torch_cuda.recorded_calls import Calls

from glip_export.bundle import Bundle
from glip_export.graphs import text_layer_node
from glip_export.graphs.contracts import graphs_of
from glip_export.graphs.modules import BertLayerModule, ModuleGraph
from glip_export.graphs.precision import convert
from glip_export.graphs.text_layer_node import fuse_text_layers, parameters_of
from glip_export.model.glip import Glip
from glip_export.model.text_layer import BertEncoderLayer
from glip_export.runtime.torch_cuda import text_layer
from glip_export.trt import nodes

HEADS, CHANNELS, TOKENS = 2, 32, 6


@pytest.fixture(scope="module", autouse=True)
def kernels(host: HostKernels) -> None:
    use_host_kernels(host)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, verify=False)


def graph_of(bundle: Bundle, name: str) -> onnx_ir.Model:
    return onnx_ir.load(bundle.graph_path(name))


def layers_of(bundle: Bundle, name: str) -> list[BertLayerModule]:
    return list(ModuleGraph(graph_of(bundle, name)).bert_layers())


def computed(layer: BertLayerModule, x: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A layer by our kernels, its products in dtype."""
    arrays = [torch.from_numpy(array.copy()) for array in parameters_of(layer).values()]
    parameters = [array.to(dtype) if place < 8 else array for place, array in enumerate(arrays)]
    epsilon = [norm.epsilon for norm in layer.norms]
    return text_layer.text_layer(
        layer.heads, layer.scale, epsilon, [*layer.scores, *layer.limits], x, mask, *parameters
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float16, 3e-3)])
def test_the_layers_of_the_model(bundle: Bundle, tiny_model: Glip, dtype: torch.dtype, tolerance: float) -> None:
    """With the parameters out of the graph; of two texts, one padded."""
    modules = {name: m for name, m in tiny_model.named_modules() if isinstance(m, BertEncoderLayer)}
    layers = layers_of(bundle, "fusion_head")
    attention_mask = torch.ones(2, TOKENS, dtype=torch.int64)
    attention_mask[1, 4:] = 0
    added = (1 - attention_mask[:, None, None, :]).float() * torch.finfo(torch.float32).min
    assert layers
    for layer in layers:
        (module,) = (m for name, m in modules.items() if name.endswith(layer.name))
        x = torch.randn(2, TOKENS, len(layer.last.bias), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            _, expected = module((), x, attention_mask)
        made = computed(layer, x, added, dtype)
        np.testing.assert_allclose(made.numpy(), expected.numpy(), rtol=0, atol=tolerance * expected.abs().max().item())


def test_nine_calls_and_no_cast_or_copy_among_them(bundle: Bundle) -> None:
    """On tensors without memory, whose shapes and types are known without running."""
    layer = layers_of(bundle, "fusion_head")[0]
    parameters = [torch.empty(array.shape, dtype=torch.float16 if place < 8 else torch.float32, device="meta")
                  for place, array in enumerate(parameters_of(layer).values())]  # fmt: skip
    x = torch.empty(2, TOKENS, len(layer.last.bias), device="meta")
    mask = torch.empty(2, 1, 1, TOKENS, device="meta")
    with Calls() as calls, torch.no_grad():
        made = text_layer.text_layer(layer.heads, 0.5, [1e-5, 1e-5], [-1.0, 1.0, -1.0, 1.0], x, mask, *parameters)
    assert (made.shape, made.dtype) == (x.shape, torch.float32)
    products = ["addmm"] * 4
    assert sorted(calls.names) == sorted(
        ["_to_copy", *products, "text_attention", "text_norm", "text_gelu", "text_norm"]
    )


def drawn(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """qkv, mask, x, added, weight, bias."""
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(2, TOKENS, 3 * CHANNELS, generator=generator).to(dtype)
    x = torch.randn(2, TOKENS, CHANNELS, generator=generator)
    return qkv, torch.zeros(2, TOKENS), x, x.to(dtype), torch.ones(CHANNELS), torch.zeros(CHANNELS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_shapes_and_order_are_known_without_running(dtype: torch.dtype) -> None:
    qkv, mask, x, added, weight, bias = drawn(dtype)
    limits = [-3.0, 3.0]
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(text_layer.text_attention, (qkv, mask, HEADS, 0.25, limits), test_utils=tests)
    torch.library.opcheck(text_layer.text_norm, (x, added, weight, bias, 1e-5, limits, limits), test_utils=tests)
    torch.library.opcheck(text_layer.text_gelu, (added, limits), test_utils=tests)


def test_launches_go_on_the_tensors_stream(monkeypatch: pytest.MonkeyPatch, host: HostKernels) -> None:
    """The operators as on a GPU, with addresses of tensors that are not contiguous."""

    def put(launches: Any, on: torch.Tensor) -> None:
        assert [host.launch(launch) for launch in launches] == [0]

    monkeypatch.setattr(text_layer, "put_on_stream", put)
    qkv, mask, x, added, weight, bias = drawn(torch.float16)
    limits, ops = [-3.0, 3.0], torch.ops.glip_export

    def strided(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)

    made = text_layer.text_attention._init_fn(strided(qkv), mask, HEADS, 0.25, limits)
    assert torch.equal(made, ops.text_attention(qkv, mask, HEADS, 0.25, limits))
    made = text_layer.text_norm._init_fn(strided(x), strided(added), weight, bias, 1e-5, limits, limits)
    for ours, expected in zip(made, ops.text_norm(x, added, weight, bias, 1e-5, limits, limits), strict=True):
        assert torch.equal(ours, expected)
    wide = text_layer.text_norm._init_fn(x, x, weight, bias, 1e-5, limits, limits)
    assert torch.equal(wide[0], ops.text_norm(x, x, weight, bias, 1e-5, limits, limits)[0]) and not wide[1].numel()
    assert torch.equal(text_layer.text_gelu._init_fn(strided(added), limits), ops.text_gelu(added, limits))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda qkv, mask, heads: (qkv.double(), mask, heads), "float32 or float16, not torch.float64"),
        (lambda qkv, mask, heads: (qkv, mask.half(), heads), "the mask is torch.float16"),
        (lambda qkv, mask, heads: (qkv, mask[:, 1:], heads), "the mask is"),
        (lambda qkv, mask, heads: (qkv, mask[:, None], heads), "the mask is"),
        (lambda qkv, mask, heads: (qkv, mask, 5), "with 5 heads"),
    ],
)
def test_what_the_attention_does_not_take(change: Callable[..., Any], words: str) -> None:
    qkv, mask, *_ = drawn(torch.float16)
    with pytest.raises(ValueError, match=words):
        text_layer.text_attention._init_fn(*change(qkv, mask, HEADS), 1.0, [0.0, 1.0])


@pytest.mark.parametrize(
    "change",
    [
        lambda x, added, weight, bias: (added, added, weight, bias),
        lambda x, added, weight, bias: (x, added[:1], weight, bias),
        lambda x, added, weight, bias: (x, added, weight.half(), bias),
        lambda x, added, weight, bias: (x, added, weight[1:], bias),
        lambda x, added, weight, bias: (x, added, weight, bias[:, None]),
    ],
)
def test_what_the_norm_does_not_take(change: Callable[..., Any]) -> None:
    _, _, *given = drawn(torch.float16)
    with pytest.raises(ValueError, match="the text's norm does not take"):
        text_layer.text_norm._init_fn(*change(*given), 1.0, [0.0, 1.0], [0.0, 1.0])


@pytest.mark.parametrize("name", ["text_encoder", "fusion_head"])
def test_nodes_stand_for_layers(bundle: Bundle, name: str) -> None:
    """Under the names of what they replace, around a stream in float32, their weights in halves."""
    layers, model, spec = layers_of(bundle, name), graph_of(bundle, name), graphs_of(bundle.config)[name]
    assert fuse_text_layers(model) == len(layers) > 0
    made = [node for node in model.graph if node.op_type == "GlipTextLayer"]
    assert [node.outputs[0].name for node in made] == [layer.output for layer in layers]
    assert not [node for node in model.graph if node.op_type == "Gelu"]
    converted = [node for node in convert(model, spec, "fp16").graph if node.op_type == nodes.TEXT_LAYER]
    for node in converted:
        types = [value.dtype for value in node.inputs if value is not None]
        assert types == [*[onnx_ir.DataType.FLOAT] * 2, *[onnx_ir.DataType.FLOAT16] * 8, *[onnx_ir.DataType.FLOAT] * 4]
        assert node.outputs[0].dtype == onnx_ir.DataType.FLOAT


def test_a_head_without_a_kernel_stays(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_layer_node, "MAX_DEPTH", 4)
    model = graph_of(bundle, "text_encoder")
    before = len(model.graph)
    assert fuse_text_layers(model) == 0 and len(model.graph) == before


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-5), ("fp16", 5e-3)])
def test_the_text_encoder(bundle: Bundle, host: HostKernels, precision: str, tolerance: float) -> None:
    """The first run of a size, and one that makes the calls."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 1000, (2, 9))
    attention_mask = np.ones((2, 9), np.int64)
    attention_mask[1, 6:] = 0
    plain, fused = (open_on_host(bundle, host, precision, fused=fused) for fused in (False, True))
    expected = np.asarray(plain.text_encoder(tokens, attention_mask))
    for _ in range(2):
        found = np.asarray(fused.text_encoder(tokens, attention_mask))
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
