"""The client of `glip-export serve`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from glip_export.errors import BackendError, GlipExportError, ImageError, ServerError
from glip_export.hints import Hinter
from glip_export.image import Picture, load_image
from glip_export.names import Name
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections
from glip_export.serving.prompts import prompt_to_json

AT_ONCE = 4  # requests under way
BUSY_SECONDS = 60.0
_LONGEST_WAIT = 30.0  # seconds, whatever Retry-After says


class Client:
    """Detects with a server, as `Detector.detect` does here; also for several threads at once.

    Each picture is a request of its own: its answer is the Detector's for that picture alone.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout: float = 60.0,
        busy_seconds: float = BUSY_SECONDS,
        at_once: int = AT_ONCE,
    ) -> None:
        """url: such as http://127.0.0.1:8000. token: where the server asks for one. timeout: seconds for an answer.

        busy_seconds: how long to go on asking, in all, where a server is busy. Raises GlipExportError for what is no
        URL, BackendError if urllib3 is not installed.
        """
        try:
            import urllib3
        except ImportError as error:
            raise BackendError(f"the client cannot be imported ({error}): pip install 'glip-export[serve]'") from None
        try:
            host = urllib3.util.parse_url(url).host if url.startswith(("http://", "https://")) else None
        except urllib3.exceptions.LocationParseError:
            host = None
        if not host:
            raise GlipExportError(f"{url!r} is no server's address: give one such as http://127.0.0.1:8000")
        if "@" in url.partition("//")[2].partition("/")[0]:
            raise GlipExportError("a server's address takes no user and password: the token is what it asks for")
        self.url = url.rstrip("/")
        self._hinter = Hinter()
        self._busy_seconds = busy_seconds
        self._at_once = max(1, at_once)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._error = urllib3.exceptions.HTTPError
        self._pool = urllib3.PoolManager(maxsize=self._at_once, timeout=timeout, retries=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections."""
        self._pool.clear()

    def model(self) -> dict[str, Any]:
        """What the server runs, and its limits; raises ServerError."""
        return self._ask("GET", "/v1/model")

    def detect(
        self,
        images: Sequence[Picture],
        prompt: str | Sequence[Name] | Prompt,
        threshold: float = 0.0,
        *,
        cached: bool = False,
        deadline_ms: int | None = None,
    ) -> list[Detections]:
        """Detections of each picture, boxes in its own pixels, scores from threshold on, falling.

        images: anything that `load_image` takes; files are sent as they are. cached: name each picture by its hash
        first, and send it only if the server does not hold its features, for a picture asked about before. Raises
        ImageError and PromptError for what is not even sent, and ServerError for what the server refuses or
        does not answer.
        """
        if isinstance(images, (str, Path, bytes, np.ndarray)) or not isinstance(images, Sequence):
            raise GlipExportError("detect takes a list of pictures; give [picture] for a single one")
        parsed = Prompt.of(prompt)
        fields: dict[str, Any] = {"prompt": _words(prompt, parsed), "threshold": float(threshold)}
        self._hinter.tell(parsed, stacklevel=2)
        if deadline_ms is not None:
            fields["deadline_ms"] = int(deadline_ms)
        stop = threading.Event()

        def detect_one(image: Picture) -> Detections | None:
            if stop.is_set():  # another picture failed, and with it the whole call
                return None
            try:
                return self._detect(_encoded(image), fields, cached)
            except BaseException:
                stop.set()
                raise

        if len(images) <= 1 or self._at_once == 1:
            found = [detect_one(image) for image in images]
        else:
            with ThreadPoolExecutor(self._at_once) as pool:
                found = list(pool.map(detect_one, images))
        return [detections for detections in found if detections is not None]

    def _detect(self, picture: bytes, fields: dict[str, Any], cached: bool) -> Detections:
        if cached:
            try:
                key = hashlib.sha256(picture).hexdigest()
                answer = self._ask("POST", "/v1/detect", document={"images": [{"id": key}], **fields})
                return self._read(answer)
            except ServerError as error:
                if error.code != "unknown_image":
                    raise
        form: list[tuple[str, Any]] = [("image", ("image", picture, "application/octet-stream"))]
        for key, value in fields.items():
            form += _parts(key, value)
        return self._read(self._ask("POST", "/v1/detect", form))

    def _ask(
        self, method: str, path: str, form: list[tuple[str, Any]] | None = None, document: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """An answer's JSON; asks again while the server is busy. Raises ServerError."""
        give_up = time.monotonic() + self._busy_seconds
        while True:
            try:
                return self._request(method, path, form, document)
            except ServerError as error:
                wait = min(error.retry_after or 0.0, _LONGEST_WAIT)
                if error.status != 429 or not wait or time.monotonic() + wait > give_up:
                    raise
            time.sleep(wait)

    def _request(
        self, method: str, path: str, form: list[tuple[str, Any]] | None, document: dict[str, Any] | None
    ) -> dict[str, Any]:
        options: dict[str, Any] = {"headers": self._headers, "redirect": False}
        if form is not None:
            options["fields"] = form
        elif document is not None:
            options["headers"] = {**self._headers, "Content-Type": "application/json"}
            options["body"] = json.dumps(document).encode()
        try:
            response = self._pool.request(method, self.url + path, **options)
        except self._error as error:
            raise ServerError(f"{self.url} does not answer: {_one_line(error)}", "unreachable") from None
        try:
            answer = json.loads(response.data)
        except ValueError:
            answer = None
        if response.status == 200 and isinstance(answer, dict):
            return answer
        raise _server_error(self.url, response.status, response.headers.get("Retry-After", ""), answer)

    def _read(self, answer: dict[str, Any]) -> Detections:
        """The only result of an answer."""
        try:
            (result,) = answer["results"]
            found = result["detections"]
            return Detections(
                boxes=np.array([one["box"] for one in found], np.float32).reshape(-1, 4),
                scores=np.array([one["score"] for one in found], np.float32),
                labels=np.array([one["label"] for one in found], np.int64),
                classes=tuple(result["classes"]),
                image_size=(int(result["image"]["height"]), int(result["image"]["width"])),
            )
        except (KeyError, TypeError, ValueError):
            raise ServerError(f"{self.url} answered, and not as glip-export serve does", "unknown", 200) from None


def _server_error(url: str, status: int, retry_after: str, answer: Any) -> ServerError:
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("code"), str):
        return ServerError(f"{url} answered {status}, and not as glip-export serve does", "unknown", status)
    seconds = float(retry_after) if retry_after.isdecimal() else None
    return ServerError(f"{url}: {_one_line(error.get('message', ''))}", error["code"], status, seconds)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:400]


def _words(prompt: str | Sequence[Name] | Prompt, parsed: Prompt) -> Any:
    """A prompt as it is sent; raises PromptError for what a server does not take."""
    return prompt if isinstance(prompt, str) else prompt_to_json(parsed)


def _parts(key: str, value: Any) -> list[tuple[str, Any]]:
    """A field as parts of a form."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return [("name", name) for name in value]
    if isinstance(value, (list, dict)):
        return [(key, json.dumps(value))]
    if key == "prompt" and value.lstrip()[:1] in ("[", "{"):  # which a form might take for JSON
        return [("name", name) for name in Prompt.of(value).names]
    return [(key, str(value))]


def _encoded(image: Picture) -> bytes:
    """A picture's file as it is, or an array or PIL image as PNG; raises ImageError."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        try:
            return Path(image).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise ImageError(f"the picture {str(image)!r} cannot be opened: {reason}") from None
    if hasattr(image, "read"):
        return image.read()
    stream = io.BytesIO()
    Image.fromarray(load_image(image)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
