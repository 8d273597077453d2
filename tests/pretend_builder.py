"""A TensorRT that is not there, and a builder that writes a few bytes: what is built when, without building."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from glip_export.bundle import Bundle
from glip_export.config import config_from_dict
from glip_export.errors import BackendError
from glip_export.graphs.contracts import graphs_of
from glip_export.trt import build as build_module
from glip_export.trt.build import build_engines
from glip_export.trt.builder import Job
from glip_export.trt.engine_set import EngineSet
from glip_export.trt.flavor import Flavor, Gpu

VERSIONS = {"tensorrt_rtx": "1.7.1.116", "tensorrt": "10.13.0"}


class Pretend:
    """Puts itself in the builder's place, beside a tensorrt_rtx and a tensorrt on an L4, and notes what it builds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Job] = []
        self.fails = ""
        monkeypatch.setattr(build_module, "run_builder", self)
        monkeypatch.setattr(build_module, "choose_flavor", self.choose)
        monkeypatch.setattr(build_module, "load_flavor", lambda name: Flavor(name, VERSIONS[name], ModuleType(name)))
        monkeypatch.setattr(build_module, "find_gpu", lambda: Gpu("NVIDIA L4", "8.9"))

    def choose(self, word: str, targets: tuple[str, ...] = ()) -> str:
        """choose_flavor where all is installed and no GPU minds."""
        return "tensorrt_rtx" if word == "auto" else word

    def __call__(self, job: Job, say: Callable[[str], None]) -> dict[str, Any]:
        self.asked.append(job)
        if job.graph == self.fails:
            raise BackendError(f"{job.graph}: TensorRT would not")
        say("building")
        Path(job.engine).write_bytes(f"{job.graph} {job.precision} {job.deform_conv} {job.profiles}".encode())
        spec = graphs_of(config_from_dict(job.config))[job.graph]
        shares = {"weight_bytes": {"float16": 99, "float32": 1}, "multiply_adds": {"float16": 1000}}
        return {"inputs": spec.input_names, "outputs": spec.output_names, "type_shares": shares, "seconds": 0.5}

    def build(
        self, folder: Path | Bundle, flavor: str = "tensorrt_rtx", precision: str = "fp16", **options: Any
    ) -> EngineSet:
        """build_engines, which says that it built what it asked for."""
        self.asked.clear()
        engines = build_engines(folder, flavor, precision, **options)
        assert engines.built == tuple(job.graph for job in self.asked)
        return engines
