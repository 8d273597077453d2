"""The torch backend: the reference model in its plain form. It needs the checkpoint, and the export extra."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from glip_export.bundle import Bundle
from glip_export.checkpoint import read_checkpoint, resolve_weights
from glip_export.errors import BackendError, GlipExportWarning
from glip_export.graphs.contracts import GRAPHS
from glip_export.model.glip import Glip, build_model
from glip_export.processes import is_forked_after
from glip_export.runtime.session import F32, I64, Pyramid


class TorchSession:
    """A GLIP in PyTorch behind the same three calls; see `Session` for shapes.

    In a process that was forked after torch was loaded it keeps to one thread, and says so (GlipExportWarning).
    """

    name = "torch"

    def __init__(self, model: Glip, threads: int | None = None) -> None:
        if not keep_to_one_thread(os.getpid()) and threads is not None:
            torch.set_num_threads(threads)
        self.model = model
        self._modules = {name: model.graph_module(name) for name in GRAPHS}

    def text_encoder(self, input_ids: I64, attention_mask: I64) -> F32:
        """See `Session`."""
        with _inference():
            return self._modules["text_encoder"](torch.from_numpy(input_ids), torch.from_numpy(attention_mask)).numpy()

    def vision_backbone(self, images: F32, *text: Any) -> tuple[F32, ...]:
        """See `Session`."""
        with _inference():
            outputs = self._modules["vision_backbone"](*(torch.from_numpy(array) for array in (images, *text)))
        return tuple(output.numpy() for output in outputs)

    def fusion_head(
        self, features: Pyramid, text_features: F32, attention_mask: I64, class_map: F32, image_sizes: I64
    ) -> tuple[F32, F32, I64, I64]:
        """See `Session`."""
        others = (text_features, attention_mask, class_map, image_sizes)
        with _inference():
            boxes, scores, labels, count = self._modules["fusion_head"](
                tuple(torch.from_numpy(level) for level in features), *(torch.from_numpy(array) for array in others)
            )
        return boxes.numpy(), scores.numpy(), labels.numpy(), count.numpy()


@lru_cache(maxsize=1)  # the warning, once a process
def keep_to_one_thread(pid: int) -> bool:
    """Whether torch has to run on one thread in this process (pid: its own), which it then does.

    The threads of OpenMP and of MKL are not there after a fork: a product that is shared among them never ends.
    """
    if not is_forked_after("torch"):
        return False
    torch.set_num_threads(1)
    warnings.warn(
        "this process was forked after torch was loaded, whose threads did not come along: it runs on one; for more, "
        "start workers with the 'spawn' method and open the Detector in them",
        GlipExportWarning,
        stacklevel=2,
    )
    return True


@contextmanager
def _inference() -> Iterator[None]:
    keep_to_one_thread(os.getpid())
    with torch.inference_mode():
        yield


def load_reference(bundle: Bundle, weights: Path | None = None) -> Glip:
    """The bundle's own model in PyTorch, from its checkpoint; the file must be the one the bundle was made from.

    Raises BackendError if the file is gone or another one.
    """
    keep_to_one_thread(os.getpid())
    path = weights or Path(bundle.weights.path)
    if weights is None and (not bundle.weights.path or not path.exists()):
        where = bundle.weights.path or "no file"
        raise BackendError(f"the torch backend needs the bundle's weights ({where}): say where they are with --weights")
    checkpoint = read_checkpoint(resolve_weights(path), bundle.weights.ema)
    if checkpoint.sha256 != bundle.weights.sha256:
        raise BackendError(f"{path} is not the file that {bundle.path} was made from: its SHA-256 differs")
    return build_model(bundle.config, checkpoint)
