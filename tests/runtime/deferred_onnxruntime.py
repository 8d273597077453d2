"""ONNX Runtime's CPU in the place of its CUDA provider: runs wait on a fake driver's stream, and CUDA graphs are kept.

A session takes the providers of a GPU and says that it runs on them, but is the CPU's. A run that need not wait is put
on the stream, so that what is missing in its order shows as wrong numbers. With enable_cuda_graph a run of a new
gpu_graph_id is kept with its binding; a later run of the id is of that binding, whatever it is given, as a launch of a
graph reads and writes the addresses that it was captured with.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from runtime.cuda.fake_driver import FakeDriver

from glip_export.runtime import onnxruntime_providers
from glip_export.trt.flavor import Gpu

RealSession = onnxruntime.InferenceSession


class DeferredOnnxRuntime:
    """Makes sessions; `InferenceSession` takes the place of onnxruntime's."""

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver
        self.stream = 0  # that of the runs
        self.providers: list[list[Any]] = []  # of each session made
        self.paths: list[Path] = []
        self.graph_ids: Counter[str] = Counter()  # of all runs
        self.refuse_graphs = ""  # why no session with graphs can be made
        self.fail_capture = ""
        self.spoil_capture = False  # a graph that reads memory which is gone

    def __call__(self, path: str, options: Any, providers: list[Any], enable_fallback: bool) -> _Session:
        assert not enable_fallback
        self.providers.append(providers)
        self.paths.append(Path(path))
        if self.refuse_graphs and "enable_cuda_graph" in providers[0][1]:
            raise RuntimeError(self.refuse_graphs)
        return _Session(self, RealSession(path, options, providers=["CPUExecutionProvider"]), providers)


class _Session:
    def __init__(self, runtime: DeferredOnnxRuntime, real: Any, providers: list[Any]) -> None:
        self._runtime = runtime
        self._real = real
        self._providers = [name for name, _ in providers]
        self._makes_graphs = providers[0][1].get("enable_cuda_graph") == "1"
        self._graphs: dict[str, Any] = {}

    def get_providers(self) -> list[str]:
        return self._providers

    def get_provider_graph_assignment_info(self) -> Any:
        return self._real.get_provider_graph_assignment_info()

    def io_binding(self) -> Any:
        return self._real.io_binding()

    def run_with_ort_values(self, *words: Any) -> Any:
        return self._real.run_with_ort_values(*words)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        runtime, driver = self._runtime, self._runtime.driver
        stream = runtime.stream
        number = _entry(options, "gpu_graph_id")
        runtime.graph_ids[number] += 1
        if number and not self._makes_graphs:
            raise RuntimeError("a graph's id for a session without graphs")
        if self._makes_graphs and number != "-1":
            if number not in self._graphs and runtime.fail_capture:
                raise RuntimeError(runtime.fail_capture)
            spoilt = runtime.spoil_capture and number not in self._graphs
            binding = self._graphs.setdefault(number, binding)
            if spoilt:
                return
        driver.put(stream, partial(self._real.run_with_iobinding, binding))
        if _entry(options, "disable_synchronize_execution_providers") != "1":
            driver.synchronize(stream)


PROVIDERS = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def in_its_place(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> DeferredOnnxRuntime:
    """onnxruntime-gpu on a machine with a GPU; the CPU computes."""
    made = DeferredOnnxRuntime(driver)
    monkeypatch.setattr(onnxruntime, "InferenceSession", made)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime_providers, "find_gpu", lambda: Gpu("a GPU", "8.6"))
    return made


def _entry(options: Any, key: str) -> str:
    try:
        return options.get_run_config_entry(key) if options is not None else ""
    except Exception:  # onnxruntime's, where it was never set
        return ""
