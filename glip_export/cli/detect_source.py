"""Where `glip-export detect` has its detections from: a bundle here, or a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from glip_export.errors import GlipExportError
from glip_export.image import U8
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections

if TYPE_CHECKING:
    from glip_export.client import Client
    from glip_export.client.triton import TritonClient

TRITON = "grpc://"  # how the address of a Triton server begins


class Source(Protocol):
    """Detects in pictures that are given both as files and decoded."""

    @property
    def title(self) -> str:
        """For a person."""
        ...

    def describe(self) -> dict[str, str]:
        """For JSON."""
        ...

    def detect(self, files: Sequence[Path], pictures: Sequence[U8], prompt: Prompt) -> Iterator[list[Detections]]:
        """The detections, as many pictures at a time as they come."""
        ...


@dataclass(frozen=True)
class LocalSource:
    """A bundle on a backend of this machine; pictures of a batch are padded together."""

    bundle: Path
    backend: str
    batch_size: int | None = None
    chunk: int | None = None
    weights: str | None = None
    threads: int | None = None

    @property
    def title(self) -> str:
        """See `Source`."""
        return f"{self.bundle.resolve().name} on {self.backend}"

    def describe(self) -> dict[str, str]:
        """See `Source`."""
        return {"bundle": str(self.bundle), "backend": self.backend}

    def detect(self, files: Sequence[Path], pictures: Sequence[U8], prompt: Prompt) -> Iterator[list[Detections]]:
        """See `Source`."""
        from glip_export.runtime.detector import Detector

        detector = Detector.open(self.bundle, self.backend, self.threads, self.weights)
        size = self.batch_size or len(pictures)
        for start in range(0, len(pictures), size):
            yield detector.detect(pictures[start : start + size], prompt, chunk=self.chunk)


@dataclass(frozen=True)
class ServerSource:
    """A running `glip-export serve`, or a Triton server (grpc://), which answers each picture as if it were alone."""

    url: str
    token_file: Path | None = None

    @property
    def title(self) -> str:
        """See `Source`."""
        return self.url

    def describe(self) -> dict[str, str]:
        """See `Source`."""
        return {"server": self.url}

    def detect(self, files: Sequence[Path], pictures: Sequence[U8], prompt: Prompt) -> Iterator[list[Detections]]:
        """See `Source`."""
        with self._client() as client:
            for file in files:
                (found,) = client.detect([file], prompt)
                yield [found]

    def _client(self) -> Client | TritonClient:
        if self.url.startswith(TRITON):
            from glip_export.client.triton import TritonClient

            if self.token_file is not None:
                raise GlipExportError("--token-file is for a glip-export serve: a Triton server has no such token")
            return TritonClient(self.url.removeprefix(TRITON).rstrip("/"))
        from glip_export.client import Client
        from glip_export.serving.access_token import read_token

        return Client(self.url, read_token(self.token_file), at_once=1)


def check_only_local(given: Sequence[str]) -> None:
    """Raises GlipExportError where options of a local run were given for a server."""
    if given:
        raise GlipExportError(
            f"--{given[0].replace('_', '-')} is for a bundle on this machine: leave it or --server out"
        )
