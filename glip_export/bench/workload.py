"""One backend at work: opened, run as users run it, timed stage by stage. It lives in a worker process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from glip_export.bench.job import PLAIN, TRIMMED, Job, precision_of
from glip_export.bench.memory import peak_rss_mb
from glip_export.bench.pictures import make_pictures, resize_to
from glip_export.bench.published_form import PublishedForm
from glip_export.bench.stages import account, count_calls
from glip_export.bench.timed_session import Call, RawDetections, TimedSession
from glip_export.bundle import BakedFile, Bundle
from glip_export.bundle.baked_file import is_baked
from glip_export.config import GlipConfig
from glip_export.errors import BackendError, visible
from glip_export.prompt import Prompt
from glip_export.runtime.backends import open_session
from glip_export.runtime.baked import open_baked
from glip_export.runtime.detector import Detector
from glip_export.runtime.multiscale import check_one_scale
from glip_export.runtime.session import Session


@dataclass(frozen=True)
class Run:
    """One timed run over the whole batch; the stages add up to total_ms."""

    total_ms: float
    stages: dict[str, float]  # milliseconds
    calls: dict[str, int]


@dataclass(frozen=True)
class GraphSizes:
    """How often a graph ran in one run with these sizes."""

    graph: str
    batch: int
    tokens: int
    classes: int
    calls: int


class Workload:
    """A Detector whose session is timed, and the pictures and prompts of a job."""

    def __init__(
        self,
        session: Session,
        config: GlipConfig,
        job: Job,
        static_size: tuple[int, int] | None = None,
        load_s: float = 0.0,
        precision: str = "fp32",
        baked: BakedFile | None = None,
    ) -> None:
        self.session = session if isinstance(session, TimedSession) else TimedSession(session)
        self.job = job
        self.load_s = load_s
        self.precision = precision
        self.load_peak_rss_mb = peak_rss_mb()
        self._config = replace(config, image=resize_to(config.image, job.image_size))
        self._static_size = static_size
        self._baked = baked
        self._around: Session = self.session
        self._pictures = make_pictures(job.batch, job.image_size)
        self._detector = self._new_detector()

    @classmethod
    def open(cls, job: Job, backend: str) -> Workload:
        """Opens the bundle on a backend; load_s is what a user waits, the backend's import included.

        Backend `torch` is the reference as published (T = 256), `torch:trimmed` the same on the real tokens. Raises
        GlipExportError where the bundle or the backend cannot be opened.
        """
        word = PLAIN if backend == TRIMMED else backend
        start = time.perf_counter()
        if is_baked(job.bundle):
            return cls._open_baked(job, backend, start)
        bundle = Bundle.open(job.bundle)
        check_one_scale(bundle.config, "glip-bench")
        opened = open_session(bundle, word, job.threads, None if job.weights is None else Path(job.weights))
        load_s = time.perf_counter() - start
        precision = precision_of(backend, getattr(opened, "precision", None), bundle.precision)
        workload = cls(opened, bundle.config, job, bundle.image_size, load_s, precision)
        if backend == PLAIN:
            workload.publish()
        return workload

    @classmethod
    def _open_baked(cls, job: Job, backend: str, start: float) -> Workload:
        file = BakedFile.open(job.bundle)
        asked = Prompt.of(list(job.names)).names
        if file.names != asked:
            raise BackendError(f"{file.path} holds {_some(file.names)}, and the prompt asks for {_some(asked)}")
        if file.takes_pixels or job.prompts_per_image > 1:
            raise BackendError(f"{file.path}: glip-bench gives a baked model pictures as networks take them, once each")
        opened = open_baked(file, backend, job.threads)
        load_s = time.perf_counter() - start
        precision = precision_of(backend, getattr(opened, "precision", None), file.precision)
        return cls(opened, file.config, job, file.image_size, load_s, precision, file)

    def publish(self) -> None:
        """From now on every caption is padded to MAX_QUERY_LEN, inside the Detector and around the clock."""
        self._around = PublishedForm(self.session, self._config.text.max_query_len)
        self._detector = self._new_detector()

    def run(self) -> Run:
        """The batch once through, prompts_per_image prompts each, as `Detector` runs them."""
        self.session.forget()
        start = time.perf_counter()
        self._detect()
        end = time.perf_counter()
        calls = self.session.calls
        return Run(1000 * (end - start), account(start, end, calls), count_calls(calls))

    def outcome(self) -> dict[str, Any]:
        """After the runs, for JSON: peak memory, the last run's sizes and its detections."""
        return {
            "load_peak_rss_mb": self.load_peak_rss_mb,
            "peak_rss_mb": peak_rss_mb(),
            "sizes": [asdict(sizes) for sizes in graph_sizes(self.session.calls)],
            "detections": [to_lists(raw) for raw in self.session.detections],
        }

    def count_with_torch(self) -> float:
        """10^9 multiply-adds a picture of one run of the batch, counted by torch itself. Only for backend torch."""
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        with counter:
            self._detect()
        return counter.get_total_flops() / 2 / self.job.batch / 1e9

    def _detect(self) -> None:
        if self._baked is not None:
            self._fresh().detect(self._pictures)
            return
        prompts = self.job.prompts()
        if len(prompts) == 1:
            self._fresh().detect(self._pictures, prompts[0])
            return
        detector = self._fresh()
        encoded = detector.encode_images(self._pictures)
        for prompt in prompts:
            detector.detect_encoded(encoded, prompt)
            detector = self._fresh()

    def _fresh(self) -> Detector:
        """The Detector that knows the prompts already or, for a cold text cache, a new one around the same session."""
        return self._detector if self.job.cached_text else self._new_detector()

    def _new_detector(self) -> Detector:
        on_gpu = self.job.gpu_preprocess and hasattr(self._around, "ready_pictures")
        return Detector(self._around, self._config, self._static_size, self._baked, gpu_preprocess=on_gpu)


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(map(visible, names[:3]))}{', ...' if len(names) > 3 else ''} ({len(names)})"


def graph_sizes(calls: list[Call]) -> Iterator[GraphSizes]:
    """The calls of one run, those of equal sizes together, in the order of their first."""
    counts = Counter((call.graph, call.batch, call.tokens, call.classes) for call in calls)
    for (graph, batch, tokens, classes), number in counts.items():
        yield GraphSizes(graph, batch, tokens, classes, number)


def to_lists(raw: RawDetections) -> dict[str, Any]:
    """For JSON; a float32 survives the trip exactly."""
    return {"boxes": raw.boxes.tolist(), "scores": raw.scores.tolist(), "labels": raw.labels.tolist()}
