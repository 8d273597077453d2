"""The token that a server asks for: how both sides read it."""

from __future__ import annotations

import os
from pathlib import Path

from glip_export.errors import GlipExportError

TOKEN_VARIABLE = "GLIP_EXPORT_TOKEN"
MIN_TOKEN = 16  # characters


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
