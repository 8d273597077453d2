"""A bundle's graphs to TensorRT engines: only those that changed, and all or nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import onnx_ir

from glip_export.bundle import Bundle
from glip_export.bundle.files import CACHE, atomic_directory, sha256_file
from glip_export.config import config_to_dict
from glip_export.errors import BackendError, BundleError, GlipExportError
from glip_export.graphs.contracts import FUSION_HEAD, GRAPHS, LEVELS, graphs_of
from glip_export.trt.builder import Job
from glip_export.trt.builder_process import run_builder
from glip_export.trt.dyconv_launches import DyConvSizes
from glip_export.trt.engine_set import ENGINES_JSON, INT8, PRECISIONS, Engine, EngineSet, folder_name, read_engine_set
from glip_export.trt.flavor import TENSORRT, TENSORRT_RTX, Flavor, choose_flavor, find_gpu, load_flavor
from glip_export.trt.gpus import check_targets, rtx_doubt, rtx_serves
from glip_export.trt.lowering import DEFORM_CONV_FORMS, FUSED, NMS_FORMS, fuse_for_plugins
from glip_export.trt.recipe import Recipe, read_named, recipe_for

log = logging.getLogger(__name__)

Progress = Callable[[str], None]
UNFINISHED = ".unfinished"  # an engine's suffix until all three are there: a killed build leaves no *.engine
# Sources that shape no engine; all others of graphs/ and trt/ are part of every key.
_NOT_IN_KEYS = {
    "build.py", "builder_process.py", "emulation.py", "engine_set.py", "export.py", "flavor.py", "gpus.py",
    "kernels.py", "multiply_adds.py", "nvrtc.py", "recipe.py", "type_shares.py",
    # Of torch:cuda alone, and of pictures. Not launches.py and dyconv_launches.py: an engine holds their workspaces.
    "bi_attention_launches.py", "bi_attention_node.py", "candidates_launches.py", "candidates_node.py",
    "joined_levels.py", "norm_launches.py", "resize_launches.py", "swin_node.py", "text_layer_launches.py",
    "text_layer_node.py", "text_side_node.py", "window_launches.py",
}  # fmt: skip


def build_engines(
    bundle: Bundle | Path | str,
    flavor: str = "auto",
    precision: str = "fp16",
    *,
    deform_conv: str = "plugin",
    nms: str = "plugin",
    recipe: Recipe | Path | str | None = None,
    progress: Progress | None = None,
) -> EngineSet:
    """Builds the bundle's engines for a flavor (auto, tensorrt, tensorrt_rtx) and precision (fp16, bf16, fp32, int8).

    deform_conv: a plugin, gridsample, TensorRT's own operators, or fused, a plugin for whole DyConv blocks (fp16 and
    fp32). nms: a plugin, native, TensorRT's own operators, or host, where the engine ends at the candidates and the
    runtime finishes, as always where the bundle sees pictures at several scales. recipe: a YAML file, a shipped
    recipe's name, or the one that fits.
    An engine that is there already, of the same graph, recipe, options and versions, stays; `EngineSet.built` names
    those that did not. progress is called with what begins. Nothing changes if a build fails or is stopped. Raises
    BundleError for the bundle, BackendError where TensorRT is missing, fails or does not serve this GPU,
    GlipExportError for a wrong word, and a model, precision or size that fused does not take. A doubt
    (`BuildPlan.doubt`) is logged as a warning.
    """
    plan = plan_build(bundle, flavor, precision, deform_conv=deform_conv, nms=nms, recipe=recipe)
    if plan.doubt:
        log.warning(plan.doubt)
    return plan.build(progress)


def plan_build(
    bundle: Bundle | Path | str,
    flavor: str = "auto",
    precision: str = "fp16",
    *,
    deform_conv: str = "plugin",
    nms: str = "plugin",
    recipe: Recipe | Path | str | None = None,
) -> BuildPlan:
    """What `build_engines` would do, all but building checked; takes the same and raises the same."""
    for word, value, words in (
        ("precision", precision, PRECISIONS),
        ("form of deform_conv", deform_conv, DEFORM_CONV_FORMS),
        ("form of nms", nms, NMS_FORMS),
    ):
        if value not in words:
            raise GlipExportError(f"there is no {word} {value!r}: choose {' or '.join(words)}")
    named = None if recipe is None else read_named(recipe)
    chosen = load_flavor(choose_flavor(flavor, named.compute_capabilities if named else ()))
    path = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
    opened = Bundle.open(path, verify=not isinstance(bundle, Bundle), without=folder_name(chosen.name, precision))
    _check_precision(opened, precision)
    made_by = recipe_for(opened.config, opened.image_size, named)
    check_buildable(made_by, chosen)
    if deform_conv == FUSED:  # for what it raises
        fuse_for_plugins(onnx_ir.load(opened.graph_path(FUSION_HEAD.name)), precision)
    if opened.config.detection.several_scales:
        nms = "host"  # to rank all candidates takes a longer TopK than TensorRT has
    jobs = {graph: _job(opened, graph, chosen, precision, deform_conv, nms, made_by) for graph in GRAPHS}
    if deform_conv == FUSED:
        _check_dyconv_sizes(opened, jobs[FUSION_HEAD.name], made_by)
    keys = {graph: _key(opened, job, chosen) for graph, job in jobs.items()}
    old = _old_set(path, chosen.name, precision)
    missing = tuple(graph for graph in GRAPHS if old is None or not _is_same(old, graph, keys[graph]))
    return BuildPlan(
        opened, chosen, precision, deform_conv, nms, made_by, jobs, keys, old, missing, _doubt(made_by, chosen)
    )


@dataclass(frozen=True)
class BuildPlan:
    """A build that is known to be possible, as far as that can be known before."""

    bundle: Bundle
    flavor: Flavor
    precision: str
    deform_conv: str
    nms: str
    recipe: Recipe
    jobs: dict[str, Job]
    keys: dict[str, str]
    old: EngineSet | None  # what is there
    missing: tuple[str, ...]  # the graphs that have to be built
    doubt: str | None = None  # whether the engines will run on this machine's GPU, in a line

    def build(self, progress: Progress | None = None) -> EngineSet:
        """Builds what is missing, and puts the new set in the place of the old when all of it is there."""
        if self.old is not None and not self.missing:
            return self.old
        name = folder_name(self.flavor.name, self.precision)
        finished = self.bundle.path / CACHE / "build" / name
        shutil.rmtree(finished, ignore_errors=True)  # of a build that was killed just before it took its place
        with atomic_directory(finished) as folder:
            engines = self._fill(folder, progress or (lambda step: None))
            new = EngineSet(
                folder=folder,
                flavor=self.flavor.name,
                version=self.flavor.version,
                precision=self.precision,
                deform_conv=self.deform_conv,
                nms=self.nms,
                recipe=self.recipe.to_json(),
                key=hashlib.sha256("".join(self.keys.values()).encode()).hexdigest(),
                graphs=engines,
                gpu=_gpu(self.flavor),
            )
            (folder / ENGINES_JSON).write_text(json.dumps(new.to_json(), indent=1) + "\n", encoding="utf-8")
        bundle = self.bundle.take_folder(finished, name)
        with suppress(OSError):  # another build may be at work there
            finished.parent.rmdir()
        return dataclasses.replace(read_engine_set(bundle, self.flavor.name, self.precision), built=self.missing)

    def _fill(self, folder: Path, say: Progress) -> dict[str, Engine]:
        """The engines in `folder`: the old ones that stay, and the missing ones."""
        engines = {}
        for graph, job in self.jobs.items():
            unfinished = folder / f"{graph}{UNFINISHED}"
            if self.old is not None and graph not in self.missing:
                _link(self.old.engine_path(graph), unfinished)
                engines[graph] = self.old.graphs[graph]
                continue
            job = dataclasses.replace(job, engine=str(unfinished))
            facts = run_builder(job, partial(_say_of, say, graph))
            engines[graph] = Engine(
                file=f"{graph}.engine",
                sha256=sha256_file(unfinished),
                bytes=unfinished.stat().st_size,
                key=self.keys[graph],
                profiles=job.profiles,
                **facts,
            )
        for graph, engine in engines.items():
            os.rename(folder / f"{graph}{UNFINISHED}", folder / engine.file)
        return engines


def _check_precision(bundle: Bundle, precision: str) -> None:
    """int8 engines are built from an int8 bundle, others from an fp32 one."""
    if precision == INT8 and bundle.precision != INT8:
        raise BundleError(
            f"{bundle.path} is {bundle.precision}; int8 engines are built from an int8 bundle: make one with "
            f'glip-export quantize {bundle.path} --calibration DIR --prompt "..."'
        )
    if precision != INT8 and bundle.precision != "fp32":
        advice = "; of this one with --int8" if bundle.precision == INT8 else ""
        raise BundleError(f"{bundle.path} is {bundle.precision}; engines are built from an fp32 bundle{advice}")


def _say_of(say: Progress, graph: str, step: str) -> None:
    say(f"{graph}: {step}")


def _job(bundle: Bundle, graph: str, flavor: Flavor, precision: str, deform_conv: str, nms: str, recipe: Recipe) -> Job:
    spec = graphs_of(bundle.config)[graph]
    timing_cache = None
    if recipe.timing_cache and flavor.name == TENSORRT:
        timing_cache = str(bundle.path / CACHE / flavor.name / f"timing-{flavor.version}.cache")
    return Job(
        graph=graph,
        onnx=str(bundle.graph_path(graph)),
        engine="",
        config=config_to_dict(bundle.config),
        flavor=flavor.name,
        precision=precision,
        deform_conv=deform_conv,
        nms=nms,
        profiles=[profile.shapes(spec, bundle.config) for profile in recipe.profiles],
        options=recipe.options(flavor.name),
        timing_cache=timing_cache,
    )


def _check_dyconv_sizes(bundle: Bundle, head: Job, recipe: Recipe) -> None:
    """Raises GlipExportError for sizes that GlipDyConv refuses: TensorRT only prints what its plugin raises."""
    for profile in head.profiles:
        maps = [profile[level]["max"] for level in LEVELS]
        levels = tuple((height, width) for _, _, height, width in maps)
        try:
            DyConvSizes(maps[0][0], maps[0][1], bundle.config.head.group_norm_groups, levels)
        except ValueError as error:
            raise GlipExportError(f"recipe {recipe.name}: {error}: choose deform_conv plugin") from error


def _key(bundle: Bundle, job: Job, flavor: Flavor) -> str:
    """SHA-256 of all that decides an engine; what only the fusion head has counts only there."""
    graph = bundle.graphs[job.graph]
    decisive = {
        "files": [bundle.files[name].sha256 for name in (graph.file, *graph.data)],
        "config": job.config,
        "forms": [job.deform_conv, job.nms] if job.graph == FUSION_HEAD.name else [],
        "precision": job.precision,
        "flavor": [flavor.name, flavor.version],
        "gpu": _gpu(flavor),
        "profiles": job.profiles,
        "options": job.options,
        "passes": _passes(),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


@cache
def _passes() -> str:
    """SHA-256 of the sources that shape an engine."""
    package = Path(__file__).resolve().parent.parent
    sources = [path for folder in ("graphs", "trt") for path in (package / folder).glob("*.py")]
    digests = [sha256_file(path) for path in sorted(sources) if path.name not in _NOT_IN_KEYS]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _gpu(flavor: Flavor) -> dict[str, str] | None:
    """The GPU that tensorrt builds for; RTX builds for those of its recipe, whatever is here."""
    gpu = find_gpu() if flavor.name == TENSORRT else None
    return None if gpu is None else dataclasses.asdict(gpu)


def _old_set(path: Path, flavor: str, precision: str) -> EngineSet | None:
    """What was built before, if it can be read; a damaged one is built anew."""
    try:
        return read_engine_set(Bundle.open(path, verify=False), flavor, precision)
    except BundleError:
        return None


def _is_same(old: EngineSet, graph: str, key: str) -> bool:
    engine = old.graphs[graph]
    return engine.key == key and sha256_file(old.engine_path(graph)) == engine.sha256


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _doubt(recipe: Recipe, flavor: Flavor) -> str | None:
    gpu = find_gpu() if flavor.name == TENSORRT_RTX else None
    if gpu is None or rtx_serves(gpu, recipe.compute_capabilities):
        return None
    targets = recipe.compute_capabilities
    if targets and gpu.compute_capability not in targets:
        return f"these engines are for compute capability {', '.join(targets)}, not for this {gpu}"
    return rtx_doubt(gpu)


def check_buildable(recipe: Recipe, flavor: Flavor) -> None:
    """Raises where the flavor cannot build by the recipe, on this machine or at all."""
    if flavor.name == TENSORRT_RTX and (wrong := check_targets(recipe.compute_capabilities)):
        raise GlipExportError(f"recipe {recipe.name}: compute_capabilities: {wrong}")
    needs_gpu = [name for name in ("refit", "strip_weights") if getattr(recipe, name)]
    if flavor.name == TENSORRT_RTX and needs_gpu and find_gpu() is None:
        raise BackendError(
            f"recipe {recipe.name}: {needs_gpu[0]} needs a GPU to build, and none works here; set it to false"
        )
