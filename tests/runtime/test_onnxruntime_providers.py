"""ONNX Runtime's providers: chosen by word, told when missing, and never the CPU in the place of a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.runtime import onnxruntime_providers, onnxruntime_session
from glip_export.runtime.onnxruntime_providers import configure, has_cuda, usable_providers
from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession
from glip_export.trt.flavor import Gpu

ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def bundle(tiny_copy: Path) -> Bundle:
    return Bundle.open(tiny_copy, verify=False)


@pytest.fixture
def broken() -> set[str]:
    """Providers that ONNX Runtime is to leave out, as it does where it cannot load one."""
    return set()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, broken: set[str]) -> list[Any]:
    """The providers each session was given, on a machine with onnxruntime-gpu and a GPU."""
    calls: list[Any] = []

    def open_it(path: str, options: Any, providers: Any, enable_fallback: bool) -> Any:
        assert not enable_fallback
        calls.append(providers)
        active = [name for name, _ in providers if name not in broken]
        return SimpleNamespace(get_providers=lambda: active)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime_providers, "find_gpu", lambda: Gpu("a GPU", "8.6"))
    monkeypatch.setattr(onnxruntime_session.onnxruntime, "InferenceSession", open_it)
    return calls


def test_here_it_is_the_cpu(bundle: Bundle) -> None:
    for word in ("", "cpu"):
        session = OnnxRuntimeSession(bundle, threads=1, provider=word)
        assert (session.name, session.provider) == ("onnxruntime", "cpu")


def test_cuda_is_taken_where_it_works(bundle: Bundle, opened: list[Any]) -> None:
    session = OnnxRuntimeSession(bundle)
    assert (session.name, session.provider) == ("onnxruntime:cuda", "cuda")
    assert opened[0] == [("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})]


def test_a_provider_that_does_not_load_is_an_error_where_it_was_asked_for(
    bundle: Bundle, opened: list[Any], broken: set[str]
) -> None:
    broken.add("CUDAExecutionProvider")
    with pytest.raises(BackendError, match=r"did not load its CUDAExecutionProvider; .*onnxruntime-gpu\[cuda,cudnn\]"):
        OnnxRuntimeSession(bundle, provider="cuda")
    session = OnnxRuntimeSession(bundle)  # nobody asked for CUDA
    assert (session.name, session.provider) == ("onnxruntime", "cpu")


def test_tensorrt_keeps_its_engines_in_the_bundle(bundle: Bundle, opened: list[Any]) -> None:
    session = OnnxRuntimeSession(bundle, provider="tensorrt")
    assert session.name == "onnxruntime:tensorrt"
    names, options = zip(*opened[0], strict=True)
    assert list(names) == ALL
    folder = Path(options[0]["trt_engine_cache_path"])
    assert folder.parent == (bundle.path / "cache" / "onnxruntime-tensorrt").resolve() and folder.is_dir()
    assert options[0]["trt_engine_cache_enable"] == "1"
    assert Bundle.open(bundle.path).files == bundle.files  # the cache is no part of it


def test_what_is_not_there_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"no CUDAExecutionProvider: pip uninstall onnxruntime, then pip install"):
        OnnxRuntimeSession(bundle, provider="cuda")
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    with pytest.raises(BackendError, match="pip install onnxruntime-ep-nv-tensorrt-rtx"):
        OnnxRuntimeSession(bundle, provider="rtx")


def test_rtx_is_loaded_into_the_plain_onnxruntime(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    registered = []
    plugin = SimpleNamespace(get_ep_name=lambda: "NvTensorRTRTXExecutionProvider", get_library_path=lambda: "ep.so")
    devices = [SimpleNamespace(ep_name=name) for name in ("CPUExecutionProvider", plugin.get_ep_name())]
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", plugin)
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda *words: registered.append(words))
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: devices)
    onnxruntime_providers._rtx_devices.cache_clear()
    given = []
    options = SimpleNamespace(add_provider_for_devices=lambda *words: given.append(words))
    try:
        for _ in range(2):
            assert configure("rtx", options, bundle) == []
    finally:
        onnxruntime_providers._rtx_devices.cache_clear()
    assert registered == [("NvTensorRTRTXExecutionProvider", "ep.so")]  # once a process
    assert given[0][0] == devices[1:]
    assert Path(given[0][1]["nv_runtime_cache_path"]).parent.name == "onnxruntime-rtx"


def test_usable_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL)
    monkeypatch.setattr(onnxruntime_providers, "find_gpu", lambda: None)
    assert usable_providers() == ("cpu",) and not has_cuda()
    monkeypatch.setattr(onnxruntime_providers, "find_gpu", lambda: Gpu("a GPU", "8.6"))
    monkeypatch.setattr(onnxruntime_providers, "is_installed", lambda name: True)
    assert usable_providers() == ("cpu", "cuda", "tensorrt", "rtx") and has_cuda()
    served = {
        "7.5": ("cuda", "tensorrt"),
        "8.0": ("cuda", "tensorrt"),
        "8.7": ("cuda", "tensorrt"),
        "8.9": ("cuda", "tensorrt", "rtx"),
        "9.0": ("cuda", "tensorrt"),
        "10.0": (),
        "12.0": ("cuda", "tensorrt", "rtx"),
        "13.0": (),
    }
    for compute_capability, words in served.items():
        gpu = Gpu("a GPU", compute_capability)
        monkeypatch.setattr(onnxruntime_providers, "find_gpu", lambda gpu=gpu: gpu)
        assert usable_providers() == ("cpu", *words), compute_capability
        assert has_cuda() == bool(words)
    monkeypatch.setattr(onnxruntime_providers, "find_gpu", lambda: Gpu("a GPU", "8.6"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL[2:])
    assert usable_providers() == ("cpu", "rtx") and not has_cuda()


def test_a_gpu_that_a_provider_does_not_serve_is_told(
    bundle: Bundle, opened: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def on(compute_capability: str) -> None:
        monkeypatch.setattr(onnxruntime_providers, "find_gpu", lambda: Gpu("this GPU", compute_capability))

    on("9.0")
    with pytest.raises(BackendError, match=r"^this GPU \(.* 9\.0\): .* no code for it: .* or torch:cuda$"):
        OnnxRuntimeSession(bundle, provider="rtx")
    assert OnnxRuntimeSession(bundle).name == "onnxruntime:cuda" and not caplog.records
    on("10.0")
    assert OnnxRuntimeSession(bundle, provider="cpu").name == "onnxruntime" and not caplog.records
    assert OnnxRuntimeSession(bundle, provider="cuda").name == "onnxruntime:cuda"  # somebody's own build
    assert [record.message for record in caplog.records] == [
        "this GPU (compute capability 10.0): the wheel onnxruntime-gpu has no machine code for it, only another build "
        "may: use --flavor tensorrt"
    ]
