"""The HTTP service over a session on the GPU, which runs in a thread of the scheduler's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from near_ties import assert_same_detections

from glip_export import Detector
from glip_export.runtime.request_batch import BatchDetector
from glip_export.runtime.requests import Request

PROMPTS = ("cat. astronaut. cup", "rocket", "space suit. flag. helmet. saucer. spoon")


@pytest.fixture
def detector(open_session: Callable[..., Any], open_bundle: Callable[[], Any]) -> Detector:
    bundle = open_bundle()
    return Detector(open_session("fp32"), bundle.config, bundle.image_size)


@pytest.fixture
def pictures(cases: list[Any]) -> list[np.ndarray]:
    return [picture for case in cases[:3] for picture in case.pictures]


def test_requests_are_answered_as_alone(detector: Detector, pictures: list[np.ndarray]) -> None:
    batch = BatchDetector(detector, 3)
    asked = [(picture, prompt) for picture in pictures for prompt in PROMPTS]
    answers: dict[int, Any] = {}

    def work() -> None:
        answers.update(batch.answer([Request(*one) for one in asked]))

    thread = threading.Thread(target=work)  # not the one that opened the session
    thread.start()
    thread.join()
    assert sorted(answers) == list(range(len(asked)))
    for number, (picture, prompt) in enumerate(asked):
        assert_same(answers[number].result, detector.detect([picture], prompt)[0])


def test_over_http(detector: Detector, pictures: list[np.ndarray]) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    pytest.importorskip("urllib3")
    from glip_export.client.http import Client

    expected = {prompt: [detector.detect([picture], prompt)[0] for picture in pictures] for prompt in PROMPTS}
    with serving(detector) as url, Client(url) as client:
        for prompt in PROMPTS:
            for ours, theirs in zip(client.detect(pictures, prompt), expected[prompt], strict=True):
                assert_same(ours, theirs)


def assert_same(ours: Any, theirs: Any) -> None:
    """Other shapes, other sums: equal but for rounding."""
    assert_same_detections(ours, theirs, pixels=0.05, score=1e-4)


@contextmanager
def serving(detector: Detector) -> Iterator[str]:
    """What `glip-export serve` does, in threads."""
    from glip_export.serving.app import make_app
    from glip_export.serving.metrics import Metrics
    from glip_export.serving.scheduler import Scheduler
    from glip_export.serving.server import address, listen, make_server
    from glip_export.serving.settings import Settings

    settings = Settings(deadline_ms=600_000)
    with listen("127.0.0.1", 0) as listening:
        scheduler = Scheduler(BatchDetector(detector, settings.max_batch, settings.cache_bytes), settings, Metrics())
        scheduler.start()
        server = make_server(make_app(scheduler, settings), scheduler, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield address(listening)
        finally:
            server.should_exit = True
            thread.join()
