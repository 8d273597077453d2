"""Request bodies: received within a time, a size each and a size for all, or refused so that the client reads why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.requests import ClientDisconnect, Request

from glip_export.serving.answers import BAD_REQUEST, BUSY, TOO_LARGE, ServiceError
from glip_export.serving.settings import Settings

DISCARD_SECONDS = 2.0  # that a refused client may go on sending


class Uploads:
    """The bodies that a server holds at the moment."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.held_bytes = 0

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[bytes]:
        """The body, counted as held until the block ends; raises ServiceError, or ClientDisconnect."""
        most = self._settings.max_bytes
        if _declared(request) > most:
            raise ServiceError(TOO_LARGE, f"the body is larger than {most} bytes")
        parts: list[bytes] = []
        size = 0
        try:
            try:
                with anyio.fail_after(self._settings.upload_seconds):
                    async for part in request.stream():
                        size += len(part)
                        self.held_bytes += len(part)
                        if size > most:
                            raise ServiceError(TOO_LARGE, f"the body is larger than {most} bytes")
                        if self.held_bytes > self._settings.max_held_bytes:
                            raise ServiceError(BUSY, "too much is being sent at once; try again later", retry_after=1)
                        parts.append(part)
            except TimeoutError:
                seconds = self._settings.upload_seconds
                raise ServiceError(BAD_REQUEST, f"the body did not arrive within {seconds:g} s", status=408) from None
            body = b"".join(parts)
            parts.clear()
            yield body
        finally:
            self.held_bytes -= size

    async def discard(self, request: Request) -> None:
        """Reads on for a moment what a refused client sends: closed at once, it would not read the answer."""
        await discard(request, self._settings.max_bytes)


async def discard(request: Request, most: int) -> None:
    """Reads up to so many bytes of a request's body, for a moment, for nothing."""
    try:
        with anyio.move_on_after(DISCARD_SECONDS):
            async for part in request.stream():
                most -= len(part)
                if most < 0:
                    return
    except (ClientDisconnect, RuntimeError):  # RuntimeError: it was read to its end before
        return


def _declared(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0  # of a length that it can hold: h11 refuses longer ones
