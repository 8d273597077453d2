"""A baked model on a backend: its session, and the prompt that it holds."""

from __future__ import annotations

from typing import cast

import numpy as np

from glip_export.bundle import BakedFile
from glip_export.errors import BackendError, GlipExportError, PromptError
from glip_export.processes import thread_count
from glip_export.prompt import Prompt, TokenizedChunk
from glip_export.runtime.backends import AUTO_WORDS
from glip_export.runtime.encoded import EncodedImages
from glip_export.runtime.session import F32, I64, GraphSession, Session
from glip_export.runtime.tokenized import Tokenized

BACKENDS = ("onnxruntime", "onnxruntime:cpu", "onnxruntime:cuda", "openvino", "openvino:fp32", "openvino:bf16")


def open_baked(file: BakedFile, backend: str, threads: int | None = None) -> GraphSession:
    """The baked model's graph on one of BACKENDS, or with auto on the fastest in fp32 that works on a CPU.

    Raises BackendError for any other backend, or one that cannot run here.
    """
    threads = thread_count(threads, stacklevel=3)  # the caller of Detector.open
    name, _, word = backend.partition(":")
    if backend in AUTO_WORDS:
        problems = []
        for chosen in [*([f"openvino:{word}"] if word else []), "openvino", "onnxruntime"]:
            try:
                return open_baked(file, chosen, threads)
            except BackendError as error:
                problems.append(str(error))
        raise BackendError(f"no backend can run {file.path} here: {'; '.join(problems)}")
    if backend not in BACKENDS:
        raise BackendError(f"{file.path} is a baked model, which {backend} does not run: choose {', '.join(BACKENDS)}")
    try:
        if name == "openvino" and file.precision == "fp16":
            raise BackendError(f"{file.path} is fp16, for GPUs: onnxruntime runs it, or bake it in fp32 for OpenVINO")
        if name == "openvino":
            from glip_export.runtime.openvino_session import OpenVinoSession

            return OpenVinoSession(file, threads, word or "fp32")
        from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession

        return OnnxRuntimeSession(file, threads, word)
    except ImportError as error:
        raise BackendError(f"{name} cannot be imported ({error}): pip install 'glip-export[{name}]'") from error


def run_baked(session: Session, file: BakedFile, encoded: EncodedImages) -> tuple[F32, F32, I64, I64]:
    """What the graph gives of pictures as it takes them: boxes in their pixels, scores, labels, count."""
    assert encoded.images is not None
    run = cast(GraphSession, session).baked  # or what times one
    given: dict[str, np.ndarray] = {"images": encoded.images, "image": encoded.images, "image_sizes": encoded.sizes}
    return run(*(given[name] for name in file.inputs))


def held_prompt(file: BakedFile) -> Tokenized:
    """The names of a baked model as a prompt of one caption, whose tokens are in the graph."""
    count = len(file.names)
    caption = file.metadata.get("glip.caption", "")
    return Tokenized(
        Prompt(file.names, wordless=True), (TokenizedChunk(caption, np.zeros(0, np.int64), ((),) * count, 0),)
    )


def check_unasked(prompt: object, chunk: int | None) -> None:
    """Raises where something is asked of a baked model: PromptError for a prompt, GlipExportError for a chunk."""
    if prompt is not None:
        raise PromptError("a baked model holds its vocabulary: detect without a prompt, or bake another with this one")
    if chunk is not None:
        raise GlipExportError("a baked model holds one caption: leave chunk out")
