"""The rows of one GLIP: the published form as users run it today, the folded modules, and the bundle's backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from published import device_kernels
from turns import Row, Stages
from work import STAGES, Work

from glip_export.model.glip import Glip
from glip_export.runtime.cuda.session import DeviceSession
from glip_export.runtime.session import Session
from glip_export.trt.launches import up

SESSION_WARM = 8  # a CUDA graph is made at the second run with the same memory, of which two or three take turns
PRECISIONS = {"fp32": ("ieee", None), "TF32": ("tf32", None), "fp16 autocast": ("tf32", torch.float16)}


def module_rows(model: Glip, work: Work) -> list[Row]:
    """The published form in fp32 with TF32 off and on and under fp16 autocast, and the folded one likewise.

    Published: T padded to MAX_QUERY_LEN, the caption encoded for every picture. Folded: real tokens, encoded once.
    Autocast leaves TF32 on for what stays in float32, as whoever wants it fast would; within a stage it keeps the casts
    of weights that may have gradients, as a loaded checkpoint's do.
    """
    return [
        _module_row(model, work, form, precision)
        for form, precision in (
            ("published", "fp32"),
            ("published", "TF32"),
            ("published", "fp16 autocast"),
            ("folded", "fp32"),
            ("folded", "fp16 autocast"),
        )
    ]


def session_row(name: str, session: Session, work: Work) -> Row:
    """A backend of the package as the Detector calls it: tokens in its steps, and features stay where it keeps them."""
    images = work.images if _takes_tensors(session, work) else work.images.cpu().numpy()
    unit = getattr(session, "shape_unit", 1)
    ids = work.padded_ids(up(work.tokens, unit) * unit)
    mask, maps, sizes = work.head_inputs(ids.shape[1])
    made: dict[str, Any] = {}

    def text() -> None:
        made["text"] = np.repeat(session.text_encoder(ids, mask[:1]), work.batch, axis=0)

    def backbone() -> None:
        made["features"] = session.vision_backbone(images)

    def head() -> Any:
        return session.fusion_head(made["features"], made["text"], mask, maps, sizes)[:3]

    def prepare() -> Stages:
        return list(zip(STAGES, (text, backbone, head), strict=True))

    def notes() -> dict[str, Any]:
        return {"session": session.describe()} if isinstance(session, DeviceSession) else {}

    precision = getattr(session, "precision", "fp32")
    facts = {"precision": precision, "tokens": ids.shape[1], "comparable": True}
    return Row(name, prepare, facts=facts, notes=notes, warm=SESSION_WARM)


def _module_row(model: Glip, work: Work, form: str, precision: str) -> Row:
    products, cast = PRECISIONS[precision]
    tokens = model.config.text.max_query_len if form == "published" else work.tokens

    @contextmanager
    def mode() -> Iterator[None]:
        model.fusion_head.fold(form == "folded")
        with ExitStack() as stack:
            stack.callback(model.fusion_head.fold, False)
            stack.enter_context(device_kernels())
            stack.enter_context(float32_products(products))
            stack.enter_context(torch.no_grad())  # as users write it
            yield

    def prepare() -> Stages:
        return [
            (name, _under_autocast(stage, work.images.device.type, cast))
            for name, stage in _module_stages(model, work, tokens, text_of_each=form == "published")
        ]

    facts = {"precision": "fp16" if cast else "fp32", "tokens": tokens, "comparable": True}
    return Row(f"{form}, {precision}", prepare, mode, facts)


def _module_stages(model: Glip, work: Work, tokens: int, text_of_each: bool) -> Stages:
    device = work.images.device
    mask, maps, sizes = (torch.from_numpy(array).to(device) for array in work.head_inputs(tokens))
    ids = torch.from_numpy(work.padded_ids(mask.shape[1])).to(device)
    captions = work.batch if text_of_each else 1
    ids = ids.repeat(captions, 1)
    made: dict[str, Any] = {}

    def text() -> None:
        made["text"] = model.text_encoder(ids, mask[:captions]).expand(work.batch, -1, -1)

    def backbone() -> None:
        made["features"] = model.vision_backbone(work.images)

    def head() -> Any:
        found = model.fusion_head(made["features"], made["text"], mask, maps, sizes)
        return tuple(tensor.cpu().numpy() for tensor in found[:3])

    return list(zip(STAGES, (text, backbone, head), strict=True))


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """How float32 is multiplied inside: "ieee", or "tf32" on tensor cores."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = precision
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def _under_autocast(stage: Callable[[], Any], device: str, dtype: torch.dtype | None) -> Callable[[], Any]:
    if dtype is None:
        return stage

    def run() -> Any:
        with torch.autocast(device, dtype):
            return stage()

    return run


def _takes_tensors(session: Session, work: Work) -> bool:
    return isinstance(session, DeviceSession) and work.images.is_cuda
