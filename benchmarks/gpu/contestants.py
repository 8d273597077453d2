"""Models and sessions that the rows run, opened when first asked for and kept; one that does not open says why."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Any

import dino_row
import torch
from context import Context, SkippedError, fake_driver
from full_size import config_of, glip_bundle, glip_model, picture_size
from glip_rows import module_rows, session_row
from turns import Clock, EventClock, Row, WallClock, words
from work import Work, make_work

BUILD_SECONDS = 150  # what must be left of the step before TensorRT's engines are built
COMPILE_SECONDS = 90  # and before torch.compile starts


class Contestants:
    """Everything on one device, and one stream."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.config = config_of(context)
        self.stream: Any = None
        self._kept = ExitStack()
        if context.rehearsal:
            fake_driver()  # registers our kernels as C++
        else:
            self.stream = torch.cuda.Stream()
            torch.cuda.set_stream(self.stream)  # of PyTorch's rows and, below, of the sessions'

    @property
    def clock(self) -> Clock:
        """The device's."""
        return WallClock() if self.context.rehearsal else EventClock()

    def work(self, batch: int, prompt: str) -> Work:
        """A batch of the timed size."""
        return make_work(self.config, batch, picture_size(self.context), prompt, self.context.device)

    def modules(self, work: Work) -> list[Row]:
        """PyTorch's own, the published form first."""
        return module_rows(self.model, work)

    def dino(self, work: Work) -> list[Row]:
        """Grounding DINO-T's rows."""
        return dino_row.rows(self._dino, work)

    def backend(self, name: str, word: str, work: Work, **options: Any) -> Row:
        """A backend's row. Raises SkippedError where it does not open, with its reason."""
        return session_row(name, self.session(word, **options), work)

    @functools.cached_property
    def model(self) -> Any:
        """On the device; its weights may have gradients, as a loaded checkpoint's."""
        return self._on_host.requires_grad_(True).to(self.context.device)

    @functools.cached_property
    def bundle(self) -> Any:
        """Of the same weights."""
        self.context.output.mkdir(parents=True, exist_ok=True)
        return glip_bundle(self.context)

    @functools.cached_property
    def _on_host(self) -> Any:
        return glip_model(self.context)

    @functools.cached_property
    def _dino(self) -> Any:
        return dino_row.build(self.context.device, self.context.rehearsal)

    @functools.cache  # noqa: B019  # lives as long as the step's process
    def session(self, word: str, **options: Any) -> Any:
        """A backend's session, which stays open. Raises SkippedError where it does not open."""
        if word.startswith("tensorrt"):
            self._build(word)
        elif self.stream is not None:
            options["stream"] = self.stream
        return self._kept.enter_context(self.context.session(self.bundle, word, **options))

    def _build(self, word: str) -> None:
        """The engines of a TensorRT flavor, where the library is there and time is left."""
        from glip_export.trt.build import build_engines
        from glip_export.trt.flavor import INSTALL, TENSORRT_RTX, find_gpu, is_installed
        from glip_export.trt.gpus import rtx_refusal

        flavor, _, precision = word.partition(":")
        if (gpu := find_gpu()) is None:
            raise SkippedError(f"{flavor}: no NVIDIA GPU or driver here")
        if flavor == TENSORRT_RTX and (why_not := rtx_refusal(gpu)):
            raise SkippedError(why_not)
        if not is_installed(flavor):
            raise SkippedError(f"{flavor} is not installed: {INSTALL[flavor]}")
        if self.context.seconds_left < BUILD_SECONDS:
            raise SkippedError(f"{self.context.seconds_left:.0f} s are left, engines need {BUILD_SECONDS}")
        build_engines(self.bundle.path, flavor, precision)
        from glip_export import Bundle

        self.bundle = Bundle.open(self.bundle.path)


def opened(makers: list[tuple[str, Any]]) -> tuple[list[Row], dict[str, dict[str, Any]]]:
    """Rows of those that open, and why the others do not: {"skipped": why} or {"failed": why} by name."""
    rows: list[Row] = []
    others: dict[str, dict[str, Any]] = {}
    for name, make in makers:
        try:
            made = make()
        except SkippedError as error:
            others[name] = {"skipped": str(error)[:400]}
        except Exception as error:  # of whatever library
            others[name] = {"failed": words(error)}
        else:
            rows += made if isinstance(made, list) else [made]
    return rows, others
