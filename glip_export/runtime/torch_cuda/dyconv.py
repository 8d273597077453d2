"""A whole DyConv block as one operator of PyTorch, in our CUDA kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from glip_export.addresses import in_stream_order
from glip_export.runtime.torch_cuda.kernels import NUMPY_DTYPES, put_on_stream
from glip_export.trt.dyconv_launches import DyConvSizes, dyconv_launches, dyconv_workspace_bytes, parameter_shapes


@torch.library.custom_op("glip_export::dyconv", mutates_args=(), device_types="cuda")
def dyconv(
    x: torch.Tensor, sides: list[int], parameters: list[torch.Tensor], groups: int, epsilon: list[float]
) -> torch.Tensor:
    """The block `glip_export.model.dyconv.DyConv` without its text: x (B, N, C) -> (B, N, C), a new tensor.

    x: all levels' positions behind one another, the largest first, C a multiple of 32; sides: H, W of each level;
    parameters: the 20 that `graphs.dyconv_node.parameters_of` gives, in its order; groups, epsilon: of the three
    GroupNorms, one epsilon each. All tensors float32 or all float16. May be captured in a CUDA graph after a first
    call. Raises ValueError for another type or number of tensors, or other shapes.
    """
    sizes = checked_sizes(x, sides, parameters, groups, epsilon)
    given, dtype = [tensor.contiguous() for tensor in (x, *parameters)], NUMPY_DTYPES[x.dtype]
    out = x.new_empty(x.shape)
    workspace = x.new_empty(dyconv_workspace_bytes(dtype, sizes), dtype=torch.uint8)
    x_ptr, *parameter_ptrs = (in_stream_order(tensor) for tensor in given)
    pointers = in_stream_order(out), in_stream_order(workspace)
    put_on_stream(dyconv_launches(dtype, sizes, epsilon, x_ptr, parameter_ptrs, *pointers), x)
    return out


@dyconv.register_fake
def _empty_maps(
    x: torch.Tensor, sides: list[int], parameters: list[torch.Tensor], groups: int, epsilon: list[float]
) -> torch.Tensor:
    return x.new_empty(x.shape)


def checked_sizes(
    x: torch.Tensor, sides: Sequence[int], parameters: Sequence[torch.Tensor], groups: int, epsilon: Sequence[float]
) -> DyConvSizes:
    """The block's sizes. Raises ValueError for what `dyconv` does not take."""
    if x.dtype not in NUMPY_DTYPES:
        raise ValueError(f"a DyConv block takes float32 or float16, not {x.dtype}")
    for tensor in parameters:
        if (tensor.dtype, tensor.device) != (x.dtype, x.device):
            raise ValueError(f"{tensor.dtype} on {tensor.device} beside {x.dtype} on {x.device}")
    levels = tuple(zip(sides[::2], sides[1::2], strict=True))
    if x.ndim != 3 or x.shape[1] != sum(height * width for height, width in levels):
        raise ValueError(f"{tuple(x.shape)} is not (B, N, C) with the positions of the levels {levels}")
    sizes = DyConvSizes(x.shape[0], x.shape[2], groups, levels)
    given, wanted = [tuple(parameter.shape) for parameter in parameters], parameter_shapes(x.shape[2])
    if given != wanted:
        raise ValueError(f"the parameters of a DyConv block are {wanted}, not {given}")
    if len(epsilon) != 3:
        raise ValueError(f"a DyConv block has three norms, and {len(epsilon)} epsilons are given")
    return sizes
