"""A baked model to one TensorRT engine, in a file beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glip_export.bundle import BakedFile
from glip_export.bundle.files import atomic_path
from glip_export.config import config_to_dict
from glip_export.errors import BundleError, GlipExportError
from glip_export.graphs.contracts import BAKED, specs_of
from glip_export.trt.build import check_buildable
from glip_export.trt.builder import Job
from glip_export.trt.builder_process import run_builder
from glip_export.trt.flavor import choose_flavor, load_flavor
from glip_export.trt.lowering import DEFORM_CONV_FORMS, FUSED, NMS_FORMS
from glip_export.trt.recipe import Recipe, read_named, recipe_for


@dataclasses.dataclass(frozen=True)
class BakedEngine:
    """One engine that was built."""

    path: Path
    flavor: str
    version: str
    precision: str
    bytes: int
    facts: dict[str, Any]  # inputs, outputs, type_shares, seconds


def build_baked(
    file: BakedFile | Path | str,
    flavor: str = "auto",
    precision: str | None = None,
    *,
    deform_conv: str = "plugin",
    nms: str = "plugin",
    recipe: Recipe | Path | str | None = None,
    progress: Callable[[str], None] | None = None,
) -> BakedEngine:
    """Builds NAME.FLAVOR-PRECISION.engine beside NAME.onnx, in the precision that it was baked in.

    deform_conv, nms, recipe: as for `build_engines`; of the recipe the ranges of B, H and W count. With nms "host" the
    engine gives candidates, for `runtime.host_nms.finish`. Nothing is left behind if it fails. Raises BundleError for
    another precision, or a model that takes pictures as they are, BackendError where TensorRT is missing or fails,
    GlipExportError for a wrong word, and for deform_conv "fused", which is for float32 graphs.
    """
    opened = file if isinstance(file, BakedFile) else BakedFile.open(file)
    if deform_conv == FUSED:
        raise GlipExportError(f"deform_conv {FUSED} is for a bundle's engines: for a baked model choose plugin")
    taken = [form for form in DEFORM_CONV_FORMS if form != FUSED]
    for word, value, words in (("deform_conv", deform_conv, taken), ("nms", nms, NMS_FORMS)):
        if value not in words:
            raise GlipExportError(f"there is no form of {word} {value!r}: choose {' or '.join(words)}")
    if precision not in (None, opened.precision):
        raise BundleError(
            f"{opened.path} was baked in {opened.precision}; for {precision} bake it again, --{precision}"
        )
    if opened.precision == "int8":
        raise BundleError(f"{opened.path} is int8 for CPUs: glip-export trt --int8 takes its bundle")
    if opened.takes_pixels:
        raise BundleError(f"{opened.path} resizes pictures by itself, for runtimes on a CPU: bake it without --uint8")
    named = None if recipe is None else read_named(recipe)
    chosen = load_flavor(choose_flavor(flavor, named.compute_capabilities if named else ()))
    made_by = recipe_for(opened.config, opened.image_size, named)
    check_buildable(made_by, chosen)
    spec = specs_of(opened)[BAKED.name]
    target = opened.path.with_name(f"{opened.path.stem}.{chosen.name}-{opened.precision}.engine")
    say = progress or (lambda step: None)
    with atomic_path(target) as unfinished:
        job = Job(
            graph=BAKED.name,
            onnx=str(opened.path.resolve()),
            engine=str(unfinished),
            config=config_to_dict(opened.config),
            flavor=chosen.name,
            precision=opened.precision,
            deform_conv=deform_conv,
            nms=nms,
            profiles=[profile.shapes(spec, opened.config) for profile in made_by.profiles],
            options=made_by.options(chosen.name),
            timing_cache=None,
        )
        facts = run_builder(job, say)
    return BakedEngine(target, chosen.name, chosen.version, opened.precision, target.stat().st_size, facts)
