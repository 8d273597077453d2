"""The TensorRT backends: a bundle's engines on an NVIDIA GPU; what all GPU sessions share is in cuda/session.py."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from glip_export.bundle import Bundle
from glip_export.errors import BackendError, BundleError
from glip_export.graphs.contracts import GraphSpec, graphs_of
from glip_export.runtime.cache import cache_folder
from glip_export.runtime.cuda.driver import CudaDriver, Driver
from glip_export.runtime.cuda.engine import EngineRunner, Workspace
from glip_export.runtime.cuda.library import Library
from glip_export.runtime.cuda.profiles import Range
from glip_export.runtime.cuda.session import CUDA_GRAPHS, DeviceSession
from glip_export.runtime.host_nms import CANDIDATES, finished
from glip_export.trt.engine_set import ENGINES_JSON, INT8, PRECISIONS, EngineSet, folder_name, read_engine_set
from glip_export.trt.flavor import TENSORRT, TENSORRT_RTX, find_gpu
from glip_export.trt.gpus import Gpu, engine_targets, rtx_doubt, rtx_refusal, rtx_serves

log = logging.getLogger(__name__)


class TensorRtSession(DeviceSession):
    """The three engines of a bundle; see `DeviceSession` for inputs and outputs, `Session` for shapes."""

    _runners: dict[str, EngineRunner]

    def __init__(
        self,
        bundle: Bundle,
        flavor: str = "tensorrt",
        precision: str = "",
        *,
        device: int | None = None,
        stream: Any = None,
        cuda_graphs: int = CUDA_GRAPHS,
        driver: Driver | None = None,
    ) -> None:
        """Loads the engines that `glip-export trt` built.

        flavor: tensorrt or tensorrt_rtx. precision: fp16, fp32 or bf16; "" takes fp16 if built, else what is. device:
        the GPU's number. Where the calling thread has a CUDA context (a PyCUDA program's) on that device it is used,
        and current again after every call, whatever it was. stream: an int, or a stream of PyCUDA, torch, CuPy or
        cuda-core, on which everything is put, in its order with your own work; by default a stream of its own.
        cuda_graphs: how many of each engine are kept, 0 for none. driver: for tests. Raises BackendError.
        """
        engines = open_engine_set(bundle, flavor, precision)
        super().__init__(driver or CudaDriver(device), stream)
        _check_gpu(engines, self._gpu)
        self.precision = engines.precision
        self.name = f"{flavor}:{self.precision}"
        self._bundle = bundle
        self.specs = graphs_of(bundle.config)
        with self._driver.active():
            self._library = _load_library(bundle, engines)
            self.library = self._library.title
            graphs = 0 if self._library.makes_graphs else cuda_graphs
            self._workspace = Workspace(self._pool)
            self._runners = {name: self._load(spec, engines, graphs) for name, spec in self.specs.items()}
        self._plans_saved = 0

    def close(self) -> None:
        """Also keeps what RTX compiled."""
        self.synchronize()
        with self._driver.active():
            self._library.save_caches()
        super().close()
        with self._driver.active():
            del self._workspace
            self._pool.trim()

    def _load(self, spec: GraphSpec, engines: EngineSet, graphs: int) -> EngineRunner:
        entry = engines.graphs[spec.name]
        served = engines.flavor != TENSORRT_RTX or rtx_serves(self._gpu)
        rebuild = build_command(self._bundle, engines.flavor if served else TENSORRT, engines.precision)
        data = self._library.load(spec.name, engines, str(self._gpu), rebuild)
        profiles = [_ranges(profile) for profile in entry.profiles]
        return EngineRunner(self._library, data, spec, profiles, self._pool, self._workspace, graphs, rebuild)

    def _head_has_run(self) -> None:
        """Keeps the kernels that RTX compiled for new shapes."""
        plans = sum(len(runner.plans) for runner in self._runners.values())
        if plans != self._plans_saved:
            self._library.save_caches()
            self._plans_saved = plans

    def _detections(self, found: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if CANDIDATES[0] not in found:
            return super()._detections(found)
        return finished([found[name] for name in CANDIDATES], self._bundle.config.detection)


def open_engine_set(bundle: Bundle, flavor: str, precision: str = "") -> EngineSet:
    """The engines of a bundle; precision "" takes the first of PRECISIONS that is built.

    Raises BackendError, with the command that builds them, if there are none; or with what this GPU runs, if not those.
    """
    built = built_precisions(bundle, flavor)
    if not built or (precision and precision not in built):
        gpu = find_gpu() if flavor == TENSORRT_RTX else None
        if gpu is not None and (why_not := rtx_refusal(gpu)):
            raise BackendError(why_not)
        command = build_command(bundle, flavor, precision or (INT8 if bundle.precision == INT8 else PRECISIONS[0]))
        others = f" (it has {', '.join(built)})" if built else ""
        raise BackendError(
            f"{bundle.path} has no {flavor} engines{f' in {precision}' if precision else ''}{others}: "
            f"build them with: {command}"
        )
    return read_engine_set(bundle, flavor, precision or built[0])


def built_precisions(bundle: Bundle, flavor: str) -> tuple[str, ...]:
    """Those in which the bundle has engines of the flavor, in the order of PRECISIONS."""
    return tuple(word for word in PRECISIONS if f"{folder_name(flavor, word)}/{ENGINES_JSON}" in bundle.files)


def named_targets(bundle: Bundle, flavor: str, precision: str) -> tuple[str, ...]:
    """The compute capabilities that the recipe of these engines names; () also where they cannot be read."""
    try:
        return tuple(map(str, read_engine_set(bundle, flavor, precision).recipe.get("compute_capabilities", ())))
    except BundleError:
        return ()


def build_command(bundle: Bundle, flavor: str, precision: str) -> str:
    """What a user types to have such engines."""
    return f"glip-export trt {bundle.path} --{precision} --flavor {flavor}"


def _check_gpu(engines: EngineSet, gpu: Gpu) -> None:
    """Raises BackendError, with what can, for a GPU that RTX cannot serve; logs a warning of one that it may not."""
    if engines.flavor != TENSORRT_RTX:
        return
    if why_not := rtx_refusal(gpu, engine_targets(engines.flavor, engines.recipe, engines.gpu)):
        raise BackendError(why_not)
    if doubt := rtx_doubt(gpu):
        log.warning(doubt)


def _load_library(bundle: Bundle, engines: EngineSet) -> Library:
    from glip_export.trt.flavor import load_flavor
    from glip_export.trt.plugins import register_plugins

    trt = load_flavor(engines.flavor).module
    if engines.deform_conv != "gridsample" or engines.nms == "plugin":
        register_plugins(trt)
    return Library(trt, engines.flavor, cache_folder(bundle, engines.flavor, engines.key))


def _ranges(profile: Mapping[str, Mapping[str, Any]]) -> dict[str, Range]:
    return {name: Range(*(tuple(shape[key]) for key in ("min", "opt", "max"))) for name, shape in profile.items()}
