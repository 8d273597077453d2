"""Where `glip-export detect` has its detections from: a bundle here, or a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from glip_export.cli.detect_inputs import Found
from glip_export.errors import GlipExportError, ImageError, ServerError
from glip_export.image import U8, load_image, load_resized, picture_name, resize
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections

if TYPE_CHECKING:
    from glip_export.client import Client
    from glip_export.client.triton import TritonClient
    from glip_export.runtime.detector import Detector

TRITON = "grpc://"  # how the address of a Triton server begins


SERVER_AT_ONCE = 4  # requests under way
BATCH_OF_FILES = 8  # pictures that are named one by one are one batch up to here
_REFUSED_PICTURE = ("bad_image", "too_large", "unsupported_type")  # codes of errors that only this picture has


@dataclass(frozen=True, eq=False)
class Loaded:
    """A picture that was read."""

    found: Found
    pixels: U8 | None = None  # (H, W, 3), where it is drawn
    resized: U8 | None = None  # (h, w, 3), the network's input of a local run at one scale
    size: tuple[int, int] = (0, 0)  # H, W


class OpenSource(Protocol):
    """A source that is ready for pictures."""

    def load(self, found: Found, keep: bool) -> Loaded:
        """Reads a picture, its pixels too if they are to be kept; raises ImageError. For any thread."""
        ...

    def detect(self, pictures: Sequence[Loaded]) -> list[Detections | ImageError]:
        """The detections of a batch, or in their place the error that a picture alone has."""
        ...


class Source(Protocol):
    """Where detections come from."""

    @property
    def title(self) -> str:
        """For a person."""
        ...

    def describe(self) -> dict[str, str]:
        """For JSON."""
        ...

    def at_once(self, pictures: int, folders: bool) -> int:
        """How many pictures it takes at once of so many; folders: whether some are of folders."""
        ...

    def opened(self, prompt: Prompt) -> AbstractContextManager[OpenSource]:
        """Ready for pictures."""
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
    class_agnostic_nms: bool = False
    gpu_preprocess: bool = False
    _taken: list[str] = field(default_factory=list, repr=False, compare=False)  # what auto took, once it is open

    @property
    def title(self) -> str:
        """See `Source`."""
        return f"{self.bundle.resolve().name} on {self._backend}"

    @property
    def _backend(self) -> str:
        return self._taken[-1] if self._taken else self.backend

    def describe(self) -> dict[str, str]:
        """See `Source`."""
        return {"bundle": str(self.bundle), "backend": self._backend}

    def at_once(self, pictures: int, folders: bool) -> int:
        """A few named pictures are one batch, as for `Detector.detect`; else each is alone, whatever stands beside it.

        Padding changes results, and an engine or a small machine may not hold a large batch.
        """
        if self.batch_size is not None:
            return self.batch_size
        return pictures if not folders and pictures <= BATCH_OF_FILES else 1

    @contextmanager
    def opened(self, prompt: Prompt) -> Iterator[OpenSource]:
        """See `Source`."""
        from glip_export.runtime.backends import AUTO_WORDS
        from glip_export.runtime.detector import Detector

        detector = Detector.open(
            self.bundle, self.backend, self.threads, self.weights, gpu_preprocess=self.gpu_preprocess
        )
        if self.backend in AUTO_WORDS:
            self._taken.append(detector.session.name)
        if detector.baked is None:
            detector.chunks(prompt, self.chunk)  # a prompt that cannot be used is told before any picture is read
        elif self.chunk is not None:
            raise GlipExportError("--chunk is for a bundle: a baked model holds one caption")
        yield _OpenBundle(detector, prompt, self.chunk, self.class_agnostic_nms)


@dataclass(frozen=True, eq=False)
class _OpenBundle:
    detector: Detector
    prompt: Prompt
    chunk: int | None
    class_agnostic_nms: bool

    @property
    def _takes_pixels(self) -> bool:
        baked = self.detector.baked
        return self.detector.config.detection.several_scales or (baked is not None and baked.takes_pixels)

    def load(self, found: Found, keep: bool) -> Loaded:
        """Decoded and resized, so that a picture that waits is small unless it is drawn or seen at several scales."""
        if self._takes_pixels:  # the picture as it is
            pixels = load_image(found.path)
            return Loaded(found, pixels, None, (pixels.shape[0], pixels.shape[1]))
        config, image_size = self.detector.config.image, self.detector.image_size
        if not keep:
            return Loaded(found, None, *load_resized(found.path, config, image_size))
        pixels = load_image(found.path)
        resized = resize(pixels, config, image_size, picture_name(found.path))
        return Loaded(found, pixels, resized, (pixels.shape[0], pixels.shape[1]))

    def detect(self, pictures: Sequence[Loaded]) -> list[Detections | ImageError]:
        """As `Detector.detect` does with the pictures as one batch."""
        detector = self.detector
        prompt = self.prompt if detector.baked is None else None
        if self._takes_pixels:
            given = [picture.pixels for picture in pictures if picture.pixels is not None]
            return list(detector.detect(given, prompt, chunk=self.chunk, class_agnostic_nms=self.class_agnostic_nms))
        resized = [picture.resized for picture in pictures if picture.resized is not None]
        sizes = [picture.size for picture in pictures]
        encoded = detector.encode_batch(detector.batch_of(resized, sizes))
        found = detector.detect_encoded(encoded, prompt, self.chunk)
        if self.class_agnostic_nms:
            found = [one.class_agnostic_nms(detector.config.detection.nms_threshold) for one in found]
        return list(found)


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

    def at_once(self, pictures: int, folders: bool) -> int:
        """As many requests at a time; each picture is alone in its own."""
        return SERVER_AT_ONCE

    @contextmanager
    def opened(self, prompt: Prompt) -> Iterator[OpenSource]:
        """See `Source`."""
        with self._client() as client, ThreadPoolExecutor(SERVER_AT_ONCE) as pool:
            yield _OpenServer(client, pool, prompt)

    def _client(self) -> Client | TritonClient:
        if self.url.startswith(TRITON):
            from glip_export.client.triton import TritonClient

            if self.token_file is not None:
                raise GlipExportError("--token-file is for a glip-export serve: a Triton server has no such token")
            address = self.url.removeprefix(TRITON).rstrip("/")
            if not address:
                raise GlipExportError(f"{self.url!r} is no server's address: give one such as grpc://localhost:8001")
            return TritonClient(address)
        from glip_export.client import Client
        from glip_export.serving.access_token import read_token

        return Client(self.url, read_token(self.token_file), at_once=SERVER_AT_ONCE)


@dataclass(frozen=True, eq=False)
class _OpenServer:
    client: Client | TritonClient
    pool: ThreadPoolExecutor
    prompt: Prompt

    def load(self, found: Found, keep: bool) -> Loaded:
        """Decoded only where it is drawn: the server is sent the file as it is."""
        return Loaded(found, load_image(found.path) if keep else None)

    def detect(self, pictures: Sequence[Loaded]) -> list[Detections | ImageError]:
        """Each picture in a request of its own."""
        return list(self.pool.map(self._detect_one, pictures))

    def _detect_one(self, picture: Loaded) -> Detections | ImageError:
        try:
            (found,) = self.client.detect([picture.found.path], self.prompt)
            return found
        except ImageError as error:
            return error
        except ServerError as error:
            if error.code not in _REFUSED_PICTURE:
                raise
            return ImageError(f"{str(picture.found.path)!r}: {error}")


def check_only_local(given: Sequence[str]) -> None:
    """Raises GlipExportError where options of a local run were given for a server."""
    if given:
        raise GlipExportError(
            f"--{given[0].replace('_', '-')} is for a bundle on this machine: leave it or --server out"
        )
