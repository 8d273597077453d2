"""An HTTP service in a thread of the tests, over a model whose time and mistakes a test chooses."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import raw_http
from waiting import LIMIT, Clock, wait_until

from glip_export.errors import BackendError, ImageError
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections
from glip_export.runtime.image_cache import ImageCache
from glip_export.runtime.requests import Answer, DroppedError, PreparedImage, Request, image_key
from glip_export.serving import detection
from glip_export.serving import scheduler as scheduler_module
from glip_export.serving.app import make_app
from glip_export.serving.metrics import Metrics
from glip_export.serving.scheduler import Scheduler
from glip_export.serving.server import GracefulServer, address, listen, make_server
from glip_export.serving.settings import Settings

AMPLE_MS = 3_600_000  # a deadline that no test comes to


@dataclass
class FakeModel:
    """In place of a BatchDetector: takes `seconds` a picture, and finds one box that only that picture has.

    The picture b"break" raises an error that nobody expects, b"fail" the backend's; b"bad..." is no picture.
    """

    seconds: float = 0.0
    runs_in_turn: bool = True
    clock: Clock | None = None  # then only its runs take time, and only on this
    may_prepare: threading.Event = field(default_factory=threading.Event)
    may_run: threading.Event = field(default_factory=threading.Event)
    runs: list[list[str]] = field(default_factory=list)  # the keys of each run's pictures
    cache: ImageCache = field(default_factory=lambda: ImageCache(0))

    def __post_init__(self) -> None:
        self.may_run.set()
        self.may_prepare.set()
        text = SimpleNamespace(chunks=lambda prompt: prompt.chunks(64))
        self.detector = SimpleNamespace(
            chunks=text.chunks, config=SimpleNamespace(name="fake"), session=SimpleNamespace(name="fake")
        )

    def prepare(self, image: Any) -> PreparedImage:
        self.may_prepare.wait()
        if isinstance(image, np.ndarray):
            return PreparedImage("warm-up", image, image.shape[:2])
        if image.startswith(b"bad"):
            raise ImageError("the given bytes is not a picture that can be read")
        return PreparedImage(image_key(image), np.frombuffer(image, np.uint8).reshape(1, -1, 1), (10, 20))

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        self.may_run.wait()
        self.runs.append([])
        for index, request in enumerate(requests):
            if not request.wanted():
                yield index, Answer(DroppedError("dropped"))
                continue
            image = request.image
            assert isinstance(image, PreparedImage)
            self.runs[-1].append(image.key)
            (self.clock or time).sleep(self.seconds)
            content = image.pixels.tobytes()
            if content == b"break":
                raise RuntimeError("a secret of the server")
            if content == b"fail":
                yield index, Answer(BackendError("the graph of /secret/path failed"))
                continue
            names = Prompt.of(request.prompt).names
            found = Detections(
                np.array([box_of(image.key)], np.float32), np.array([0.9], np.float32), np.array([0]), names, (10, 20)
            )
            yield index, Answer(found, seconds={"image": self.seconds, "head": 0.0})


def box_of(key: str) -> list[float]:
    """The box that the fake model finds in a picture."""
    return [float(byte) for byte in bytes.fromhex(key)[:4]] if key != "warm-up" else [0.0] * 4


@dataclass
class Service:
    """A running one."""

    url: str
    model: FakeModel
    scheduler: Scheduler
    server: GracefulServer
    metrics: Metrics

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def ask(self, data: bytes | Sequence[bytes], timeout: float = LIMIT, pause: float = 0) -> raw_http.Reply:
        """One request, by hand."""
        return asyncio.run(raw_http.send(self.address, data, timeout, pause))

    def ask_all(self, requests: Sequence[bytes], timeout: float = LIMIT) -> list[raw_http.Reply]:
        """All at once."""

        async def run() -> list[raw_http.Reply]:
            return await asyncio.gather(*(raw_http.send(self.address, data, timeout) for data in requests))

        return asyncio.run(run())

    def value(self, name: str, **labels: str) -> float:
        """A metric's value now."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @contextmanager
    def held_until(self, condition: Callable[[], bool], held: threading.Event | None = None) -> Iterator[None]:
        """The model runs nothing in this block before the condition holds; held: what else than its running waits."""
        held = held or self.model.may_run
        held.clear()

        def release() -> None:
            try:
                wait_until(condition)
            finally:
                held.set()

        watching = threading.Thread(target=release)
        watching.start()
        try:
            yield
        finally:
            watching.join()

    def leave(self, data: bytes, condition: Callable[[], bool]) -> None:
        """Sends bytes and hangs up once the condition holds."""
        with socket.create_connection(self.address) as connection:
            connection.sendall(data)
            wait_until(condition)

    def is_reading(self) -> bool:
        """Whether it has a request's headers and waits for the rest."""
        return any(getattr(one, "cycle", None) for one in list(self.server.server_state.connections))


@contextmanager
def running_service(
    model: FakeModel | None = None, settings: Settings | None = None, token: str | None = None
) -> Iterator[Service]:
    """The service over a fake model at an address of its own."""
    model, settings, metrics = model or FakeModel(), settings or Settings(deadline_ms=AMPLE_MS), Metrics()
    with listen("127.0.0.1", 0) as listening, ExitStack() as stack:
        if model.clock is not None:
            for module in (detection, scheduler_module):
                stack.enter_context(mock.patch.object(module, "time", model.clock))
        scheduler = Scheduler(model, settings, metrics)  # type: ignore[arg-type]
        scheduler.start()
        model.runs.clear()
        server = make_server(make_app(scheduler, settings, token), scheduler, settings)
        url = address(listening)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Service(url, model, scheduler, server, metrics)
        finally:
            model.may_prepare.set()
            model.may_run.set()
            server.should_exit = True
            thread.join(LIMIT)
            assert not thread.is_alive(), "the server did not end"
