"""The live page's files, read once."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
}
INDEX = "index.html"


@dataclass(frozen=True)
class PageFile:
    """One file and its media type."""

    content: bytes
    media_type: str


def read_page() -> dict[str, PageFile]:
    """By the path below the server's root; the page itself is at ""."""
    found = {
        entry.name: PageFile(entry.read_bytes(), _TYPES[suffix])
        for entry in (files("glip_export") / "serving" / "page").iterdir()
        if (suffix := entry.name[entry.name.rfind(".") :]) in _TYPES
    }
    return {"": found.pop(INDEX), **found}
