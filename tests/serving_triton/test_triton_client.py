"""The client without a server: what it sends, how long it asks again, and what it says of errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from waiting import Clock

from glip_export.client import triton as module
from glip_export.client.triton import TritonClient
from glip_export.errors import GlipExportError, ImageError, PromptError, ServerError
from glip_export.prompt import Prompt


class Answer:
    """Two detections, the second of them padding."""

    def as_numpy(self, name: str) -> np.ndarray:
        return {
            "count": np.array([[1]]),
            "image_size": np.array([[30, 40]]),
            "boxes": np.array([[[1, 2, 3, 4], [0, 0, 0, 0]]], np.float32),
            "scores": np.array([[0.5, 0]], np.float32),
            "labels": np.array([[1, -1]]),
        }[name]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> TritonClient:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.002)
    return TritonClient("host:8001", timeout=5)


def answering(client: TritonClient, monkeypatch: pytest.MonkeyPatch, *answers: object) -> list[list[Any]]:
    """Has the server give these in turn, the last again and again; what was sent."""
    sent: list[list[Any]] = []

    def infer(model: str, inputs: list[Any], client_timeout: float) -> object:
        assert model == "glip" and 0 < client_timeout <= 5
        sent.append(inputs)
        answer = answers[min(len(sent), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(client._client, "infer", infer)
    return sent


def failure(message: str, status: str = "StatusCode.INTERNAL") -> Exception:
    return grpc.InferenceServerException(message, status=status)


def test_what_is_sent_and_read(client: TritonClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent = answering(client, monkeypatch, Answer())
    (tmp_path / "file.jpg").write_bytes(b"some bytes")
    array = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    for images in ([tmp_path / "file.jpg"], [b"some bytes"], [array]):
        (found,) = client.detect(images, ["cat", "U.S. flag"], threshold=0.25)
        assert found.names == ["U.S. flag"] and found.boxes.tolist() == [[1, 2, 3, 4]]
        assert found.image_size == (30, 40) and found.classes == ("cat", "U.S. flag")
    described = [[(one.name(), one.shape(), one.datatype()) for one in inputs] for inputs in sent]
    rest = [("prompt", [1, 1], "BYTES"), ("threshold", [1, 1], "FP32")]
    assert described == [
        [("image", [1, 1], "BYTES"), *rest],
        [("image", [1, 1], "BYTES"), *rest],
        [("pixels", [1, 3, 4, 3], "UINT8"), *rest],
    ]


@pytest.mark.parametrize(
    "message",
    ["Stub process 'glip_0_0' is not healthy.", "'glip' has no available versions", "Exceeds maximum queue size"],
)
def test_it_asks_again_for_what_passes(client: TritonClient, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    sent = answering(client, monkeypatch, failure(message), failure(message), Answer())
    assert len(client.detect([b"x"], "cat. dog")) == 1 and len(sent) == 3


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", Clock())
    client = TritonClient("host:8001", timeout=0.3)
    sent = answering(client, monkeypatch, failure("Stub process 'glip_0_0' is not healthy."))
    with pytest.raises(ServerError, match="host:8001: Stub process") as error:
        client.detect([b"x"], "cat")
    assert error.value.code == "restarting" and len(sent) == 2


@pytest.mark.parametrize(
    ("message", "status", "code", "told"),
    [
        ("bad_image: it is\nno picture", "StatusCode.INVALID_ARGUMENT", "bad_image", "host:8001: it is no picture"),
        ("bad_prompt: it is empty", "StatusCode.INVALID_ARGUMENT", "bad_prompt", "host:8001: it is empty"),
        ("internal: see its log", "StatusCode.INTERNAL", "internal", "host:8001: see its log"),
        ("batch-size must be <= 8", "StatusCode.INVALID_ARGUMENT", "bad_request", "host:8001: batch-size must be <= 8"),
        ("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED", "deadline", "host:8001: Deadline Exceeded"),
        ("failed to connect", "StatusCode.UNAVAILABLE", "unreachable", "host:8001: failed to connect"),
        ("[a: b] strange", "StatusCode.UNKNOWN", "unknown", "host:8001: [a: b] strange"),
    ],
)
def test_errors(client: TritonClient, monkeypatch: pytest.MonkeyPatch, message: str, status: str, code: str, told: str):
    sent = answering(client, monkeypatch, failure(message, status))
    with pytest.raises(ServerError) as error:
        client.detect([b"x"], "cat")
    assert (error.value.code, str(error.value)) == (code, told) and len(sent) == 1


def test_what_is_not_even_sent(client: TritonClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent = answering(client, monkeypatch, Answer())
    with pytest.raises(ImageError, match=r"nowhere\.jpg"):
        client.detect([tmp_path / "nowhere.jpg"], "cat")
    with pytest.raises(PromptError, match="empty"):
        client.detect([b"x"], " . ")
    with pytest.raises(PromptError, match="unscored"):
        client.detect([b"x"], Prompt(("cat",), unscored=("dog",)))
    with pytest.raises(GlipExportError, match="list of pictures"):
        client.detect(b"x", "cat")  # type: ignore[arg-type]
    assert sent == []
