"""Swin's attention within windows as one operator of PyTorch, in our CUDA kernels."""

from __future__ import annotations

import torch

from glip_export.addresses import in_stream_order
from glip_export.runtime.torch_cuda.kernels import NUMPY_DTYPES, put_on_stream
from glip_export.trt.window_launches import WindowSizes, window_attention_launches


@torch.library.custom_op("glip_export::window_attention", mutates_args=(), device_types="cuda")
def window_attention(
    qkv: torch.Tensor, bias: torch.Tensor, relative: torch.Tensor, window: int, shift: int, scale: float
) -> torch.Tensor:
    """The attention of `glip_export.model.swin_block.Block`: (B, H, W, 3C) -> (B, H, W, C), a new tensor.

    qkv: what the linear layer gives of the map as it is; bias (3C,): the layer's, which it gives of the zeros that pad
    the map; relative (heads, strips, strips, 32, 8): `graphs.swin_node.arranged`; shift: of the windows, 0 for none;
    scale: of the queries. All tensors float32 or all float16; C / heads is 16, 32, 48 or 64 and window^2 * C / heads at
    most 4608. Raises ValueError for another type or other shapes.
    """
    sizes = checked_windows(qkv, bias, relative, window, shift)
    qkv, bias, relative = qkv.contiguous(), bias.contiguous(), relative.contiguous()
    out = _empty_map(qkv, bias, relative, window, shift, scale)
    pointers = [in_stream_order(tensor) for tensor in (qkv, bias, relative, out)]
    put_on_stream(window_attention_launches(NUMPY_DTYPES[qkv.dtype], sizes, scale, *pointers), qkv)
    return out


@window_attention.register_fake
def _empty_map(
    qkv: torch.Tensor, bias: torch.Tensor, relative: torch.Tensor, window: int, shift: int, scale: float
) -> torch.Tensor:
    return qkv.new_empty((*qkv.shape[:3], qkv.shape[3] // 3))


def checked_windows(
    qkv: torch.Tensor, bias: torch.Tensor, relative: torch.Tensor, window: int, shift: int
) -> WindowSizes:
    """The sizes. Raises ValueError for what `window_attention` does not take."""
    if qkv.dtype not in NUMPY_DTYPES:
        raise ValueError(f"the window attention takes float32 or float16, not {qkv.dtype}")
    for tensor in (bias, relative):
        if (tensor.dtype, tensor.device) != (qkv.dtype, qkv.device):
            raise ValueError(f"{tensor.dtype} on {tensor.device} beside {qkv.dtype} on {qkv.device}")
    heads = len(relative)
    if qkv.ndim != 4 or qkv.shape[3] % (3 * max(heads, 1)) or bias.shape != qkv.shape[3:]:
        raise ValueError(f"{tuple(qkv.shape)} with a bias {tuple(bias.shape)} is not (B, H, W, 3C) of {heads} heads")
    batch, height, width, values = qkv.shape
    sizes = WindowSizes(batch, height, width, heads, values // (3 * max(heads, 1)), window, shift)
    if relative.shape != sizes.relative_shape:
        raise ValueError(f"the relative biases are {sizes.relative_shape}, not {tuple(relative.shape)}")
    return sizes
