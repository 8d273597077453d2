"""The operator add_norm: its shapes, its addresses, and what it refuses. The kernel itself: tests/plugins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plugins.host_kernels import HostKernels
from runtime.torch_cuda.host_device import use_host_kernels
from torch.nn import functional as F

from glip_export.runtime.torch_cuda import norms

C = 24


@pytest.fixture(scope="module", autouse=True)
def stand_in(host: HostKernels) -> None:
    use_host_kernels(host)


def drawn(x_dtype: torch.dtype, dtype: torch.dtype) -> list[Any]:
    """Arguments of the operator, of maps that are not contiguous."""
    generator = torch.Generator().manual_seed(0)
    x, added = (torch.randn(5, 2, 3, C, generator=generator).transpose(0, 1) for _ in range(2))
    vectors = [torch.randn(C, generator=generator) for _ in range(3)]
    return [x.to(x_dtype), added.to(dtype), *vectors, 1e-3, dtype]


def check(made: list[torch.Tensor], arguments: list[Any]) -> None:
    x, added, bias, weight, shift, epsilon, dtype = arguments
    expected = x.float() + added.float() + bias
    torch.testing.assert_close(made[0], expected)
    torch.testing.assert_close(made[1], F.layer_norm(expected, [C], weight, shift, epsilon).to(dtype))


@pytest.mark.parametrize("types", [(torch.float32,) * 2, (torch.float32, torch.float16), (torch.float16,) * 2])
def test_it_is_pytorchs_sum_and_norm(types: tuple[torch.dtype, torch.dtype]) -> None:
    arguments = drawn(*types)
    check(norms.add_norm(*arguments), arguments)
    without_sum, without_norm = [arguments[0], None, None, *arguments[3:]], [*arguments[:3], None, None, *arguments[5:]]
    for given, shapes in ((arguments, 2), (without_sum, 1), (without_norm, 1)):
        torch.library.opcheck(norms.add_norm, given)
        assert len(norms.add_norm(*given)) == shapes


def test_a_launch_goes_on_the_tensors_stream(monkeypatch: pytest.MonkeyPatch, host: HostKernels) -> None:
    def put(launches: Any, on: torch.Tensor) -> None:
        assert [host.launch(launch) for launch in launches] == [0]

    monkeypatch.setattr(norms, "put_on_stream", put)
    arguments = drawn(torch.float32, torch.float16)
    check(norms.add_norm._init_fn(*arguments), arguments)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (6, torch.bfloat16, "not torch.float32 and torch.bfloat16"),
        (0, torch.zeros(5, 2, 3, C).double(), "not torch.float64 and torch.float32"),
        (1, None, "what is added has a bias"),
        (3, None, "a norm's weight"),
        (1, torch.zeros(2, 5, 3, C).half(), "torch.float16 .* where torch.float32"),
        (2, torch.zeros(C + 8), r"\(32,\) on cpu, where torch.float32 \(24,\)"),
    ],
)
def test_arguments_that_no_kernel_may_see(place: int, value: Any, words: str) -> None:
    arguments = drawn(torch.float32, torch.float32)
    arguments[place] = value
    with pytest.raises(ValueError, match=words):
        norms.add_norm._init_fn(*arguments)
