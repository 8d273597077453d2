"""A set of engines as a table: what `glip-export trt` made and `glip-export info` finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.table import Table

from glip_export.cli.console import megabytes
from glip_export.graphs.contracts import FUSION_HEAD, STRIDE, TEXT_ENCODER, TEXT_FUSING_BACKBONE
from glip_export.trt.engine_set import EngineSet
from glip_export.trt.gpus import engine_targets, targets_words
from glip_export.trt.recipe import AXES

# The axes that a recipe has, and P3's, which are an eighth of the picture's; of Swin v2 at most one more.
_CHOSEN: dict[str | int, tuple[str, int]] = {
    **{axis: (axis, 1) for axis in AXES},
    "H3": ("H", 8),
    "W3": ("W", 8),
}

_INPUTS = {
    tensor.name: tensor for graph in (TEXT_ENCODER, TEXT_FUSING_BACKBONE, FUSION_HEAD) for tensor in graph.inputs
}
_KINDS = ("weight_bytes", "multiply_adds")  # of TypeShares


def engine_table(engines: EngineSet) -> Table:
    """Size, time, types and profiles of each engine; the multiply-adds are of one picture and one caption."""
    table = Table(
        title=f"{engines.flavor} {engines.version}, {engines.precision}, for {_gpus(engines)}; "
        f"deform_conv {engines.deform_conv}, nms {engines.nms}, recipe {engines.recipe.get('name', '')}"
    )
    for column in ("graph", "MB", "seconds", "weight bytes", "multiply-adds", "profile: min/opt/max"):
        table.add_column(column, justify="right" if column in ("MB", "seconds") else "left")
    for name, engine in engines.graphs.items():
        table.add_row(
            name,
            megabytes(engine.bytes),
            f"{engine.seconds:.0f}",
            *(shares(engine.type_shares.get(kind, {})) for kind in _KINDS),
            "\n".join(profile_words(profile) for profile in engine.profiles),
        )
    table.add_section()
    each = engines.graphs.values()
    table.add_row(
        "together",
        megabytes(sum(engine.bytes for engine in each)),
        f"{sum(engine.seconds for engine in each):.0f}",
        *(shares(_sum([engine.type_shares.get(kind, {}) for engine in each])) for kind in _KINDS),
    )
    return table


def _gpus(engines: EngineSet) -> str:
    targets = targets_words(engine_targets(engines.flavor, engines.recipe, engines.gpu))
    if engines.gpu is None:
        return targets
    wider = engines.recipe.get("hardware", "this_gpu") != "this_gpu"
    return f"{targets} (built on {engines.gpu['name']})" if wider else engines.gpu["name"]


def _sum(amounts: Sequence[Mapping[str, float]]) -> Counter[str]:
    return sum((Counter(each) for each in amounts), Counter())


def shares(amounts: Mapping[str, float]) -> str:
    """{"float16": 99, "float32": 1} as a line each, "99.0 % float16" and "1.0 % float32", the largest first."""
    total = sum(amounts.values())
    if total == 0:
        return "-"
    falling = sorted(((amount, dtype) for dtype, amount in amounts.items() if amount), reverse=True)
    percents = ((100 * amount / total, dtype) for amount, dtype in falling)
    return "\n".join(f"{f'{percent:.1f}' if percent >= 0.05 else 'under 0.1'} % {dtype}" for percent, dtype in percents)


def profile_words(profile: Mapping[str, Mapping[str, list[int]]]) -> str:
    """The axes that a user chooses, of one profile: "B 1/1/4, T 1/16/256", or one number where it is fixed."""
    words = {}
    for name, ranges in profile.items():
        for place, axis in enumerate(_INPUTS[name].axes):
            if axis in _CHOSEN:
                letter, unit = _CHOSEN[axis]
                sizes = [unit * ranges[point][place] for point in ("min", "opt", "max")]
                if unit > 1:
                    sizes = [size // STRIDE * STRIDE for size in sizes]
                words[letter] = "/".join(map(str, sizes if len(set(sizes)) > 1 else sizes[:1]))
    return ", ".join(f"{axis} {sizes}" for axis, sizes in words.items())
