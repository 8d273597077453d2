"""What torch:cuda puts on a GPU for one picture, counted without one: launches, bytes and arithmetic, part by part.

    python benchmarks/gpu/planned_work.py engines/glip_tiny --tokens 16 --names 4 --fused

Each graph's calls are made on tensors without memory. An operator counts as one launch that reads its inputs and writes
its outputs once; views count nothing, and our own operators as many launches as they make. Nothing is measured: the
floor is what the bytes and the products would take at the rates given, each operator after the other.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import context  # noqa: F401  the checkout's folders
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from glip_export.bundle import Bundle
from glip_export.graphs.contracts import fixed_axes, graphs_of, pyramid_axes
from glip_export.runtime.torch_cuda.program import Program, Step
from glip_export.runtime.torch_cuda.session import FUSED, lowered
from glip_export.trt.dyconv_launches import PREDICTED, DyConvSizes
from glip_export.trt.launches import up

META = torch.device("meta")
MOVES_NOTHING = ("_reshape_alias", "_unsafe_view", "detach", "new_empty")
PICKS = ("index_select", "gather")  # read as much as they write, whatever the size of what they read from
OURS = {"candidates": 7, "dyconv": 4, "nms": 2, "text_reads": 2}  # launches of our operators that make more than one


def _dyconv_flop(x: torch.Tensor, sides: list[int], *_: Any) -> int:
    batch, _, channels = x.shape
    sizes = DyConvSizes(batch, channels, 1, tuple(zip(sides[::2], sides[1::2], strict=True)))
    return 2 * batch * 9 * channels * (sizes.positions * PREDICTED + sizes.rows * channels)


def _text_attention_flop(qkv: torch.Tensor, *_: Any) -> int:
    batch, tokens, channels = qkv.shape
    return 4 * batch * tokens * tokens * (channels // 3)


def _window_attention_flop(qkv: torch.Tensor, bias: torch.Tensor, relative: torch.Tensor, window: int, *_: Any) -> int:
    batch, height, width, channels = qkv.shape
    return 4 * batch * up(height, window) * up(width, window) * window**4 * (channels // 3)


def _text_reads_flop(v: torch.Tensor, keys: torch.Tensor, *_: Any) -> int:
    return 4 * v.shape[1] * keys.numel()


def _image_reads_flop(v: torch.Tensor, keys: torch.Tensor, *_: Any) -> int:
    """Without the scores, which text_reads makes too: the graph has them once."""
    return 2 * v.shape[1] * keys.numel()


FLOP = {
    "dyconv": _dyconv_flop,
    "image_reads": _image_reads_flop,
    "text_attention": _text_attention_flop,
    "text_reads": _text_reads_flop,
    "window_attention": _window_attention_flop,
}


@dataclass
class Work:
    """What a part puts on the device; bytes and multiply-adds counted twice as FLOP."""

    launches: int = 0
    bytes: int = 0
    flop: int = 0
    floor_ms: float = 0.0

    def add(self, other: Work) -> None:
        """The other's too."""
        self.launches += other.launches
        self.bytes += other.bytes
        self.flop += other.flop
        self.floor_ms += other.floor_ms


@dataclass(frozen=True)
class Rates:
    """Of a device: TFLOP/s of products, TB/s of memory, and microseconds between two launches of a CUDA graph."""

    tflops: float
    tb_per_second: float
    launch_us: float

    def milliseconds(self, work: Work) -> float:
        """The longer of bytes and products, and the launches."""
        parts = work.bytes / self.tb_per_second, work.flop / self.tflops
        return max(parts) / 1e9 + work.launches * self.launch_us / 1e3


def planned(
    bundle: Bundle,
    graph: str,
    rates: Rates,
    size: tuple[int, int],
    tokens: int,
    names: int,
    precision: str,
    fused: bool,
) -> dict[str, Work]:
    """One graph's work for one picture of this padded size (H, W), by module."""
    spec = graphs_of(bundle.config)[graph]
    maps = pyramid_axes(*size, bundle.config.swin.is_v2)
    axes = {**fixed_axes(bundle.config), **maps, "B": 1, "T": tokens, "K": names}
    inputs = {}
    for tensor in spec.inputs:
        shape = [axes[axis] if isinstance(axis, str) else axis for axis in tensor.axes]
        inputs[tensor.name] = torch.empty(shape, dtype=getattr(torch, str(np.dtype(tensor.dtype))), device=META)
    program = Program(lowered(bundle, spec, precision, FUSED if fused else ()), META)
    plan = program.plan(tuple(tuple(inputs[name].shape) for name in program.inputs))
    plan.run(inputs)
    with torch.no_grad(), _Count(rates) as count:
        plan.run(inputs, count.enter)
    return count.parts


class _Count(TorchDispatchMode):
    """Counts the operators that come, for the step that was entered last."""

    def __init__(self, rates: Rates) -> None:
        super().__init__()
        self.parts: dict[str, Work] = {}
        self._rates = rates
        self._part = ""

    def enter(self, step: Step) -> None:
        self._part = re.sub(r"\.\d+", "", step.source)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if not (function.is_view or name in MOVES_NOTHING or name.startswith("empty")):
            moved = [made, made] if name in PICKS else [args, made]
            work = Work(OURS.get(name, 1), sum(map(_bytes, _tensors(moved))))
            if name in FLOP:
                work.flop = FLOP[name](*args)
            elif function.overloadpacket in flop_registry:
                work.flop = flop_registry[function.overloadpacket](*args, **(kwargs or {}), out_val=made)
            work.floor_ms = self._rates.milliseconds(work)
            self.parts.setdefault(self._part, Work()).add(work)
        return made


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _bytes(tensor: torch.Tensor) -> int:
    """Without the copies of an expanded axis."""
    own = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return int(np.prod(list(own), dtype=np.int64)) * tensor.element_size()


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table a graph, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--size", default="800x1216", help="height x width of the padded picture")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--names", type=int, default=4)
    parser.add_argument("--precision", default="fp16", choices=("fp32", "fp16", "bf16"))
    parser.add_argument("--fused", action="store_true", help="as torch:cuda:fused")
    parser.add_argument("--tflops", type=float, default=450.0, help="of products")
    parser.add_argument("--tb-per-second", type=float, default=2.4, help="of memory")
    parser.add_argument("--launch-us", type=float, default=2.0, help="between two kernels of a CUDA graph")
    parser.add_argument("--rows", type=int, default=20, help="of a table")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    bundle, (height, width) = Bundle.open(given.bundle, verify=False), map(int, given.size.split("x"))
    rates = Rates(given.tflops, given.tb_per_second, given.launch_us)
    asked = rates, (height, width), given.tokens, given.names, given.precision, given.fused
    graphs = {graph: planned(bundle, graph, *asked) for graph in graphs_of(bundle.config)}
    if given.json:
        found = {graph: {part: asdict(work) for part, work in parts.items()} for graph, parts in graphs.items()}
        print(json.dumps(found))
        return
    for graph, parts in graphs.items():
        Console().print(_table(graph, parts, given.rows))


def _table(graph: str, parts: dict[str, Work], rows: int) -> Table:
    table = Table(title=graph, title_justify="left")
    table.add_column("part")
    for name in ("launches", "MB", "GFLOP", "floor, ms"):
        table.add_column(name, justify="right")
    ranked, whole = sorted(parts.items(), key=lambda item: -item[1].floor_ms), Work()
    for work in parts.values():
        whole.add(work)
    rest = Work()
    for _, work in ranked[rows:]:
        rest.add(work)
    for name, work in [*ranked[:rows], *([("the rest", rest)] if rest.launches else []), ("all", whole)]:
        figures = f"{work.bytes / 1e6:.1f}", f"{work.flop / 1e9:.1f}", f"{work.floor_ms:.3f}"
        table.add_row(name, str(work.launches), *figures)
    return table


if __name__ == "__main__":
    main()
