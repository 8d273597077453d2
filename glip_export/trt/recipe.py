"""Build recipes: for which sizes engines are made, and how. Read from YAML; engines/*.yaml are the ones shipped."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from glip_export.config import GlipConfig
from glip_export.config.yacs import read_small_text, show
from glip_export.errors import GlipExportError
from glip_export.graphs.contracts import STRIDE, GraphSpec, fixed_axes, pyramid_axes
from glip_export.trt.gpus import check_targets

AXES = {"B": "pictures", "H": "pixels", "W": "pixels", "T": "tokens", "K": "classes"}
HARDWARE = ("this_gpu", "same_compute_capability", "ampere_plus")
LARGE_EMBED_DIM = 192  # Swin-L's MODEL.SWINT.EMBED_DIM; Swin-T's is 96
LARGEST_SIDE = 8192  # pixels: what the graphs are exported for

Shapes = dict[str, dict[str, list[int]]]  # tensor -> {"min", "opt", "max"} -> shape


@dataclass(frozen=True)
class Range:
    """The sizes of an axis that an engine takes, and the one it is tuned for."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class Profile:
    """One optimization profile: B pictures of H x W pixels, T tokens, K classes."""

    B: Range
    H: Range
    W: Range
    T: Range
    K: Range

    def shapes(self, spec: GraphSpec, config: GlipConfig) -> Shapes:
        """The shapes of each of the graph's inputs; the pyramid's follow from H and W."""
        points = {}
        for point in ("min", "opt", "max"):
            axes = {axis: getattr(getattr(self, axis), point) for axis in AXES}
            points[point] = {**fixed_axes(config), **axes, **pyramid_axes(axes["H"], axes["W"], config.swin.is_v2)}
        return {
            tensor.name: {
                point: [axis if isinstance(axis, int) else axes[axis] for axis in tensor.axes]
                for point, axes in points.items()
            }
            for tensor in spec.inputs
        }


@dataclass(frozen=True)
class Recipe:
    """What decides an engine beside its graph. See engines/glip_t.yaml for what each field does."""

    name: str
    profiles: tuple[Profile, ...]
    workspace_mb: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware: str = "this_gpu"
    refit: bool = False
    strip_weights: bool = False
    timing_cache: bool = True
    compute_capabilities: tuple[str, ...] = ()

    def options(self, flavor: str) -> dict[str, Any]:
        """The fields beside the profiles that change what `flavor` builds."""
        both = ("workspace_mb", "optimization_level", "refit", "strip_weights")
        own = ("compute_capabilities",) if flavor == "tensorrt_rtx" else ("version_compatible", "hardware")
        return {name: getattr(self, name) for name in (*both, *own)}

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def recipe_for(
    config: GlipConfig, image_size: tuple[int, int] | None = None, recipe: Recipe | Path | str | None = None
) -> Recipe:
    """The recipe that was given, as itself, a file or a shipped one's name; else the shipped one that fits the model.

    image_size is a static bundle's (height, width): its shipped recipe takes that size. Raises GlipExportError for a
    recipe that cannot be read, or whose sizes the bundle does not have.
    """
    tokens = config.text.max_query_len
    if recipe is None:
        name = "glip_l" if config.swin.embed_dim >= LARGE_EMBED_DIM else "glip_t"
        chosen = read_recipe(_shipped("static_800x1216" if image_size else name))
        return _fitted(chosen, image_size, tokens)
    chosen = read_named(recipe)
    for profile in chosen.profiles:
        if profile.T.max > tokens:
            raise GlipExportError(
                f"recipe {chosen.name}: T goes up to {profile.T.max}, but this model's captions hold {tokens} tokens"
            )
        if image_size is not None and tuple(Range(side, side, side) for side in image_size) != (profile.H, profile.W):
            height, width = image_size
            raise GlipExportError(
                f"recipe {chosen.name}: this bundle's pictures are {height}x{width} only; "
                f"write H: {height} and W: {width} in its profiles, or leave --recipe out"
            )
    return chosen


def read_named(recipe: Recipe | Path | str) -> Recipe:
    """The recipe that was given as itself, a file or a shipped one's name; raises GlipExportError."""
    return recipe if isinstance(recipe, Recipe) else read_recipe(_find(recipe))


def read_recipe(path: Path | str) -> Recipe:
    """The recipe in a YAML file; raises GlipExportError, naming the file, the key and the nearest right one."""
    path = Path(path)
    try:
        import yaml
    except ImportError as error:
        raise GlipExportError("reading a recipe needs PyYAML: pip install 'glip-export[export]'") from error
    try:
        values = yaml.safe_load(read_small_text(path, "recipe"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise GlipExportError(f"{path}: not valid YAML: {' '.join(str(error).split())[:200]}") from error
    known = {field.name for field in fields(Recipe)} - {"name"}
    values = _mapping(values, known, str(path))
    profiles = values.pop("profiles", None)
    if not isinstance(profiles, list) or not profiles:
        raise GlipExportError(f"{path}: profiles is a list of one or more, each with the ranges of {', '.join(AXES)}")
    checked = {name: _CHECKS[name](value, f"{path}: {name}") for name, value in values.items()}
    return Recipe(path.stem, tuple(_profile(value, f"{path}: profiles") for value in profiles), **checked)


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name: in the package, or in engines/ beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed, checkout = package / "recipes", package.parents[1] / "engines"
    found = sorted(installed.glob("*.yaml")) or sorted(checkout.glob("*.yaml"))
    return {path.stem: path for path in found}


def _shipped(name: str) -> Path:
    recipes = shipped_recipes()
    if name not in recipes:
        raise GlipExportError(f"glip-export was installed without its recipe {name}.yaml: give one with --recipe")
    return recipes[name]


def _find(recipe: Path | str) -> Path:
    if not Path(recipe).exists() and str(recipe) in shipped_recipes():
        return shipped_recipes()[str(recipe)]
    if not Path(recipe).is_file():
        raise GlipExportError(f"there is no recipe {recipe}: give a YAML file, or {' or '.join(shipped_recipes())}")
    return Path(recipe)


def _fitted(recipe: Recipe, image_size: tuple[int, int] | None, tokens: int) -> Recipe:
    """A shipped recipe for this bundle: a static bundle's own size, no more tokens than its captions hold."""
    profiles = []
    for profile in recipe.profiles:
        ranges = {axis: getattr(profile, axis) for axis in AXES}
        ranges["T"] = Range(*(min(getattr(profile.T, point), tokens) for point in ("min", "opt", "max")))
        if image_size is not None:
            ranges["H"], ranges["W"] = (Range(side, side, side) for side in image_size)
        profiles.append(Profile(**ranges))
    return Recipe(**{**vars(recipe), "profiles": tuple(profiles)})


def _profile(value: object, where: str) -> Profile:
    values = _mapping(value, set(AXES), where)
    if missing := [axis for axis in AXES if axis not in values]:
        raise GlipExportError(f"{where}: {missing[0]} is missing: how many {AXES[missing[0]]}, as [min, opt, max]")
    return Profile(**{axis: _range(axis, values[axis], where) for axis in AXES})


def _range(axis: str, value: Any, where: str) -> Range:
    numbers = value if isinstance(value, list) else [value] * 3
    if (
        len(numbers) != 3
        or not all(_is_whole(number) for number in numbers)
        or not 1 <= numbers[0] <= numbers[1] <= numbers[2]
    ):
        raise GlipExportError(
            f"{where}: {axis} is one whole number or [min, opt, max], rising, of {AXES[axis]}, not {show(value)}"
        )
    sides = axis in ("H", "W")
    if sides and (any(number % STRIDE for number in numbers) or numbers[0] < 2 * STRIDE or numbers[2] > LARGEST_SIDE):
        raise GlipExportError(
            f"{where}: {axis} is in multiples of {STRIDE} from {2 * STRIDE} to {LARGEST_SIDE}, not {show(value)}"
        )
    return Range(*numbers)


def _is_whole(value: object) -> bool:
    return type(value) is int  # which True is not


def _mapping(value: object, known: set[str], where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise GlipExportError(f"{where}: should be keys and values, not {show(value)}")
    for key in value:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(sorted(known))}"
            raise GlipExportError(f"{where}: there is no key {show(key)}; {hint}")
    return dict(value)


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise GlipExportError(f"{where} is true or false, not {show(value)}")
    return value


def _whole(lowest: int, highest: int) -> Callable[[Any, str], int | None]:
    def check(value: Any, where: str) -> int | None:
        if value is not None and not (_is_whole(value) and lowest <= value <= highest):
            raise GlipExportError(f"{where} is null or a whole number from {lowest} to {highest}, not {show(value)}")
        return value

    return check


def _hardware(value: Any, where: str) -> str:
    if value not in HARDWARE:
        raise GlipExportError(f"{where} is one of {', '.join(HARDWARE)}, not {show(value)}")
    return value


def _capabilities(value: Any, where: str) -> tuple[str, ...]:
    words = [str(item) for item in value] if isinstance(value, list) else [""]
    if not all(re.fullmatch(r"\d{1,2}\.\d", word) for word in words):
        raise GlipExportError(f"{where} is a list such as [8.6, 8.9], not {show(value)}")
    if wrong := check_targets(words):
        raise GlipExportError(f"{where}: {wrong}")
    return tuple(dict.fromkeys(words))


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "workspace_mb": _whole(1, 1 << 20),
    "optimization_level": _whole(0, 5),
    "version_compatible": _flag,
    "hardware": _hardware,
    "refit": _flag,
    "strip_weights": _flag,
    "timing_cache": _flag,
    "compute_capabilities": _capabilities,
}
