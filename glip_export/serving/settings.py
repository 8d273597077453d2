"""What a server accepts, and how it shares runs."""

from __future__ import annotations

from dataclasses import dataclass

from glip_export.errors import GlipExportError


@dataclass(frozen=True)
class Settings:
    """Limits of one server; each is an option of `glip-export serve`. Raises GlipExportError where they contradict."""

    max_bytes: int = 32_000_000  # of a request's body
    max_held_bytes: int = 256_000_000  # of all bodies being received or decoded
    max_pixels: int = 25_000_000  # of a picture
    max_pictures: int = 16  # a request
    max_names: int = 1500  # a prompt; LVIS has 1203
    max_characters: int = 50_000  # of a prompt, all names together
    max_header_bytes: int = 32_768
    max_queue: int = 64  # pictures accepted and not yet answered
    max_batch: int = 8  # pictures a run
    max_wait_ms: float = 5.0  # that a picture waits for others to share its run
    deadline_ms: int = 10_000  # the longest that a request may take once it is received, and the default
    upload_seconds: float = 30.0  # for a request's body, and for its headers
    cache_bytes: int = 256_000_000  # of pictures' features; one of GLIP-T at 800x1216 takes 21 MB

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (value == 0 and name not in ("max_wait_ms", "cache_bytes")):
                raise GlipExportError(f"{_option(name)} is {value:g}, which leaves nothing to serve")
        if self.max_pictures > self.max_queue:
            raise GlipExportError(
                f"--max-queue {self.max_queue} holds no request of --max-pictures {self.max_pictures} pictures"
            )
        if self.max_bytes > self.max_held_bytes:
            raise GlipExportError(
                f"--max-held-bytes {self.max_held_bytes} holds no request of --max-bytes {self.max_bytes}"
            )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
