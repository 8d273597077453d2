"""HTTP/1.1 that does not wait for ever for a request's headers, and whose refusals are read before it hangs up."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from glip_export.serving.answers import BAD_REQUEST

LINGER_SECONDS = 2.0
HEADER_SECONDS = 30.0


class PatientProtocol(H11Protocol):
    """uvicorn's protocol with a limit on the time that a request's headers take."""

    header_seconds = HEADER_SECONDS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._header_timer: asyncio.TimerHandle | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._is_refused:
            return
        super().data_received(data)
        self._watch_headers()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, or has too long headers, as the service answers its own errors."""
        self._refuse(400, f"{msg.rstrip('.')}: or its headers are too long")

    def _watch_headers(self) -> None:
        """Runs the timer while a request's headers are awaited or incomplete."""
        if self._is_refused:
            return
        in_request = self.cycle is not None and not self.cycle.response_complete
        if in_request:
            self._stop_watching()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(
                self.header_seconds, self._refuse, 408, f"no request within {self.header_seconds:g} s"
            )

    def _stop_watching(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _refuse(self, status: int, message: str) -> None:
        """Answers an error and goes on reading for a moment: closed at once, the client might not read it."""
        self._header_timer = None
        if self._is_refused or self.transport.is_closing():
            return
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # in the middle of an answer
            self.transport.close()
            return
        self._is_refused = True
        if self.cycle is not None and not self.cycle.response_complete:  # a body that is no HTTP: nothing more of it
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._unset_keepalive_if_required()
        body = json.dumps({"error": {"code": BAD_REQUEST, "message": message}}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
