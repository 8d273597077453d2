"""What a step of the GPU run is given, and the file that each part of a step leaves: one JSON, written whole."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for _folder in (ROOT / "tests", ROOT):  # not installed: a machine without network runs the checkout
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

OK, FAILED, SKIPPED, CUT_OFF = "ok", "failed", "skipped", "cut off"
PACKAGES = ("torch", "triton", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "cuda-bindings")
STAND_IN = "stand-in"

Part = tuple[str, Callable[[], dict[str, Any]]]  # a name, and what measures it


class SkippedError(Exception):
    """A part that this machine cannot do; the text says why."""


class CutOffError(Exception):
    """A part whose time was over before it was done."""


class FailedError(Exception):
    """A part whose result is not what it should be; the result is kept beside the text."""

    def __init__(self, text: str, result: dict[str, Any]) -> None:
        super().__init__(text)
        self.result = result


@dataclass(frozen=True)
class Context:
    """One run: where its files are, what it runs on, and when it ends."""

    output: Path
    rehearsal: bool = False  # on a CPU: the fake driver, our kernels as C++, small sizes
    deadline: float = field(default_factory=lambda: time.time() + 480)  # seconds since the epoch
    parcel: Path = ROOT / "gpu-parcel"  # what was prepared where there is a network

    @property
    def device(self) -> str:
        """Of PyTorch's tensors."""
        return "cpu" if self.rehearsal else "cuda"

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.time()

    def file(self, step: str, part: str = "") -> Path:
        """Where a part's JSON is."""
        return self.output / f"{step}{f'--{part}' if part else ''}.json"

    def is_done(self, step: str, part: str) -> bool:
        """Whether an earlier start measured it, on the same card, and so that it need not be measured again."""
        found = read(self.file(step, part))
        if found is None or found["status"] != OK:
            return False
        return found["rehearsal"] == self.rehearsal and found["card"] == machine()["card"]

    def result(self, step: str, part: str = "") -> dict[str, Any] | None:
        """What a part measured, if it is there and went well."""
        found = read(self.file(step, part))
        return found["result"] if found is not None and found["status"] == OK else None

    @contextmanager
    def session(self, bundle: Any, word: str, **words: Any) -> Iterator[Any]:
        """A session of the backend; `stand-in` is the stand-in for TensorRT, with its engines built into the bundle.

        Raises SkippedError where the backend does not load, with its own words.
        """
        from glip_export.errors import GlipExportError

        with ExitStack() as stack:
            try:
                session = self._open(stack, bundle, word, words)
            except (GlipExportError, ImportError) as error:
                raise SkippedError(str(error)) from error
            yield session
            if hasattr(session, "close"):
                session.close()

    def _open(self, stack: ExitStack, bundle: Any, word: str, words: dict[str, Any]) -> Any:
        name, _, precision = word.partition(":")
        driver = fake_driver() if self.rehearsal else None
        if name == STAND_IN:
            from gpu.stand_in_build import build_stand_in, stand_in

            from glip_export.bundle import Bundle
            from glip_export.runtime.tensorrt_session import TensorRtSession

            stack.enter_context(stand_in(driver))
            build_stand_in(bundle.path, precision or "fp16")
            return TensorRtSession(Bundle.open(bundle.path), "tensorrt", precision or "fp16", driver=driver, **words)
        if word.startswith("torch:cuda"):
            from glip_export.runtime.torch_cuda.session import TorchCudaSession, options_of

            if self.rehearsal:
                from runtime.torch_cuda.host_device import HostStreams

                words = {**words, "driver": driver, "streams": HostStreams(driver)}
            return TorchCudaSession(bundle, **options_of(word.removeprefix("torch:cuda").removeprefix(":")), **words)
        if name == "onnxruntime" and precision.startswith("cuda") and words:
            from glip_export.runtime.onnxruntime_cuda_session import OnnxRuntimeCudaSession

            return OnnxRuntimeCudaSession(bundle, provider=precision, **words)
        from glip_export.runtime.backends import open_session

        return open_session(bundle, word)


def is_lower(backend: str) -> bool:
    """Whether the backend computes in half precision."""
    return not {"fp16", "bf16"}.isdisjoint(backend.split(":"))


def run_part(context: Context, step: str, part: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Measures one part and leaves its JSON; while it runs the JSON says that it was cut off."""
    started, begun = time.time(), time.perf_counter()
    facts = {"step": step, "part": part, "rehearsal": context.rehearsal, "started": round(started, 1), **machine()}
    path = context.file(step, part)
    write(path, {**facts, "status": CUT_OFF, "reason": "it did not end", "seconds": None, "result": None})
    status, reason, result = OK, "", None
    try:
        result = measure()
    except SkippedError as error:
        status, reason = SKIPPED, str(error)
    except (CutOffError, subprocess.TimeoutExpired) as error:
        status, reason = CUT_OFF, str(error)
    except FailedError as error:
        status, reason, result = FAILED, str(error), error.result
    except Exception as error:  # of whatever kind: the others go on
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        status, reason = FAILED, f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    seconds = round(time.perf_counter() - begun, 2)
    found = {**facts, "status": status, "reason": reason[:2000], "seconds": seconds, "result": result}
    write(path, found)
    return found


def write(path: Path, values: dict[str, Any]) -> None:
    """Whole or not at all."""
    from glip_export.bundle.files import atomic_write_bytes

    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, (json.dumps(_plain(values), indent=1, allow_nan=False) + "\n").encode())


def read(path: Path) -> dict[str, Any] | None:
    """A part's JSON; None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@cache
def machine() -> dict[str, Any]:
    """The card, its driver, the packages and the commit."""
    from glip_export.bundle import installed_versions

    return {
        "card": _smi("name") or "no NVIDIA GPU",
        "driver": _smi("driver_version"),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": installed_versions(*PACKAGES),
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
    }


@cache
def fake_driver() -> Any:
    """The tests' GPU on host memory, once a process, with our kernels as C++."""
    import tempfile

    from plugins.host_kernels import HostKernels, build, compiler
    from runtime.cuda.fake_driver import FakeDriver
    from runtime.torch_cuda.host_device import use_host_kernels

    if compiler() is None:
        raise SkippedError("no C++ compiler for the kernels' rehearsal: install g++, or name one in CXX")
    folder = tempfile.TemporaryDirectory(prefix="glip-kernels-")
    _kept.append(folder)
    build(library := Path(folder.name) / "libglip_host_kernels.so")
    host = HostKernels(library)
    use_host_kernels(host)
    return FakeDriver(kernels=host)


_kept: list[Any] = []  # a library's folder goes with it


def _smi(what: str) -> str:
    return _output("nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader").partition("\n")[0]


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _plain(value: Any) -> Any:
    """Values as JSON has them: NumPy's numbers and arrays too, and what is no number as its name."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
