"""The token that requests carry, whom they come from, and the headers that every answer has."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import Request

from glip_export.serving.answers import FORBIDDEN, TOO_LARGE, ServiceError, error_response
from glip_export.serving.hosts import Hosts
from glip_export.serving.uploads import discard

# The page's own files, pictures that it made, the camera; no other host, no inline script, no frame around it.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob: mediastream:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
)

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class Security:
    """ASGI middleware: HEADERS on every answer; 431 for a request with more than max_header_bytes of them, and 403 for
    one to a host that is not this server's, whatever its path. Of a refused body max_bytes are read, and forgotten.
    """

    def __init__(self, app: App, max_header_bytes: int, max_bytes: int, hosts: Hosts) -> None:
        self._app = app
        self._max_header_bytes = max_header_bytes
        self._max_bytes = max_bytes
        self._hosts = hosts

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        app = self._app
        size = sum(len(name) + len(value) for name, value in scope.get("headers", ()))
        if scope["type"] == "http" and size > self._max_header_bytes:  # what came at once, h11 does not limit
            message = f"the headers are larger than {self._max_header_bytes} bytes"
            app = error_response(ServiceError(TOO_LARGE, message, status=431))
        elif scope["type"] == "http" and (foreign := self._foreign_host(scope)) is not None:
            await discard(Request(scope, receive), self._max_bytes)
            message = f"this server is not called {foreign}: if it is, start it with --allow-host NAME"
            app = error_response(ServiceError(FORBIDDEN, message))
        await app(scope, receive, send_with_headers)

    def _foreign_host(self, scope: Message) -> str | None:
        """The Host that a request is for, quoted, if it is not this server."""
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        for host in given:
            if len(given) > 1 or not self._hosts.accepts(host):
                return repr(host if len(host) <= 60 else f"{host[:57]}...")
        return None


def is_authorized(header: str | None, token: str | None) -> bool:
    """Whether an Authorization header bears the token; takes as long for a wrong one as for the right one."""
    if token is None:
        return True
    scheme, _, given = (header or "").partition(" ")
    return hmac.compare_digest(given.strip().encode(), token.encode()) and scheme.lower() == "bearer"


def is_from_another_site(fetch_site: str | None) -> bool:
    """Whether a browser says, by Sec-Fetch-Site, that a page which is not the server's own sends the request.

    Such a page cannot read the answer, but could put work on a server that only its user can reach. Programs other
    than browsers do not send the header.
    """
    return fetch_site not in (None, "same-origin", "none")
