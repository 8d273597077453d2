"""Engines for the stand-in (`stand_in/tensorrt`), put into a bundle by the real `build_engines`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from glip_export.config import config_from_dict
from glip_export.graphs.contracts import FUSION_HEAD, graphs_of
from glip_export.trt import build, flavor, plugins
from glip_export.trt.builder import Job
from glip_export.trt.engine_set import EngineSet
from glip_export.trt.gpus import Gpu

FOLDER = Path(__file__).parent / "stand_in"  # first on the path of a command, it is that command's tensorrt
NO_TARGET = "a fake GPU"  # what the fake driver says of itself


@contextmanager
def stand_in(host: Any = None) -> Iterator[Any]:
    """`import tensorrt` gives the stand-in inside; host: a FakeDriver, where there is no GPU."""
    sys.path.insert(0, str(FOLDER))
    _forget()
    try:
        import tensorrt
        from tensorrt import running

        running.Engine.host = host
        gpu = Gpu(NO_TARGET, "8.6") if host is not None else flavor.find_gpu()
        with patch.object(flavor, "find_gpu", lambda: gpu), patch.object(build, "find_gpu", lambda: gpu):
            yield tensorrt
    finally:
        sys.path.remove(str(FOLDER))
        _forget()


def build_stand_in(folder: Path, precision: str, **words: Any) -> EngineSet:
    """build_engines for flavor tensorrt, inside `stand_in`: only NVIDIA's builder is replaced."""
    with patch.object(build, "run_builder", _write):
        return build.build_engines(folder, "tensorrt", precision, **words)


def _write(job: Job, say: Callable[[str], None]) -> dict[str, Any]:
    say("building")
    spec = graphs_of(config_from_dict(job.config))[job.graph]
    words = {"graph": job.graph, "onnx": job.onnx, "config": job.config, "precision": job.precision}
    words |= {"nms": job.nms, "profiles": job.profiles}
    Path(job.engine).write_text(json.dumps(words))
    outputs = spec.output_names
    if job.nms == "host" and spec is FUSION_HEAD:
        outputs = ["candidate_boxes", "candidate_scores", "candidate_labels"]
    return {"inputs": spec.input_names, "outputs": outputs, "type_shares": {}, "seconds": 0.0}


def _forget() -> None:
    flavor.load_flavor.cache_clear()
    plugins._registered.pop("tensorrt", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]:
        del sys.modules[name]
