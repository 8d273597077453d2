"""A residual stream's sum and its LayerNorm as one operator of PyTorch, in our CUDA kernel."""

from __future__ import annotations

import torch

from glip_export.addresses import in_stream_order
from glip_export.runtime.torch_cuda.kernels import NUMPY_DTYPES, put_on_stream
from glip_export.trt.norm_launches import add_norm_launches


@torch.library.custom_op("glip_export::add_norm", mutates_args=(), device_types="cuda")
def add_norm(
    x: torch.Tensor,
    added: torch.Tensor | None,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    epsilon: float,
    dtype: torch.dtype,
) -> list[torch.Tensor]:
    """sum = x + (added + bias), float32, if something is added; then the LayerNorm of the sum, if it has weights.

    x (..., C) float32 or dtype, C a multiple of 8 up to 3072; added (..., C) dtype, with bias (C,); norm_weight and
    norm_bias (C,), for a norm (..., C) of dtype, which is float32 or float16. Vectors (C,) are float32. Gives new
    tensors, of those two what was asked for. Raises ValueError for other types or shapes.
    """
    check_sum(x, added, bias, norm_weight, norm_bias, dtype)
    given = [None if tensor is None else tensor.contiguous() for tensor in (x, added, bias, norm_weight, norm_bias)]
    made = _empty_sums(x, added, bias, norm_weight, norm_bias, epsilon, dtype)
    ends = None if added is None else made[0], None if norm_weight is None else made[-1]
    x_ptr, *pointers = (0 if tensor is None else in_stream_order(tensor) for tensor in (*given, *ends))
    kinds, channels = (NUMPY_DTYPES[x.dtype], NUMPY_DTYPES[dtype]), x.shape[-1]
    rows = x.numel() // channels
    put_on_stream(add_norm_launches(*kinds, rows, channels, epsilon, x_ptr, *(p or None for p in pointers)), x)
    return made


@add_norm.register_fake
def _empty_sums(
    x: torch.Tensor,
    added: torch.Tensor | None,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    epsilon: float,
    dtype: torch.dtype,
) -> list[torch.Tensor]:
    kinds = [] if added is None else [torch.float32]
    return [x.new_empty(x.shape, dtype=kind) for kind in (*kinds, *([] if norm_weight is None else [dtype]))]


def check_sum(
    x: torch.Tensor,
    added: torch.Tensor | None,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> None:
    """Raises ValueError for what `add_norm` does not take."""
    if dtype not in NUMPY_DTYPES or x.dtype not in (torch.float32, dtype):
        raise ValueError(f"a sum and its norm take float32 or float16, not {x.dtype} and {dtype}")
    if (added is None) != (bias is None) or (norm_weight is None) != (norm_bias is None):
        raise ValueError("what is added has a bias, and a norm's weight too")
    wanted = [
        (added, x.shape, dtype),
        *((vector, x.shape[-1:], torch.float32) for vector in (bias, norm_weight, norm_bias)),
    ]
    for tensor, shape, kind in wanted:
        if tensor is not None and (tensor.shape, tensor.dtype, tensor.device) != (shape, kind, x.device):
            raise ValueError(
                f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}, where {kind} {tuple(shape)} is taken"
            )
