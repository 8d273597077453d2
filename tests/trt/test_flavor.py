"""Which TensorRT is taken, what is said where there is none, and the parser's trap in TensorRT for RTX."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from glip_export.errors import BackendError
from glip_export.trt import flavor as flavor_module
from glip_export.trt.flavor import Gpu, choose_flavor, find_gpu, is_installed, load_flavor

GPU = Gpu("NVIDIA GeForce RTX 3060", "8.6")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretends that these packages are installed, and this GPU or none is there."""

    def pretend(*installed: str, gpu: Gpu | None = None) -> None:
        monkeypatch.setattr(flavor_module, "is_installed", lambda name: name in installed)
        monkeypatch.setattr(flavor_module, "find_gpu", lambda: gpu)

    return pretend


@pytest.mark.parametrize(
    ("installed", "gpu", "word", "chosen"),
    [
        (("tensorrt", "tensorrt_rtx"), GPU, "auto", "tensorrt"),
        (("tensorrt", "tensorrt_rtx"), None, "auto", "tensorrt_rtx"),
        (("tensorrt_rtx",), GPU, "auto", "tensorrt_rtx"),
        (("tensorrt",), GPU, "tensorrt", "tensorrt"),
        (("tensorrt", "tensorrt_rtx"), GPU, "tensorrt_rtx", "tensorrt_rtx"),
    ],
)
def test_the_flavor_that_is_chosen(machine, installed: tuple[str, ...], gpu: Gpu | None, word: str, chosen: str):
    machine(*installed, gpu=gpu)
    assert choose_flavor(word) == chosen


@pytest.mark.parametrize(
    ("installed", "word", "message"),
    [
        ((), "auto", "no TensorRT is installed: pip install tensorrt-rtx==1.7.1.116 builds engines even without a GPU"),
        (("tensorrt",), "auto", "no TensorRT is installed|needs the GPU"),  # there, but no GPU to build on
        ((), "tensorrt", "tensorrt is not installed: pip install tensorrt$"),
        ((), "tensorrt_rtx", r"tensorrt_rtx is not installed: pip install tensorrt-rtx==1\.7\.1\.116$"),
        (("tensorrt",), "tensorrt", "no GPU works here; --flavor tensorrt_rtx builds without one"),
        (("tensorrt",), "rtx", "there is no flavor 'rtx': choose auto, tensorrt, tensorrt_rtx"),
    ],
)
def test_what_is_said_where_there_is_none(machine, installed: tuple[str, ...], word: str, message: str) -> None:
    machine(*installed)
    with pytest.raises(BackendError, match=message) as caught:
        choose_flavor(word)
    assert "\n" not in str(caught.value)


H100, A100, T4 = Gpu("NVIDIA H100", "9.0"), Gpu("NVIDIA A100", "8.0"), Gpu("Tesla T4", "7.5")
BOTH = ("tensorrt", "tensorrt_rtx")


@pytest.mark.parametrize("compute_capability", ["7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "12.0", "13.0"])
def test_auto_takes_rtx_only_for_gpus_that_it_serves(machine, compute_capability: str) -> None:
    gpu = Gpu("a GPU", compute_capability)
    machine(*BOTH, gpu=gpu)
    assert choose_flavor() == "tensorrt"
    machine("tensorrt_rtx", gpu=gpu)
    if compute_capability in ("8.6", "8.9", "12.0"):
        assert choose_flavor() == "tensorrt_rtx"
    else:
        with pytest.raises(
            BackendError, match=rf"a GPU \(compute capability {compute_capability}\).* --flavor tensorrt"
        ):
            choose_flavor()


@pytest.mark.parametrize("installed", [BOTH, ("tensorrt_rtx",), ()])
@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        (
            H100,
            r"NVIDIA H100 \(compute capability 9\.0\): TensorRT for RTX has no code for it: use --flavor tensorrt, or "
            "backend onnxruntime:cuda or torch:cuda; to build for other GPUs name them, as compute_capabilities in "
            "--recipe$",
        ),
        (
            Gpu("Orin", "8.7"),
            "no code for it: use --flavor tensorrt with JetPack's TensorRT, or backend onnxruntime:cuda or torch:cuda;",
        ),
        (Gpu("NVIDIA B200", "10.0"), "no code for it: use --flavor tensorrt; to build"),
        (Gpu("Tesla V100", "7.0"), "no code for it: use a backend for CPUs; to build"),
        (T4, r"only with engines of a recipe that names it \(compute_capabilities: \[7\.5\]\): use --flavor tensorrt"),
    ],
)
def test_rtx_by_name_is_refused_where_its_engines_cannot_run(
    machine, installed: tuple[str, ...], gpu: Gpu, message: str
) -> None:
    """Before it is told to install what would not help."""
    machine(*installed, gpu=gpu)
    with pytest.raises(BackendError, match=message) as caught:
        choose_flavor("tensorrt_rtx")
    assert "\n" not in str(caught.value) and "pip install" not in str(caught.value)


def test_rtx_by_name_is_taken_for_an_a100_and_for_named_targets(machine) -> None:
    machine(*BOTH, gpu=A100)
    assert choose_flavor("tensorrt_rtx") == "tensorrt_rtx"
    machine("tensorrt_rtx", gpu=H100)
    assert choose_flavor("tensorrt_rtx", ("8.9",)) == choose_flavor("auto", ("8.9",)) == "tensorrt_rtx"
    with pytest.raises(BackendError, match=r"no code for it: .*; tensorrt is not installed: pip install tensorrt$"):
        choose_flavor("auto")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("__version__ = '8.6.1'", r"TensorRT 8\.6\.1 is too old, 10\.8 or later is needed: pip install tensorrt --up"),
        ("raise OSError('libnvinfer.so.10: cannot open')", "tensorrt cannot be imported .*libnvinfer.*: pip install"),
        ("import nothing_of_this_name", "tensorrt cannot be imported .*nothing_of_this_name"),
        ("", "tensorrt cannot be imported .*__version__"),
    ],
)
def test_a_broken_or_old_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    (tmp_path / "tensorrt.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(BackendError, match=message):
        load_flavor.__wrapped__("tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)


def test_tensorrt_from_10_8_on_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("__version__ = '11.0.0.114'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    loaded = load_flavor.__wrapped__("tensorrt")
    assert (loaded.name, loaded.version, loaded.module.__name__) == ("tensorrt", "11.0.0.114", "tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt")


class Driver:
    """libcuda with one device of compute capability 8.9, or one that fails in a call."""

    def __init__(self, failing: str = "", devices: int = 1) -> None:
        self.failing, self.devices = failing, devices

    def __getattr__(self, name: str):
        return lambda *arguments: 100 if name == self.failing else self._call(name, *arguments)

    def _call(self, name: str, *arguments) -> int:
        if name == "cuDeviceGetCount":
            arguments[0]._obj.value = self.devices
        if name == "cuDeviceGetName":
            arguments[0].value = b"NVIDIA L4"
        if name == "cuDeviceGetAttribute":
            arguments[0]._obj.value = {75: 8, 76: 9}[arguments[1]]
        return 0


def test_the_gpu_that_the_driver_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    def gpu_of(driver: Driver) -> Gpu | None:
        monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
        return find_gpu.__wrapped__()

    assert gpu_of(Driver()) == Gpu("NVIDIA L4", "8.9")
    assert gpu_of(Driver(devices=0)) is None
    for call in ("cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute"):
        assert gpu_of(Driver(failing=call)) is None

    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert find_gpu.__wrapped__() is None


PARSE_A_PLUGIN_NODE = """
from onnx import TensorProto, helper
from glip_export.trt.flavor import load_flavor
from glip_export.trt.plugins import register_plugins

trt = load_flavor("tensorrt_rtx").module
register_plugins(trt)
sizes = {"x": [1, 8, 4, 4], "offset": [1, 18, 4, 4], "mask": [1, 9, 4, 4]}
inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]
output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
node = helper.make_node("GlipDeformIm2Col", list(sizes), ["y"], domain="glip", stride=1)
opsets = [helper.make_opsetid("", 20), helper.make_opsetid("glip", 1)]
model = helper.make_model(helper.make_graph([node], "g", inputs, [output]), opset_imports=opsets, ir_version=10)
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
print(trt.OnnxParser(network, logger).parse(model.SerializeToString()), network.get_output(0).shape)
"""


@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_the_parser_of_rtx_lives_through_a_plugin_node() -> None:
    """In a process of its own: without the links it would end this one."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PARSE_A_PLUGIN_NODE)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "(1,", "72,", "16)"]
