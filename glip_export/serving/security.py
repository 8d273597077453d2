"""The token that requests carry, and the headers that every answer has."""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from glip_export.errors import GlipExportError

TOKEN_VARIABLE = "GLIP_EXPORT_TOKEN"
MIN_TOKEN = 16  # characters

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


class SecurityHeaders:
    """ASGI middleware: HEADERS on every answer."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def read_token(file: Path | None) -> str | None:
    """The token of a file, or of the environment's GLIP_EXPORT_TOKEN, or None; raises GlipExportError."""
    if file is None:
        token, source = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
        if token is None:
            return None
    else:
        source = f"--token-file {file}"
        try:
            token = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise GlipExportError(f"{source} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    token = token.strip()
    if len(token) < MIN_TOKEN or not token.isascii() or any(character.isspace() for character in token):
        raise GlipExportError(f"{source} holds no token of {MIN_TOKEN} or more ASCII characters without a space")
    return token


def is_authorized(header: str | None, token: str | None) -> bool:
    """Whether an Authorization header bears the token; takes as long for a wrong one as for the right one."""
    if token is None:
        return True
    scheme, _, given = (header or "").partition(" ")
    return hmac.compare_digest(given.strip().encode(), token.encode()) and scheme.lower() == "bearer"
