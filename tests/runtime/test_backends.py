"""Backends by word: names, precisions, auto, and what a user is told when one cannot be had."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from glip_export.errors import BackendError
from glip_export.runtime import backends, onnxruntime_providers, tensorrt_session
from glip_export.runtime.backends import BACKENDS, automatic, available_backends, open_session
from glip_export.trt import flavor

BUNDLE = SimpleNamespace(path=Path("engines/tiny"))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Every backend replaced by one that notes how it was opened."""
    calls: list[tuple] = []
    for name, backend in list(backends._BACKENDS.items()):

        def note(bundle, threads, weights, precision, name=name):
            calls.append((name, threads, weights, precision))
            return SimpleNamespace(name=name)

        monkeypatch.setitem(
            backends._BACKENDS, name, backends._Backend(note, backend.usable, backend.package, backend.precisions)
        )
    return calls


def fail(name: str, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def raise_it(*_):
        raise error

    backend = backends._BACKENDS[name]
    monkeypatch.setitem(
        backends._BACKENDS, name, backends._Backend(raise_it, raise_it, backend.package, backend.precisions)
    )


def test_a_word_is_a_name_or_a_name_and_a_precision(opened: list[tuple]) -> None:
    words = ("torch", "onnxruntime", "openvino", "openvino:fp32", "openvino:bf16", "onnxruntime:cuda", "tensorrt:fp16")
    words += ("onnxruntime:cuda:fp16",)
    for word in (*words, "tensorrt_rtx"):
        open_session(BUNDLE, word, 2, Path("weights.pth"))
    assert opened == [
        ("torch", 2, Path("weights.pth"), ""),
        ("onnxruntime", 2, Path("weights.pth"), ""),
        ("openvino", 2, Path("weights.pth"), ""),
        ("openvino", 2, Path("weights.pth"), "fp32"),
        ("openvino", 2, Path("weights.pth"), "bf16"),
        ("onnxruntime", 2, Path("weights.pth"), "cuda"),
        ("tensorrt", 2, Path("weights.pth"), "fp16"),
        ("onnxruntime", 2, Path("weights.pth"), "cuda:fp16"),
        ("tensorrt_rtx", 2, Path("weights.pth"), ""),
    ]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("opnvino", "choose one of auto, torch, onnxruntime, openvino, tensorrt, tensorrt_rtx$"),
        ("auto:int8", "there is no backend 'auto'"),
        ("openvino:int8", "there is no backend 'openvino:int8': choose openvino, openvino:fp32, openvino:bf16"),
        ("openvino:", "there is no backend 'openvino:'"),
        (
            "onnxruntime:bf16",
            "there is no backend 'onnxruntime:bf16': choose onnxruntime, onnxruntime:cpu, "
            "onnxruntime:cuda, onnxruntime:cuda:fp32, onnxruntime:cuda:fp16, onnxruntime:tensorrt, onnxruntime:rtx$",
        ),
        ("tensorrt:int8", "there is no backend 'tensorrt:int8': choose tensorrt, tensorrt:fp16"),
        ("", "there is no backend ''"),
    ],
)
def test_unknown_words_are_told_with_what_there_is(opened: list[tuple], word: str, told: str) -> None:
    with pytest.raises(BackendError, match=told):
        open_session(BUNDLE, word)
    assert not opened


def test_auto_takes_what_is_fastest_first(opened: list[tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    order = ["tensorrt", "tensorrt_rtx", "onnxruntime:cuda", "torch:cuda:fp32", "openvino", "onnxruntime"]
    assert [word for word, _ in backends._FASTEST_FIRST] == order
    words = []
    for works in range(len(order)):
        told = tuple((word, lambda bundle, good=place >= works: good) for place, word in enumerate(order))
        monkeypatch.setattr(backends, "_FASTEST_FIRST", told)
        words.append(open_session(BUNDLE, "auto", 2).name)
    assert words == [word.partition(":")[0] for word in order]
    assert opened[2:4] == [("onnxruntime", 2, None, "cuda"), ("torch", 2, None, "cuda:fp32")]


def test_auto_passes_by_what_does_not_work(opened: list[tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    fail("openvino", monkeypatch, ImportError("No module named 'openvino'"))
    assert open_session(BUNDLE, "auto").name == "onnxruntime"
    fail("onnxruntime", monkeypatch, BackendError("cannot load the graph"))
    with pytest.raises(BackendError, match=r"engines/tiny here: .*glip-export\[openvino\].*; cannot load the graph"):
        open_session(BUNDLE, "auto")


def test_auto_says_what_it_takes_and_why(
    opened: list[tuple], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_gpu(monkeypatch)
    caplog.set_level(logging.INFO, "glip_export.runtime.backends")
    why = (
        "the fastest that is exact enough and works here; no engines for a GPU here; no CUDA in ONNX Runtime; "
        "no CUDA in PyTorch"
    )
    assert open_session(BUNDLE, "auto").name == "openvino"
    assert caplog.messages == [f"auto takes openvino: {why}"]
    assert automatic(BUNDLE) == ("openvino", why)
    monkeypatch.setattr(backends, "find_spec", lambda name: name != "openvino" or None)
    assert automatic(BUNDLE) == ("onnxruntime", f"{why}; no OpenVINO")
    caplog.clear()
    fail("openvino", monkeypatch, BackendError("OpenVINO cannot load the graph"))
    assert open_session(BUNDLE, "auto").name == "onnxruntime"
    assert caplog.messages == [f"auto takes onnxruntime: {why}; OpenVINO cannot load the graph"]


def test_auto_on_a_cpu_imports_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpu(monkeypatch)
    usable = backends._BACKENDS["torch"]
    fails = backends._Backend(usable.open, lambda bundle: pytest.fail("torch is imported"), "", usable.precisions)
    monkeypatch.setitem(backends._BACKENDS, "torch", fails)
    assert automatic(BUNDLE)[0] == "openvino"


@pytest.mark.parametrize(
    ("word", "works", "taken"),
    [
        ("auto:bf16", ("openvino:bf16",), "openvino:bf16"),
        ("auto:bf16", (), "openvino"),
        ("auto:bf16", ("openvino:bf16", "torch:cuda", "torch:cuda:fp32", "torch:cuda:bf16"), "torch:cuda:bf16"),
        ("auto:bf16", ("openvino:bf16", "onnxruntime:cuda"), "onnxruntime:cuda"),  # fp32 on a GPU is faster
        ("auto:fp16", ("openvino:bf16",), "openvino"),
        ("auto:fp16", ("tensorrt:fp16", "tensorrt_rtx:fp16"), "tensorrt:fp16"),
        ("auto", ("openvino:bf16",), "openvino"),  # nobody asked for less than fp32
    ],
)
def test_a_precision_may_be_asked_for(
    opened: list[tuple], monkeypatch: pytest.MonkeyPatch, word: str, works: tuple[str, ...], taken: str
) -> None:
    monkeypatch.setattr(flavor, "find_gpu", lambda: flavor.Gpu("a GPU", "8.9"))
    monkeypatch.setattr(backends, "_has_cuda", lambda bundle: "onnxruntime:cuda" in works)
    table = dict(backends._FASTEST_FIRST)
    table |= {"onnxruntime:cuda": backends._has_cuda, "tensorrt": lambda bundle: False}
    monkeypatch.setattr(backends, "_FASTEST_FIRST", tuple({**table, "tensorrt_rtx": lambda bundle: False}.items()))
    for name, backend in list(backends._BACKENDS.items()):
        offered = tuple(each.partition(":")[2] for each in works if each.partition(":")[0] == name)
        usable = backends._Backend(backend.open, lambda bundle, offered=offered: offered, "", backend.precisions)
        monkeypatch.setitem(backends._BACKENDS, name, usable)
    monkeypatch.setattr(backends, "find_spec", lambda name: True)
    assert automatic(BUNDLE, word)[0] == taken
    open_session(BUNDLE, word)
    name, _, precision = taken.partition(":")
    assert opened[-1][::3] == (name, precision)


def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavor, "find_gpu", lambda: None)
    monkeypatch.setattr(onnxruntime_providers, "find_gpu", lambda: None)
    monkeypatch.setattr(onnxruntime_providers.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])


@pytest.mark.parametrize("missing", ["nothing", "package", "cuda-python", "device", "engines"])
def test_tensorrt_is_for_bundles_with_engines_where_all_is_installed(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = None if missing == "device" else flavor.Gpu("a GPU", "8.6")
    bindings = None if missing == "cuda-python" else SimpleNamespace(driver=None)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(bindings=bindings))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setattr(flavor, "find_gpu", lambda: gpu)
    monkeypatch.setattr(flavor, "is_installed", lambda name: name == "tensorrt" and missing != "package")
    files = {} if missing == "engines" else {"tensorrt-fp16/engines.json": None, "tensorrt_rtx-fp32/engines.json": None}
    bundle = SimpleNamespace(path=Path("engines/tiny"), files=files)
    words = [word for word in available_backends(bundle) if word.startswith("tensorrt")]
    assert words == (["tensorrt:fp16"] if missing == "nothing" else [])
    worth_trying = dict(backends._FASTEST_FIRST)
    assert worth_trying["tensorrt"](bundle) is (missing == "nothing")
    assert not worth_trying["tensorrt_rtx"](bundle)


@pytest.mark.parametrize("compute_capability", ["7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "12.0", "13.0"])
@pytest.mark.parametrize("installed", [("tensorrt",), ("tensorrt_rtx",), ("tensorrt", "tensorrt_rtx")])
def test_auto_takes_no_library_that_lacks_code_for_the_gpu(
    opened: list[tuple], monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], compute_capability: str
) -> None:
    """A bundle with engines of both, all of ONNX Runtime's providers installed."""
    gpu = flavor.Gpu("a GPU", compute_capability)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(bindings=SimpleNamespace(driver=None)))
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(driver=None))
    monkeypatch.setattr(flavor, "find_gpu", lambda: gpu)
    monkeypatch.setattr(flavor, "is_installed", lambda name: name in installed)
    monkeypatch.setattr(onnxruntime_providers, "find_gpu", lambda: gpu)
    monkeypatch.setattr(onnxruntime_providers, "is_installed", lambda name: True)
    gpu_providers = ["CUDAExecutionProvider", "TensorrtExecutionProvider"]
    monkeypatch.setattr(onnxruntime_providers.onnxruntime, "get_available_providers", lambda: gpu_providers)
    monkeypatch.setattr(tensorrt_session, "named_targets", lambda *_: ())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    files = dict.fromkeys(("tensorrt-fp16/engines.json", "tensorrt_rtx-fp16/engines.json"))
    bundle = SimpleNamespace(path=Path("engines/tiny"), files=files)
    served_by_rtx = compute_capability in ("8.6", "8.9", "12.0")
    served_by_cuda = compute_capability not in ("10.0", "13.0")
    words = available_backends(bundle)
    assert ("tensorrt_rtx:fp16" in words) == (served_by_rtx and "tensorrt_rtx" in installed)
    assert ("onnxruntime:rtx" in words) == served_by_rtx
    assert ("onnxruntime:tensorrt" in words) == ("onnxruntime:cuda:fp16" in words) == served_by_cuda
    assert words.count("onnxruntime") == 1 and not {"onnxruntime:cuda", "onnxruntime:cuda:fp32"} & set(words)
    open_session(bundle, "auto")
    name, _, _, precision = opened[-1]
    if "tensorrt" in installed:
        assert name == "tensorrt"
    elif served_by_rtx:
        assert name == "tensorrt_rtx"
    else:
        assert (name, precision) == (("onnxruntime", "cuda") if served_by_cuda else ("openvino", ""))
    monkeypatch.setattr(tensorrt_session, "named_targets", lambda *_: ("7.5",))  # as the T4's own recipe has it
    words = available_backends(bundle)
    assert ("tensorrt_rtx:fp16" in words) == (compute_capability == "7.5" and "tensorrt_rtx" in installed)


@pytest.mark.parametrize(
    ("word", "extra"), [("openvino", "openvino"), ("openvino:bf16", "openvino"), ("torch", "export")]
)
def test_a_missing_package_is_told_with_its_extra(word: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = word.partition(":")[0]
    monkeypatch.setitem(sys.modules, name, None)  # so that importing it fails as if it were not installed
    monkeypatch.delitem(sys.modules, f"glip_export.runtime.{name}_session", raising=False)
    with pytest.raises(BackendError, match=rf"{name} cannot be imported \(.*\): pip install 'glip-export\[{extra}\]'"):
        open_session(BUNDLE, word)
    assert not any(word.startswith(name) for word in available_backends())


def test_available_backends_can_be_opened_by_their_words(opened: list[tuple]) -> None:
    words = available_backends()
    assert "onnxruntime" in words
    assert {word.partition(":")[0] for word in words} <= set(BACKENDS)
    for word in words:
        open_session(BUNDLE, word)
    assert len(opened) == len(words)


def test_onnxruntime_on_a_gpu_goes_through_the_host_without_cuda_python(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from glip_export.runtime import onnxruntime_cuda_session, onnxruntime_session
    from glip_export.runtime.cuda import driver

    opened_with: list[tuple] = []

    def note(kind: str, fails: bool = False):
        def open_it(bundle, threads, provider, **options):
            opened_with.append((kind, provider))
            if fails:
                raise BackendError("cannot load CUDA")
            return SimpleNamespace(name=kind)

        return open_it

    monkeypatch.setattr(onnxruntime_session, "OnnxRuntimeSession", note("host"))
    monkeypatch.setattr(onnxruntime_cuda_session, "OnnxRuntimeCudaSession", note("device"))
    monkeypatch.setattr(onnxruntime_providers, "has_cuda", lambda: True)
    caplog.set_level("INFO")
    monkeypatch.setitem(sys.modules, "cuda", None)
    assert [open_session(BUNDLE, f"onnxruntime:{word}").name for word in ("cuda", "cuda:fp16", "rtx")] == ["host"] * 3
    assert "features go through the host's memory: " in caplog.text
    monkeypatch.setattr(driver, "CudaDriver", SimpleNamespace)
    words = ("onnxruntime:cuda:fp16", "onnxruntime:tensorrt", "onnxruntime", "onnxruntime:rtx", "onnxruntime:cpu")
    assert [open_session(BUNDLE, word).name for word in words] == ["device"] * 3 + ["host"] * 2
    monkeypatch.setattr(onnxruntime_cuda_session, "OnnxRuntimeCudaSession", note("device", fails=True))
    opened_with.clear()
    assert open_session(BUNDLE, "onnxruntime").name == "host"  # which tries CUDA, then the CPU
    with pytest.raises(BackendError, match="cannot load CUDA"):
        open_session(BUNDLE, "onnxruntime:cuda")
    assert opened_with == [("device", "cuda"), ("host", ""), ("device", "cuda")]
