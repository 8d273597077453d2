"""One graph to one engine, in a process of its own.

python -m glip_export.trt.builder; a `Job` as one line of JSON in; lines {"say": text} out, then {"engine": facts} or
{"error": text}. A parser or builder that crashes or runs out of memory takes only this process with it, all its memory
goes back when it ends, and no earlier import of TensorRT stands in the way (see `flavor`). It ends with its parent, and
when standard input closes.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glip_export.errors import BackendError, GlipExportError
from glip_export.processes import end_with_parent

Say = Callable[[str], None]
SAY_EVERY = 0.2  # seconds between two steps of a phase


@dataclass(frozen=True)
class Job:
    """What a builder is told; all plain values."""

    graph: str  # a name of GRAPHS, or that of a baked model
    onnx: str  # the bundle's fp32 file
    engine: str  # the file to write
    config: dict[str, Any]
    flavor: str
    precision: str
    deform_conv: str
    nms: str
    profiles: list[dict[str, dict[str, list[int]]]]
    options: dict[str, Any]  # Recipe.options
    timing_cache: str | None  # a file, read and written


def build(job: Job, say: Say) -> dict[str, Any]:
    """Writes the engine; {"inputs", "outputs", "type_shares", "seconds"}. Raises BackendError if TensorRT cannot."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=Path(job.engine).parent) as folder:
        path = Path(folder, "lowered.onnx")
        facts = _write_lowered(job, path, say)
        gc.collect()  # the weights are in the file now, and TensorRT needs the memory
        _build_engine(job, path, say)
    return {**facts, "seconds": round(time.perf_counter() - started, 1)}


def _write_lowered(job: Job, path: Path, say: Say) -> dict[str, Any]:
    import onnx_ir

    from glip_export.config import config_from_dict
    from glip_export.graphs.contracts import BAKED, FUSION_HEAD, graphs_of
    from glip_export.graphs.precision import typed
    from glip_export.graphs.type_shares import counted_axes, type_shares
    from glip_export.trt.lowering import FUSED, fuse_for_plugins, lower

    config = config_from_dict(job.config)
    model = onnx_ir.load(job.onnx)
    if job.graph == BAKED.name:  # in its precision already
        spec = BAKED
    else:
        spec = graphs_of(config)[job.graph]
        if job.deform_conv == FUSED and spec.name == FUSION_HEAD.name:
            fuse_for_plugins(model, job.precision)
        say(f"converting to {job.precision}")
        model = typed(model, spec, job.precision)
    shares = type_shares(model, counted_axes(config))
    say("lowering")
    model = lower(model, spec, config, deform_conv=job.deform_conv, nms=job.nms)
    onnx_ir.save(model, path, external_data=f"{path.name}.data")
    names = [[value.name for value in values] for values in (model.graph.inputs, model.graph.outputs)]
    return {"inputs": names[0], "outputs": names[1], "type_shares": asdict(shares)}


def _build_engine(job: Job, path: Path, say: Say) -> None:
    from glip_export.trt.flavor import TENSORRT, load_flavor
    from glip_export.trt.plugins import register_plugins

    trt = load_flavor(job.flavor).module
    register_plugins(trt)
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # TensorRT 11 knows no other network
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    say("reading")
    if not parser.parse_from_file(str(path)):
        raise BackendError(_parser_error(parser, logger))
    config = builder.create_builder_config()
    _set_options(trt, config, job)
    _add_profiles(builder, config, network, job.profiles)
    monitor = make_monitor(trt, say)  # TensorRT keeps no reference
    config.progress_monitor = monitor
    if job.timing_cache is not None and job.flavor == TENSORRT:  # RTX has none, and asks for a GPU if given one
        file = Path(job.timing_cache)
        config.set_timing_cache(config.create_timing_cache(file.read_bytes() if file.is_file() else b""), False)
    say("building")
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BackendError(logger.errors[-1] if logger.errors else "TensorRT gave no engine and no reason")
    with open(job.engine, "wb") as target:
        target.write(memoryview(engine))
    if job.timing_cache is not None and job.flavor == TENSORRT:
        from glip_export.bundle.files import atomic_write_bytes

        with suppress(GlipExportError):  # a full disk: the next build takes longer, this engine is done
            atomic_write_bytes(job.timing_cache, bytes(config.get_timing_cache().serialize()))


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps the errors, each on one line, and prints nothing."""

    class Quiet(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(text.split())[:600])

    return Quiet()


def make_monitor(trt: Any, say: Say) -> Any:
    """Tells TensorRT's phases, and the steps of long ones."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.told = 0.0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            now = time.monotonic()
            if now - self.told > SAY_EVERY:
                self.told = now
                say(f"{phase.lower()}, {step + 1} of {self.steps.get(phase, step + 1)}")
            return True  # go on

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()


def _parser_error(parser: Any, logger: Any) -> str:
    """The first error, with the node's name."""
    if parser.num_errors == 0:
        return logger.errors[-1] if logger.errors else "TensorRT's ONNX parser gave no reason"
    error = parser.get_error(0)
    words = " ".join(error.desc().split())[:400]
    name = getattr(error, "node_name", str)()
    return f"TensorRT cannot read the node {name} ({error.node_operator()}): {words}" if name else words


def _add_profiles(builder: Any, config: Any, network: Any, profiles: list[dict[str, dict[str, list[int]]]]) -> None:
    inputs = [network.get_input(place) for place in range(network.num_inputs)]
    dynamic = [tensor.name for tensor in inputs if -1 in tuple(tensor.shape)]
    for shapes in profiles if dynamic else ():
        profile = builder.create_optimization_profile()
        for name in dynamic:
            profile.set_shape(name, *(tuple(shapes[name][point]) for point in ("min", "opt", "max")))
        if config.add_optimization_profile(profile) < 0:
            raise BackendError(f"TensorRT refuses the recipe's shapes {shapes}")


def _set_options(trt: Any, config: Any, job: Job) -> None:
    """`options` has only what the flavor knows."""
    options = job.options
    if options["workspace_mb"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options["workspace_mb"] << 20)
    if options["optimization_level"] is not None:
        config.builder_optimization_level = options["optimization_level"]
    flags = {"refit": "REFIT", "strip_weights": "STRIP_PLAN", "version_compatible": "VERSION_COMPATIBLE"}
    for name, flag in flags.items():
        if options.get(name):
            config.set_flag(getattr(trt.BuilderFlag, flag))
    levels = {"same_compute_capability": "SAME_COMPUTE_CAPABILITY", "ampere_plus": "AMPERE_PLUS"}
    if options.get("hardware") in levels:
        level = levels[options["hardware"]]
        if not hasattr(trt.HardwareCompatibilityLevel, level):
            raise BackendError(f"this TensorRT has no hardware compatibility {options['hardware']}: update TensorRT")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    capabilities = options.get("compute_capabilities") or ()
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
    for place, capability in enumerate(capabilities):
        found = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}", None)
        if found is None or not config.set_compute_capability(found, place):
            known = [name for name in vars(trt.ComputeCapability) if name.startswith("SM")]
            raise BackendError(f"TensorRT for RTX cannot compile for {capability}, only for {', '.join(known)}")


def main() -> None:
    """Builds what standard input says; what libraries print goes to standard error."""
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = Job(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_the_input, daemon=True).start()

    def tell(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        tell(engine=build(job, lambda step: tell(say=step)))
    except GlipExportError as error:
        tell(error=str(error))
    except ImportError as error:
        tell(error=f"{error.name or error} is not installed: pip install 'glip-export[export]'")
    except KeyboardInterrupt:
        os._exit(130)  # the parent was interrupted and says so
    except Exception as error:
        traceback.print_exc()
        tell(error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _end_with_the_input() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
