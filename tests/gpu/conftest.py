"""What runs only on an NVIDIA GPU: marked `gpu`, skipped with the reason where something is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from glip_export.errors import BackendError
from glip_export.runtime.cuda.driver import driver_module
from glip_export.trt.flavor import FLAVORS, INSTALL, TENSORRT_RTX, find_gpu, is_installed
from glip_export.trt.gpus import rtx_refusal

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.parity.cases import Case
    from glip_export.runtime.cuda.driver import CudaDriver
    from glip_export.runtime.tensorrt_session import TensorRtSession
    from glip_export.trt.engine_set import EngineSet

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def missing() -> str:
    """What keeps every test here from running, or nothing."""
    if find_gpu() is None:
        return "no NVIDIA GPU or driver here"
    try:
        driver_module()
    except BackendError as error:
        return str(error)
    return ""


@pytest.fixture(scope="session")
def driver() -> CudaDriver:
    """The first GPU."""
    from glip_export.runtime.cuda.driver import CudaDriver

    return CudaDriver()


@pytest.fixture(scope="session", params=FLAVORS)
def flavor(request: pytest.FixtureRequest) -> str:
    """Each TensorRT that is installed, and has code for this GPU."""
    gpu = find_gpu()
    if request.param == TENSORRT_RTX and gpu is not None and (why_not := rtx_refusal(gpu)):
        pytest.skip(why_not)
    if not is_installed(request.param):
        pytest.skip(f"{request.param} is not installed: {INSTALL[request.param]}")
    return request.param


@pytest.fixture(scope="session")
def gpu_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small bundle, for engines are built into it."""
    folder = tmp_path_factory.mktemp("gpu") / "tiny"
    shutil.copytree(tiny_bundle, folder, ignore=shutil.ignore_patterns("cache"))
    return folder


@pytest.fixture(scope="session")
def engines(gpu_bundle: Path, flavor: str) -> Callable[..., EngineSet]:
    """engines("fp16", nms="host") builds them; the same words again build nothing."""
    from glip_export.trt.build import build_engines

    return lambda precision, **words: build_engines(gpu_bundle, flavor, precision, **words)


@pytest.fixture(scope="session")
def open_bundle(gpu_bundle: Path) -> Callable[[], Bundle]:
    """The bundle as it is now, with the engines built so far."""
    from glip_export.bundle import Bundle

    return lambda: Bundle.open(gpu_bundle)


@pytest.fixture
def open_session(
    engines: Callable[..., EngineSet], open_bundle: Callable[[], Bundle], flavor: str
) -> Iterator[Callable[..., TensorRtSession]]:
    """open_session("fp16", stream=...) is a session on engines built when needed, closed after the test."""
    from glip_export.runtime.tensorrt_session import TensorRtSession

    opened: list[TensorRtSession] = []

    def open_it(precision: str = "fp32", forms: dict[str, str] | None = None, **words: Any) -> TensorRtSession:
        engines(precision, **(forms or {}))
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
