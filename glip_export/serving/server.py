"""Running the service: its address, its signals, and an end that finishes what was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from glip_export.errors import GlipExportError
from glip_export.serving.protocol import PatientProtocol
from glip_export.serving.scheduler import Scheduler
from glip_export.serving.settings import Settings

KEEP_ALIVE_SECONDS = 5
CLOSE_SECONDS = 10  # for connections that stay open once all is answered


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises GlipExportError where that cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise GlipExportError(f"cannot listen on {host} port {port}: {reason}") from None


def address(listening: socket.socket) -> str:
    """The URL that reaches a listening socket from this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: FastAPI, scheduler: Scheduler, settings: Settings, listening: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT, then answers what was accepted, while new requests get 503, and returns.

    A second signal ends it at once.
    """
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # not a line for every malformed request
    make_server(app, scheduler, settings).run(sockets=[listening])


def make_server(app: FastAPI, scheduler: Scheduler, settings: Settings) -> GracefulServer:
    """uvicorn with the limits of settings; `run(sockets=[...])` serves."""
    config = uvicorn.Config(
        app,
        http=type("Protocol", (PatientProtocol,), {"header_seconds": settings.upload_seconds}),
        ws="none",
        h11_max_incomplete_event_size=settings.max_header_bytes,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSE_SECONDS,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    return GracefulServer(config, scheduler)


class GracefulServer(uvicorn.Server):
    """uvicorn's server, which first lets the scheduler finish, still answering, and only then closes."""

    def __init__(self, config: uvicorn.Config, scheduler: Scheduler) -> None:
        super().__init__(config)
        self._scheduler = scheduler
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but the process goes on to its own end instead of dying of the signal."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        def on_signal(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.stop)

        previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {
            number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """Finishes what was accepted and ends; called again, ends at once. From the event loop's thread."""
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        else:
            self.should_exit = self.force_exit = True

    async def _drain(self) -> None:
        await self._scheduler.drain()
        self.should_exit = True
