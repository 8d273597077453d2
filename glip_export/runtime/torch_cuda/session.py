"""The backend torch:cuda, for a GPU on which there is PyTorch and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import onnx_ir
import torch

from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.graphs.bi_attention_node import fuse_bi_attentions
from glip_export.graphs.contracts import FUSION_HEAD, GraphSpec, graphs_of
from glip_export.graphs.dyconv_node import NO_KERNEL, fuse_dyconv
from glip_export.graphs.precision import PRECISIONS, convert
from glip_export.graphs.swin_node import fuse_swin
from glip_export.graphs.text_layer_node import fuse_text_layers
from glip_export.graphs.text_side_node import fuse_text_sides
from glip_export.runtime.cuda.driver import CudaDriver, Driver
from glip_export.runtime.cuda.session import CUDA_GRAPHS, DeviceSession
from glip_export.runtime.torch_cuda.program import Program
from glip_export.runtime.torch_cuda.runner import CudaStreams, Streams, TorchRunner
from glip_export.trt.candidates_node import fuse_candidates
from glip_export.trt.joined_levels import join_levels
from glip_export.trt.lowering import lower

DEFAULT_PRECISION = "fp16"

# What our kernels take whole, in the order that the graphs are changed: each puts nodes in its modules' place.
MODULES: dict[str, Callable[[onnx_ir.Model], int]] = {
    "swin": fuse_swin,
    "text layer": fuse_text_layers,
    "text side": fuse_text_sides,
    "bi-attention": fuse_bi_attentions,
    "dyconv": fuse_dyconv,
}
CANDIDATES = "candidates"  # of the lowered graph
FUSED = (*MODULES, CANDIDATES)


class TorchCudaSession(DeviceSession):
    """The bundle's graphs in PyTorch; see `DeviceSession` for inputs and outputs, `Session` for shapes.

    They are the graphs that TensorRT is given: folded, with the same islands of float32, and with the deformable
    convolution's columns and the NMS in our own CUDA kernels. The weights are the bundle's, in the ONNX files' external
    data: the checkpoint is not needed.
    """

    shape_unit = 16  # the first run of a size goes through the graphs, the second captures them; masked, more is exact

    def __init__(
        self,
        bundle: Bundle,
        precision: str = "",
        *,
        device: int | None = None,
        stream: Any = None,
        cuda_graphs: int = CUDA_GRAPHS,
        compiler: str = "",
        fused: bool | Collection[str] = False,
        driver: Driver | None = None,
        streams: Streams | None = None,
    ) -> None:
        """Loads the graphs onto the GPU.

        precision: fp16 (the default), bf16 or fp32. device, stream, cuda_graphs: see `TensorRtSession`. compiler: a
        backend of torch.compile, such as "inductor", for all that is not our kernels; the first run of a shape then
        takes minutes. fused: whole modules in our kernels, in fp16 or fp32; True for all of FUSED, or the names
        of some, for measurements. driver, streams: for tests.
        Raises BackendError where PyTorch has no GPU, and for a fused bf16 or a model whose DyConv has no kernel.
        """
        self.precision = precision or DEFAULT_PRECISION
        if self.precision not in PRECISIONS:
            raise BackendError(f"torch:cuda has no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
        if fused and self.precision == "bf16":
            raise BackendError("torch:cuda has no fused kernels in bf16: choose fp16 or fp32")
        modules = (FUSED if fused else ()) if isinstance(fused, bool) else tuple(fused)
        if unknown := set(modules) - set(FUSED):
            raise ValueError(f"no modules {', '.join(sorted(unknown))}: fused is some of {', '.join(FUSED)}")
        self.name = f"torch:cuda:{self.precision}{':compiled' if compiler else ''}{':fused' if fused else ''}"
        self.library = f"PyTorch {torch.__version__}"
        super().__init__(driver or _driver(device), stream)
        self._pool.reclaim = torch.cuda.empty_cache  # PyTorch keeps what it once used
        self.specs = graphs_of(bundle.config)
        where = torch.device("cuda", self._driver.device) if driver is None else torch.device("cpu")
        with self._driver.active():
            streams = streams or CudaStreams(where)
            for spec in self.specs.values():
                program = Program(lowered(bundle, spec, self.precision, modules), where, compiler)
                runner = TorchRunner(program, spec, bundle.config, self._pool, cuda_graphs, streams)
                self._runners[spec.name] = runner


def lowered(bundle: Bundle, spec: GraphSpec, precision: str, fused: Collection[str]) -> onnx_ir.Model:
    """One of the bundle's graphs as a program takes it; fused: some of FUSED.

    Raises BackendError as `TorchCudaSession`.
    """
    model = onnx_ir.load(bundle.graph_path(spec.name))
    for name, fuse in MODULES.items():
        if name in fused:
            found = fuse(model)
            if name == "dyconv" and spec.name == FUSION_HEAD.name and not found:
                raise BackendError(f"{NO_KERNEL}: use torch:cuda")
    made = lower(convert(model, spec, precision), spec, bundle.config)
    if CANDIDATES in fused and fuse_candidates(made, bundle.config.detection):
        join_levels(made)
    return made


def options_of(words: str) -> dict[str, Any]:
    """TorchCudaSession's keywords for what stands behind "torch:cuda:" in a backend's name, such as "fp32:fused"."""
    if words == "compiled":
        return {"compiler": "inductor"}
    precision, _, last = words.rpartition(":")
    return {"precision": precision, "fused": True} if last == "fused" else {"precision": words}


def _driver(device: int | None) -> CudaDriver:
    if not torch.cuda.is_available():
        raise BackendError(
            f"torch:cuda needs an NVIDIA GPU, its driver and a PyTorch for CUDA; PyTorch {torch.__version__} finds none"
        )
    torch.cuda.init()
    return CudaDriver(device)
