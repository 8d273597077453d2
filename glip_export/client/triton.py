"""The client of a Triton server that has a repository of `glip-export triton`, over gRPC."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from glip_export.errors import BackendError, GlipExportError, ImageError, ServerError
from glip_export.hints import Hinter
from glip_export.image import Picture, load_image
from glip_export.names import Name
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections
from glip_export.serving.triton.prompts import write_prompt

AT_ONCE = 16  # requests under way
_CODES = ("bad_image", "bad_prompt", "internal")  # of our models; Triton itself has words, and gRPC a status
_WORDS = {
    "Exceeds maximum queue size": "busy",
    "is not healthy": "restarting",  # an instance died
    "has no available versions": "restarting",
    "Request timeout expired": "deadline",
    "StatusCode.DEADLINE_EXCEEDED": "deadline",
    "StatusCode.INVALID_ARGUMENT": "bad_request",
    "StatusCode.UNAVAILABLE": "unreachable",
}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 2.0  # seconds before asking again


class TritonClient:
    """Detects with a Triton server; also for several threads at once.

    Each picture is a request of its own, which the server makes batches of: its answer is the Detector's for that
    picture alone.
    """

    def __init__(self, url: str = "localhost:8001", model: str = "glip", timeout: float = 60) -> None:
        """url: host:port of the server's gRPC. timeout: seconds that a picture may take, with asking again where the
        server is busy or replaces an instance that died. Raises BackendError if tritonclient is not installed.
        """
        try:
            import tritonclient.grpc as grpc
        except ImportError as error:
            raise BackendError(
                f"the Triton client cannot be imported ({error}): pip install 'glip-export[triton]'"
            ) from error
        self.url = url
        self._grpc: Any = grpc
        self._model = model
        self._timeout = timeout
        self._hinter = Hinter()
        self._client = grpc.InferenceServerClient(url)

    def __enter__(self) -> TritonClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def is_ready(self) -> bool:
        """Whether the server can be reached and has the model loaded."""
        try:
            return bool(self._client.is_model_ready(self._model, client_timeout=self._timeout))
        except self._grpc.InferenceServerException:
            return False

    def detect(
        self, images: Sequence[Picture], prompt: str | Sequence[Name] | Prompt, threshold: float = 0.0
    ) -> list[Detections]:
        """Detections of each picture that score at least threshold, as `Detector.detect` gives for it alone.

        images: paths, bytes of a file, PIL images or uint8 arrays (H, W, 3). Raises ImageError and PromptError for
        what is not even sent, and ServerError for what the server refuses or does not answer.
        """
        if isinstance(images, (str, Path, bytes, np.ndarray)) or not isinstance(images, Sequence):
            raise GlipExportError("detect takes a list of pictures; give [picture] for a single one")
        parsed = Prompt.of(prompt)
        self._hinter.tell(parsed, stacklevel=2)
        text = write_prompt(parsed)
        with ThreadPoolExecutor(max_workers=max(1, min(AT_ONCE, len(images)))) as pool:
            answers = pool.map(lambda image: self._detect(image, text, threshold), images)
            return [_detections(answer, parsed.names) for answer in answers]

    def _detect(self, image: Picture, prompt: str, threshold: float) -> Any:
        inputs = [
            self._picture(image),
            self._input("prompt", np.array([[prompt.encode()]], np.object_), "BYTES"),
            self._input("threshold", np.array([[threshold]], np.float32), "FP32"),
        ]
        end, pause = time.monotonic() + self._timeout, _FIRST_PAUSE
        while True:
            try:
                return self._client.infer(self._model, inputs, client_timeout=max(end - time.monotonic(), 0.001))
            except self._grpc.InferenceServerException as error:
                told = self._told(error)
                if told.code not in ("busy", "restarting") or time.monotonic() + pause > end:
                    raise told from None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _picture(self, image: Picture) -> Any:
        """A file as it is; an array or a PIL image as pixels."""
        if isinstance(image, (str, os.PathLike)):
            try:
                image = Path(image).read_bytes()
            except OSError as error:
                raise ImageError(f"the picture {str(image)!r} cannot be read: {error.strerror or error}") from None
        if isinstance(image, (bytes, bytearray, memoryview)):
            return self._input("image", np.array([[bytes(image)]], np.object_), "BYTES")
        return self._input("pixels", load_image(image)[None], "UINT8")

    def _input(self, name: str, array: np.ndarray, kind: str) -> Any:
        tensor = self._grpc.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array)
        return tensor

    def _told(self, error: Any) -> ServerError:
        """What the server says."""
        message = " ".join(str(error.message()).split())[:400]
        code, colon, words = message.partition(": ")
        if colon and code in _CODES:
            return ServerError(f"{self.url}: {words}", code)
        found = f"{error.status()}: {message}"
        code = next((code for words, code in _WORDS.items() if words in found), "unknown")
        return ServerError(f"{self.url}: {message}", code)


def _detections(answer: Any, classes: tuple[str, ...]) -> Detections:
    count = int(answer.as_numpy("count")[0, 0])
    height, width = answer.as_numpy("image_size")[0].tolist()
    return Detections(
        boxes=answer.as_numpy("boxes")[0, :count],
        scores=answer.as_numpy("scores")[0, :count],
        labels=answer.as_numpy("labels")[0, :count],
        classes=classes,
        image_size=(height, width),
    )
