"""torch:cuda without a GPU: the fake driver's memory and streams, and our CUDA kernels compiled as C++."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from plugins.host_kernels import HostKernels
from runtime.cuda.fake_driver import FakeDriver

from glip_export.bundle import Bundle
from glip_export.runtime.cuda.graphs import Captured
from glip_export.runtime.torch_cuda import bi_attention, candidates, dyconv, kernels, norms, text_layer, windows
from glip_export.runtime.torch_cuda.session import TorchCudaSession
from plugins import host_text_layer


class HostStreams:
    """Implements `glip_export.runtime.torch_cuda.runner.Streams`: work waits on the fake driver's streams."""

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver
        self.runs = 0  # not those of a graph

    def run(self, work: Callable[[], None], stream: int) -> None:
        self.runs += 1
        self.driver.put(stream, work)

    def capture(self, work: Callable[[], None], stream: int) -> Captured:
        driver = self.driver
        driver.begin_capture(stream)
        driver.put(stream, work)
        graph = driver.end_capture(stream)
        return Captured(lambda: driver.launch(graph, stream), lambda: driver.free_graph(graph))


def open_on_host(bundle: Bundle, host: HostKernels, precision: str = "fp32", **words: Any) -> TorchCudaSession:
    """The session as on a GPU."""
    use_host_kernels(host)
    driver = words.pop("driver", None) or FakeDriver()
    return TorchCudaSession(bundle, precision, driver=driver, streams=HostStreams(driver), **words)


@lru_cache(maxsize=1)
def use_host_kernels(host: HostKernels) -> None:
    """Once a process: our operators for tensors on the CPU."""

    @kernels.deform_im2col.register_kernel("cpu")
    def _(x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, stride: int) -> torch.Tensor:
        arrays = (tensor.contiguous().numpy() for tensor in (x, offset, mask))
        return torch.from_numpy(np.ascontiguousarray(host.im2col(*arrays, stride)))

    @kernels.nms.register_kernel("cpu")
    def _(
        boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, iou_threshold: float, max_detections: int
    ) -> tuple[torch.Tensor, ...]:
        arrays = (tensor.contiguous().numpy() for tensor in (boxes, scores, labels))
        return tuple(map(torch.from_numpy, map(np.ascontiguousarray, host.nms(*arrays, iou_threshold, max_detections))))

    @candidates.candidates.register_kernel("cpu")
    def _(
        classes: list[torch.Tensor],
        centerness: list[torch.Tensor],
        deltas: list[torch.Tensor],
        image_sizes: torch.Tensor,
        threshold: float,
        *sizes: Any,
    ) -> tuple[torch.Tensor, ...]:
        given = candidates.arranged(classes, centerness, deltas, image_sizes, *sizes)
        lists = [[tensor.numpy() for tensor in tensors] for tensors in given[1:4]]
        found = host.candidates(given.sizes, threshold, *lists, given.image_sizes.numpy())
        return tuple(map(torch.from_numpy, map(np.ascontiguousarray, found)))

    use_host_swin(host)
    use_host_dyconv(host)
    use_host_text_layer(host)
    use_host_bi_attention(host)


def use_host_swin(host: HostKernels) -> None:
    """From now on in this process sums, norms and attention within windows are the kernels', for tensors on the CPU."""

    @norms.add_norm.register_kernel("cpu")
    def _(x: torch.Tensor, *tensors: Any) -> list[torch.Tensor]:
        *vectors, epsilon, dtype = tensors
        norms.check_sum(x, *vectors, dtype)
        rows = (None if t is None else t.contiguous().numpy() for t in (x, *vectors))
        flat = (None if a is None else a.reshape(-1, a.shape[-1]) if place < 2 else a for place, a in enumerate(rows))
        made = host.add_norm(*flat, epsilon, kernels.NUMPY_DTYPES[dtype])
        return [torch.from_numpy(np.ascontiguousarray(array)).view(x.shape) for array in made]

    @windows.window_attention.register_kernel("cpu")
    def _(
        qkv: torch.Tensor, bias: torch.Tensor, relative: torch.Tensor, window: int, shift: int, scale: float
    ) -> torch.Tensor:
        windows.checked_windows(qkv, bias, relative, window, shift)
        arrays = (tensor.contiguous().numpy() for tensor in (qkv, bias, relative))
        return torch.from_numpy(np.ascontiguousarray(host.window_attention(*arrays, window, shift, scale)))


def use_host_dyconv(host: HostKernels) -> None:
    """From now on in this process a whole DyConv block is the kernels', for tensors on the CPU."""

    @dyconv.dyconv.register_kernel("cpu")
    def _(
        x: torch.Tensor, sides: list[int], parameters: list[torch.Tensor], groups: int, epsilon: list[float]
    ) -> torch.Tensor:
        dyconv.checked_sizes(x, sides, parameters, groups, epsilon)
        levels = list(zip(sides[::2], sides[1::2], strict=True))
        arrays = [tensor.contiguous().numpy() for tensor in (x, *parameters)]
        return torch.from_numpy(np.ascontiguousarray(host.dyconv(arrays[0], levels, groups, epsilon, arrays[1:])))


def use_host_bi_attention(host: HostKernels) -> None:
    """The operators of a bi-attention for tensors on the CPU."""

    @bi_attention.text_reads.register_kernel("cpu")
    def _(v: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor, heads: int, limits: list[float]) -> torch.Tensor:
        bi_attention.checked_sizes(v, keys, bias, heads)
        arrays = (tensor.contiguous().numpy() for tensor in (v, keys, bias))
        return torch.from_numpy(np.ascontiguousarray(host.text_reads(*arrays, heads, (limits[0], limits[1]))))

    @bi_attention.image_reads.register_kernel("cpu")
    def _(*given: Any) -> torch.Tensor:
        *tensors, limits = given
        bi_attention.checked_image_sizes(*tensors)
        arrays = (tensor.contiguous().numpy() for tensor in tensors)
        return torch.from_numpy(np.ascontiguousarray(host.image_reads(*arrays, (limits[0], limits[1]))))


def use_host_text_layer(host: HostKernels) -> None:
    """The operators of a layer of BERT for tensors on the CPU."""

    @text_layer.text_attention.register_kernel("cpu")
    def _(qkv: torch.Tensor, mask: torch.Tensor, heads: int, scale: float, limits: list[float]) -> torch.Tensor:
        arrays = (tensor.contiguous().numpy() for tensor in (qkv, mask))
        return torch.from_numpy(host_text_layer.attention(host, *arrays, heads, scale, (limits[0], limits[1])))

    @text_layer.text_norm.register_kernel("cpu")
    def _(
        x: torch.Tensor,
        added: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        epsilon: float,
        added_limits: list[float],
        limits: list[float],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = (tensor.contiguous().flatten(0, -2).numpy() for tensor in (x, added))
        limited = (added_limits[0], added_limits[1]), (limits[0], limits[1])
        made = host_text_layer.norm(host, *rows, weight.numpy(), bias.numpy(), epsilon, *limited)
        out, narrow = (torch.from_numpy(array).view(x.shape) for array in made)
        return out, narrow if added.dtype == torch.float16 else narrow.new_empty(0)

    @text_layer.text_gelu.register_kernel("cpu")
    def _(x: torch.Tensor, limits: list[float]) -> torch.Tensor:
        return torch.from_numpy(host_text_layer.gelu(host, x.contiguous().numpy(), (limits[0], limits[1])))
