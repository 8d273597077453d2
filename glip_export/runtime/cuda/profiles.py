"""Which of an engine's optimization profiles takes the shapes at hand, and what is said when none does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log

from glip_export.errors import BackendError
from glip_export.graphs.contracts import GraphSpec

Shape = tuple[int, ...]

_WORDS = {  # axes of the contracts that a user chooses; the others follow from them
    "B": "pictures in a batch",
    "T": "tokens of a prompt",
    "K": "names of a prompt",
    "H": "pixels of height",
    "W": "pixels of width",
}


@dataclass(frozen=True)
class Range:
    """The shapes of one input that a profile takes; those near `opt` are the fastest."""

    low: Shape
    opt: Shape
    high: Shape

    def admits(self, shape: Shape) -> bool:
        """Whether every axis is within its bounds."""
        if len(shape) != len(self.low):
            return False
        return all(low <= size <= high for low, size, high in zip(self.low, shape, self.high, strict=True))

    def distance(self, shape: Shape) -> float:
        """How far the shape is from `opt`: the sum over axes of the ratios' logarithms."""
        return sum(abs(log(max(size, 1) / max(best, 1))) for size, best in zip(shape, self.opt, strict=True))


Profile = Mapping[str, Range]  # by input


def choose_profile(
    profiles: Sequence[Profile], shapes: Mapping[str, Shape], spec: GraphSpec, rebuild: str = "glip-export trt"
) -> int:
    """The profile that admits all shapes and whose `opt` is nearest; of equals the first.

    Raises BackendError that says which size is beyond the engine and how to get another; `rebuild` is the command.
    """
    best, nearest = -1, inf
    for index, profile in enumerate(profiles):
        if all(profile[name].admits(shape) for name, shape in shapes.items()):
            distance = sum(profile[name].distance(shape) for name, shape in shapes.items())
            if distance < nearest:
                best, nearest = index, distance
    if best < 0:
        raise BackendError(_refusal(profiles, shapes, spec, rebuild))
    return best


def _refusal(profiles: Sequence[Profile], shapes: Mapping[str, Shape], spec: GraphSpec, rebuild: str) -> str:
    """Names each axis that no profile admits; if each is admitted by some profile, the whole of what they admit."""
    problems: dict[str, str] = {}
    for tensor in spec.inputs:
        shape = shapes[tensor.name]
        if len(shape) != len(tensor.axes):
            return f"{spec.name}: {tensor.name} has shape {shape} and should have {len(tensor.axes)} axes"
        for place, (axis, size) in enumerate(zip(tensor.axes, shape, strict=True)):
            bounds = [(profile[tensor.name].low[place], profile[tensor.name].high[place]) for profile in profiles]
            if any(low <= size <= high for low, high in bounds):
                continue
            accepted = " or ".join(dict.fromkeys(str(low) if low == high else f"{low}..{high}" for low, high in bounds))
            key = str(axis) if axis in _WORDS else tensor.name
            what = _WORDS.get(str(axis), f"in shape {shape} of {tensor.name}")
            problems.setdefault(key, f"{size} {what}, it takes {accepted}")
    chosen = {key: text for key, text in problems.items() if key in _WORDS} or problems
    if not chosen:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        return f"no profile of the engine of {spec.name} takes {given} together: build one that does with: {rebuild}"
    return f"the engine of {spec.name} does not take {'; nor '.join(chosen.values())}: build another with: {rebuild}"
