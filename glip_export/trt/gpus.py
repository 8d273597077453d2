"""Which GPU runs what: one table by compute capability, which flavors, backends, messages and documents read.

The column of TensorRT for RTX is of 1.7.1: its builder's ComputeCapability and NVIDIA's list of supported GPUs. That of
CUDA is of the wheel onnxruntime-gpu 1.31: the machine code in its provider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

RTX = "TensorRT for RTX"


class Support(Enum):
    """Whether a library serves a kind of GPU; the value is the table's word."""

    YES = "yes"
    NAMED = "only engines of a recipe that names it"
    UNLISTED = "its builder knows it, NVIDIA's list does not"
    JETPACK = "yes, JetPack's"
    OWN_BUILD = "NVIDIA's own build"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class GpuKind:
    """The GPUs of one compute capability, and what serves them."""

    compute_capability: str  # 8.6
    examples: str
    tensorrt_rtx: Support  # its engines, and onnxruntime:rtx
    tensorrt: Support  # 10.8 or later
    cuda: Support  # onnxruntime:cuda, and what onnxruntime:tensorrt leaves to it


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine."""

    name: str
    compute_capability: str  # 8.6

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability})"


_YES, _NO = Support.YES, Support.NO
GPUS = (
    GpuKind("7.5", "T4, RTX 20", Support.NAMED, _YES, _YES),
    GpuKind("8.0", "A100, A30", Support.UNLISTED, _YES, _YES),
    GpuKind("8.6", "RTX 30, A10, A40", _YES, _YES, _YES),
    GpuKind("8.7", "Jetson Orin", _NO, Support.JETPACK, Support.OWN_BUILD),
    GpuKind("8.9", "RTX 40, L4, L40S", _YES, _YES, _YES),
    GpuKind("9.0", "H100, H200, GH200", _NO, _YES, _YES),
    GpuKind("10.0", "B200, GB200", _NO, _YES, _NO),
    GpuKind("10.3", "B300, GB300", _NO, _YES, _NO),
    GpuKind("12.0", "RTX 50", _YES, _YES, _YES),
    GpuKind("12.1", "GB10", _YES, _YES, _YES),
)
# What TensorRT for RTX compiles for where a recipe names nothing, and what a recipe may name.
RTX_DEFAULT = tuple(kind.compute_capability for kind in GPUS if kind.tensorrt_rtx is _YES)
RTX_TARGETS = tuple(kind.compute_capability for kind in GPUS if kind.tensorrt_rtx is not _NO)


def kind_of(compute_capability: str) -> GpuKind:
    """The table's row; of a capability that is not in it, one that says no where it is older, else unknown."""
    for kind in GPUS:
        if kind.compute_capability == compute_capability:
            return kind
    older = _numbers(compute_capability) < _numbers(GPUS[0].compute_capability)
    other = _NO if older else Support.UNKNOWN
    return GpuKind(compute_capability, "", other, Support.UNKNOWN, other)


def rtx_serves(gpu: Gpu, targets: Sequence[str] = ()) -> bool:
    """Whether engines of TensorRT for RTX are sure to run there; targets: those that their recipe names."""
    support = kind_of(gpu.compute_capability).tensorrt_rtx
    if targets:
        return gpu.compute_capability in targets and support in (Support.YES, Support.NAMED)
    return support is Support.YES


def cuda_serves(gpu: Gpu) -> bool:
    """Whether ONNX Runtime's CUDA provider, where it is installed, is sure to have machine code for it."""
    return kind_of(gpu.compute_capability).cuda in (Support.YES, Support.OWN_BUILD)


def rtx_refusal(gpu: Gpu, targets: Sequence[str] = ()) -> str | None:
    """Why engines of TensorRT for RTX cannot run there, and what can, on one line; None where they may.

    None too for what its list lacks and for GPUs newer than the table: see `rtx_doubt`.
    """
    support = kind_of(gpu.compute_capability).tensorrt_rtx
    if support is Support.NO:
        return f"{gpu}: {RTX} has no code for it: {instead(gpu)}"
    if support is Support.NAMED and gpu.compute_capability not in targets:
        named = f"compute_capabilities: [{gpu.compute_capability}]"
        return f"{gpu}: {RTX} serves it only with engines of a recipe that names it ({named}): {instead(gpu)}"
    return None


def rtx_doubt(gpu: Gpu) -> str | None:
    """What to tell who takes TensorRT for RTX there nevertheless, on one line; None where it is known to run or not."""
    support = kind_of(gpu.compute_capability).tensorrt_rtx
    if support is Support.UNLISTED:
        return f"{gpu} is not on NVIDIA's list for {RTX}, though its builder knows it: {instead(gpu)}"
    if support is Support.UNKNOWN:
        return f"{gpu}: it is not known here whether {RTX} serves it: {instead(gpu)}"
    return None


def cuda_doubt(gpu: Gpu) -> str | None:
    """The same of ONNX Runtime's CUDA provider."""
    if cuda_serves(gpu):
        return None
    return f"{gpu}: the wheel onnxruntime-gpu has no machine code for it, only another build may: {instead(gpu)}"


def instead(gpu: Gpu) -> str:
    """What serves a GPU beside TensorRT for RTX, as a piece of advice; no sentence's end."""
    kind = kind_of(gpu.compute_capability)
    ways = []
    if kind.tensorrt is Support.JETPACK:
        ways.append("--flavor tensorrt with JetPack's TensorRT")
    elif kind.tensorrt is Support.YES:
        ways.append("--flavor tensorrt")
    elif kind.cuda is not Support.NO:
        ways.append("--flavor tensorrt, which says itself whether it does")
    if cuda_serves(gpu):
        ways.append("backend onnxruntime:cuda or torch:cuda")
    return f"use {', or '.join(ways)}" if ways else "use a backend for CPUs"


def check_targets(targets: Sequence[str]) -> str | None:
    """Why TensorRT for RTX cannot compile for one of these compute capabilities, on one line; None where it can."""
    for target in targets:
        if target not in RTX_TARGETS:
            examples = kind_of(target).examples
            which = f"{target} ({examples})" if examples else target
            return f"{RTX} has no code for {which}, only for {', '.join(RTX_TARGETS)}"
    return None


def engine_targets(flavor: str, recipe: Mapping[str, Any], gpu: Mapping[str, str] | None) -> tuple[str, ...]:
    """The compute capabilities that engines are for; recipe: its values, gpu: that tensorrt built on."""
    if flavor == "tensorrt_rtx":
        return tuple(map(str, recipe.get("compute_capabilities") or RTX_DEFAULT))
    if gpu is None:
        return ()
    if recipe.get("hardware") != "ampere_plus":
        return (gpu["compute_capability"],)
    known = [kind.compute_capability for kind in GPUS if kind.tensorrt is Support.YES]
    return tuple(word for word in known if _numbers(word) >= (8, 0))


def targets_words(targets: Sequence[str]) -> str:
    """ "compute capability 8.6 and 8.9", for a message."""
    listed = ", ".join(targets[:-1]) + f" and {targets[-1]}" if len(targets) > 1 else "".join(targets)
    return f"compute capability {listed}"


def rtx_summary(targets: Sequence[str] = ()) -> str:
    """For which GPUs engines of TensorRT for RTX are and for which not, on one line; targets: the recipe's."""
    chosen = tuple(targets) or RTX_DEFAULT
    examples = "; ".join(f"{kind.compute_capability}: {kind.examples}" for kind in map(kind_of, chosen))
    left = [kind for kind in GPUS if kind.compute_capability not in chosen and kind.compute_capability in _ASKED_FOR]
    others = ", ".join(f"{kind.examples.partition(',')[0]} ({kind.compute_capability})" for kind in left)
    without = f"; not for {others}: there use --flavor tensorrt" if left else ""
    return f"{RTX}: engines for {targets_words(chosen)} ({examples}){without}"


def markdown_table() -> str:
    """The table as docs/gpu.md shows it."""
    head = (
        "compute capability",
        "examples",
        f"`tensorrt_rtx` ({RTX})",
        "`tensorrt` (10.8+, 11)",
        "`onnxruntime:cuda`",
    )
    rows = [
        (kind.compute_capability, kind.examples, kind.tensorrt_rtx.value, kind.tensorrt.value, kind.cuda.value)
        for kind in GPUS
    ]
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def owners() -> tuple[str, str, str]:
    """What the owner of an A100, of an H100 and of an RTX 4090 is told, everywhere in the same words."""
    return tuple(_owner(*one) for one in (("A100", "8.0"), ("H100", "9.0"), ("RTX 4090", "8.9")))  # type: ignore[return-value]


_ASKED_FOR = ("7.5", "8.0", "9.0", "10.0")  # GPUs of which people suppose that every library serves them


def _owner(name: str, compute_capability: str) -> str:
    support = kind_of(compute_capability).tensorrt_rtx
    words = {
        Support.YES: "either flavor; tensorrt_rtx builds its engines on any machine",
        Support.NO: "tensorrt, or backend onnxruntime:cuda or torch:cuda; tensorrt_rtx has no code for it",
        Support.UNLISTED: "tensorrt; tensorrt_rtx builds for it, but NVIDIA does not list it",
    }
    return f"{name} ({compute_capability}): {words[support]}"


def _numbers(compute_capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in compute_capability.split("."))
