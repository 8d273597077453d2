"""TensorRT as the runtime uses it: why an engine did not load, and RTX's own graphs and kernel cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glip_export.errors import BackendError
from glip_export.runtime.cuda.library import Library, why_not_loaded
from glip_export.trt.engine_set import Engine, EngineSet

GPU = "NVIDIA B (compute capability 7.5)"
FOR = "but for compute capability 8.6, 8.9, 12.0 and 12.1"


@pytest.fixture
def engines(tmp_path: Path) -> EngineSet:
    (tmp_path / "text_encoder.engine").write_bytes(b"engine" * 100)
    engine = Engine("text_encoder.engine", "", 600, 1.0, "", [], [], [], {})
    graphs = {"text_encoder": engine}
    return EngineSet(tmp_path, "tensorrt_rtx", "1.7.1", "fp16", "plugin", "plugin", {}, "", graphs)


@pytest.mark.parametrize(
    ("installed", "misfits", "built_on", "reason"),
    [
        ("1.8.0", [], None, "it was built with version 1.7.1"),
        ("1.8.0", ["VERSION_MISMATCH"], None, "it was built with version 1.7.1"),
        ("1.8.0", ["UNSUPPORTED_CC"], None, f"on {GPU} it was not built for this GPU, {FOR}"),
        ("1.7.1", ["OLD_CUDA_DRIVER", "NEWER_WORD"], None, f"on {GPU} the NVIDIA driver is too old for it; NEWER_WORD"),
        ("1.7.1", [], "NVIDIA A", f"it was built on NVIDIA A, this is {GPU}"),
        ("1.7.1", [], "NVIDIA B", "magicTag failed"),
        ("1.7.1", [], None, "magicTag failed"),
    ],
)
def test_why_an_engine_did_not_load(
    engines: EngineSet, installed: str, misfits: list[str], built_on: str | None, reason: str
) -> None:
    gpu = None if built_on is None else {"name": built_on, "compute_capability": "8.6"}
    assert why_not_loaded(replace(engines, gpu=gpu), installed, GPU, misfits, "magicTag failed") == reason


class FakeRtx:
    """The part of tensorrt_rtx that TensorRT lacks."""

    __version__ = "1.7.1"
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    EngineInvalidityDiagnostics = SimpleNamespace(__members__={"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2})

    class ILogger:
        INTERNAL_ERROR, ERROR = 0, 1

    def __init__(self, works: bool = True) -> None:
        self.configs: list[Any] = []
        self.works = works

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        def config() -> Any:
            made = SimpleNamespace(
                set_execution_context_allocation_strategy=lambda word: setattr(made, "allocation", word),
                create_runtime_cache=lambda: SimpleNamespace(
                    deserialize=lambda blob: setattr(made, "read", blob), serialize=lambda: b"kernels"
                ),
                set_runtime_cache=lambda cache: setattr(made, "cache", cache),
            )
            self.configs.append(made)
            return made

        engine = SimpleNamespace(create_runtime_config=config, create_execution_context=lambda config: config)
        return SimpleNamespace(
            deserialize_cuda_engine=lambda data: engine if self.works else None,
            get_engine_validity=lambda data: ("invalid", 2),
        )


def test_rtx_makes_its_graphs_itself_and_keeps_its_kernels(engines: EngineSet, tmp_path: Path) -> None:
    trt = FakeRtx()
    for turn in range(2):
        library = Library(trt, "tensorrt_rtx", tmp_path / "cache")  # type: ignore[arg-type]
        assert library.makes_graphs
        context = library.create_context(library.load("text_encoder", engines, GPU, "again"), "text_encoder")
        assert context is trt.configs[turn]
        assert context.allocation == "user managed" and context.cuda_graph_strategy == "whole"
        assert context.dynamic_shapes_kernel_specialization_strategy == "eager"
        assert getattr(context, "read", None) == (b"kernels" if turn else None)
        library.save_caches()
    assert (tmp_path / "cache" / "text_encoder.kernels").read_bytes() == b"kernels"


def test_a_cache_that_cannot_be_written_is_done_without(engines: EngineSet, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    for folder in (None, tmp_path / "cache"):
        library = Library(FakeRtx(), "tensorrt_rtx", folder)  # type: ignore[arg-type]
        library.load("text_encoder", engines, GPU, "again")
        library.save_caches()


def test_an_engine_for_other_gpus(engines: EngineSet) -> None:
    library = Library(FakeRtx(works=False), "tensorrt_rtx")  # type: ignore[arg-type]
    told = rf"RTX 1.7.1 cannot load .*: on NVIDIA B .* was not built for this GPU, {FOR}; build it again with: g"
    with pytest.raises(BackendError, match=told):
        library.load("text_encoder", engines, GPU, "glip-export trt b")


def test_the_installed_rtx_refuses_what_is_no_engine(engines: EngineSet) -> None:
    """The real package: it loads nothing without a GPU, but its logger, its runtime and its reasons are real."""
    pytest.importorskip("tensorrt_rtx")
    from glip_export.trt.flavor import load_flavor

    trt = load_flavor("tensorrt_rtx").module
    library = Library(trt, "tensorrt_rtx")
    same_version = replace(engines, version=trt.__version__)
    with pytest.raises(BackendError, match=r"cannot load .*text_encoder.engine: on .* the file is damaged; build it"):
        library.load("text_encoder", same_version, GPU, "again")
    assert library.makes_graphs and "magicTag" in library.last_errors()
