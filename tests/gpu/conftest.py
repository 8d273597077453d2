"""What runs only on an NVIDIA GPU: marked `gpu`, skipped with the reason where something is missing.

With GLIP_REHEARSE_GPU=1 the same tests run without one, on the fake driver, with our kernels as C++ and the stand-in
for TensorRT: a rehearsal of the tests themselves, which `make test` is too.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from glip_export.errors import BackendError
from glip_export.runtime.cuda.driver import driver_module
from glip_export.trt.flavor import FLAVORS, INSTALL, TENSORRT, TENSORRT_RTX, find_gpu, is_installed
from glip_export.trt.gpus import rtx_refusal

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.parity.cases import Case
    from glip_export.runtime.cuda.driver import Driver
    from glip_export.runtime.cuda.session import DeviceSession

HERE = Path(__file__).parent
REHEARSAL = os.environ.get("GLIP_REHEARSE_GPU") == "1"
STAND_IN, TORCH = "stand-in", "torch:cuda"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if REHEARSAL:
        return
    reason = missing()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A table at the end: of each file, what passed, failed and was skipped, and why."""
    counts: dict[str, Counter[str]] = {}
    reasons: dict[str, set[str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            path = Path(report.nodeid.partition("::")[0])
            if path.parent.name != HERE.name:
                continue
            counts.setdefault(path.name, Counter())[outcome] += 1
            if outcome == "skipped" and isinstance(report.longrepr, tuple):
                reasons.setdefault(path.name, set()).add(report.longrepr[2].removeprefix("Skipped: "))
    if not counts:
        return
    terminalreporter.section("on the GPU" if not REHEARSAL else "a rehearsal without a GPU")
    for name, found in sorted(counts.items()):
        words = ", ".join(f"{number} {outcome}" for outcome, number in found.items())
        terminalreporter.write_line(f"{name:22} {words}")
        for reason in sorted(reasons.get(name, ())):
            terminalreporter.write_line(f"{'':22} - {reason}")


def missing() -> str:
    """What keeps every test here from running, or nothing."""
    if find_gpu() is None:
        return "no NVIDIA GPU or driver here"
    try:
        driver_module()
    except BackendError as error:
        return str(error)
    return ""


@pytest.fixture
def needs_gpu() -> None:
    """For what a rehearsal cannot do: a process of its own, another library's GPU arrays."""
    if REHEARSAL:
        pytest.skip("a rehearsal without a GPU")


@pytest.fixture(scope="session")
def driver(request: pytest.FixtureRequest) -> Driver:
    """The first GPU's driver."""
    if REHEARSAL:
        from runtime.cuda.fake_driver import FakeDriver
        from runtime.torch_cuda.host_device import use_host_kernels

        host = request.getfixturevalue("host")
        use_host_kernels(host)
        return FakeDriver(kernels=host)
    from glip_export.runtime.cuda.driver import CudaDriver

    return CudaDriver()


@pytest.fixture(scope="session", params=[*FLAVORS, STAND_IN, TORCH])
def library(request: pytest.FixtureRequest, driver: Driver) -> Iterator[str]:
    """Each TensorRT that is installed and has code for this GPU, the stand-in for one, and PyTorch."""
    word = request.param
    if word in FLAVORS:
        if REHEARSAL:
            pytest.skip("a rehearsal without a GPU")
        gpu = find_gpu()
        if word == TENSORRT_RTX and gpu is not None and (why_not := rtx_refusal(gpu)):
            pytest.skip(why_not)
        if not is_installed(word):
            pytest.skip(f"{word} is not installed: {INSTALL[word]}")
    if word == TORCH:
        torch = pytest.importorskip("torch")
        if not REHEARSAL and not torch.cuda.is_available():
            pytest.skip("this torch has no CUDA")
    with _stand_in(driver) if word == STAND_IN else nullcontext():
        yield word


@pytest.fixture(scope="session")
def flavor(library: str) -> str:
    """The flavor's name; the stand-in is a tensorrt."""
    if library == TORCH:
        pytest.skip("torch:cuda has no engines")
    return TENSORRT if library == STAND_IN else library


@pytest.fixture(scope="session")
def gpu_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small bundle, without engines."""
    folder = tmp_path_factory.mktemp("gpu") / "tiny"
    shutil.copytree(tiny_bundle, folder, ignore=shutil.ignore_patterns("cache"))
    return folder


@pytest.fixture(scope="session")
def engine_bundle(library: str, gpu_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another for each library, for engines are built into it."""
    return Path(shutil.copytree(gpu_bundle, tmp_path_factory.mktemp("engines") / "tiny"))


@pytest.fixture(scope="session")
def engines(engine_bundle: Path, library: str) -> Callable[..., Any]:
    """engines("fp16", nms="host") builds them; the same words again build nothing."""
    if library == TORCH:
        return lambda precision, **words: None
    if library == STAND_IN:
        from gpu.stand_in_build import build_stand_in

        return lambda precision, **words: build_stand_in(engine_bundle, precision, **words)
    from glip_export.trt.build import build_engines

    return lambda precision, **words: build_engines(engine_bundle, library, precision, **words)


@pytest.fixture(scope="session")
def open_bundle(engine_bundle: Path) -> Callable[[], Bundle]:
    """The bundle as it is now, with the engines built so far."""
    from glip_export.bundle import Bundle

    return lambda: Bundle.open(engine_bundle)


@pytest.fixture
def open_session(
    engines: Callable[..., Any], open_bundle: Callable[[], Bundle], library: str, driver: Driver
) -> Iterator[Callable[..., DeviceSession]]:
    """open_session("fp16", forms, stream=...) is a session on engines built when needed, closed after the test.

    forms: words of the engines' build, or of torch:cuda's session.
    """
    opened: list[DeviceSession] = []

    def open_it(precision: str = "fp32", forms: dict[str, Any] | None = None, **words: Any) -> DeviceSession:
        if REHEARSAL:
            words["driver"] = driver
        if library == TORCH:
            opened.append(_open_torch(open_bundle(), precision, **(forms or {}), **words))
        else:
            from glip_export.runtime.tensorrt_session import TensorRtSession

            engines(precision, **(forms or {}))
            flavor = TENSORRT if library == STAND_IN else library
            opened.append(TensorRtSession(open_bundle(), flavor, precision, **words))
        return opened[-1]

    yield open_it
    for session in opened:
        session.close()


@pytest.fixture(scope="session")
def reference(gpu_bundle: Path) -> Any:
    """ONNX Runtime on the CPU."""
    from glip_export.bundle import Bundle
    from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(Bundle.open(gpu_bundle), provider="cpu")


@pytest.fixture(scope="session")
def cases(gpu_bundle: Path) -> list[Case]:
    """One picture, one with padded tokens, two of different sizes, three: all of different shapes."""
    from glip_export.bundle import Bundle
    from glip_export.parity.cases import built_in_cases

    return built_in_cases(Bundle.open(gpu_bundle).config)


@pytest.fixture
def environment(library: str) -> dict[str, str]:
    """What a command is run with, to find this checkout and the library."""
    from gpu.stand_in_build import FOLDER

    paths = [str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    if library == STAND_IN:
        paths.insert(0, str(FOLDER))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _stand_in(driver: Driver) -> Any:
    from gpu.stand_in_build import stand_in

    return stand_in(driver if REHEARSAL else None)


def _open_torch(bundle: Bundle, precision: str, **words: Any) -> DeviceSession:
    from glip_export.runtime.torch_cuda.session import TorchCudaSession

    if REHEARSAL:
        from runtime.torch_cuda.host_device import HostStreams

        words["streams"] = HostStreams(words["driver"])
    return TorchCudaSession(bundle, precision, **words)
