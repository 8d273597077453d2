"""The client of `glip-export serve`: the Detector's answers, patience with a busy server, errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from http_service import AMPLE_MS, FakeModel, box_of, running_service
from PIL import Image
from server_process import running_server

from glip_export import Detector
from glip_export.cli import detect as detect_command
from glip_export.cli.detect_output import Wanted
from glip_export.cli.detect_prompt import read_prompt
from glip_export.cli.detect_source import LocalSource, ServerSource
from glip_export.client import Client, ServerError
from glip_export.errors import GlipExportError, ImageError, PromptError
from glip_export.prompt import Prompt
from glip_export.runtime.image_cache import ImageCache
from glip_export.runtime.requests import image_key
from glip_export.serving.settings import Settings

PICTURES = Path(__file__).parents[2] / "glip_export" / "data" / "pictures"
TOKEN = "0123456789abcdef-token"


def test_its_answers_are_the_detectors_own(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cat.png"
    array = np.asarray(Image.open(PICTURES / "cat.jpg").convert("RGB").resize((96, 64)))
    Image.fromarray(array).save(file)
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    options = ["--backend", "onnxruntime", "--threads", "1", "--deadline-ms", "600000", "--token-file", str(token)]
    with running_server(tiny_bundle, options) as server:
        detector = Detector.open(tiny_bundle, "onnxruntime", threads=1)
        with Client(server.url, TOKEN) as client:
            assert client.model()["backend"] == "onnxruntime"
            for prompt in ("cat. remote control", ["cat"], Prompt.of("dog. cat")):
                (expected,) = detector.detect([array], prompt)
                pictures = [file, str(file), file.read_bytes(), array, Image.fromarray(array), file.open("rb")]
                for found in client.detect(pictures, prompt):
                    assert found.classes == expected.classes and found.image_size == (64, 96)
                    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.02)
                    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
                    np.testing.assert_array_equal(found.labels, expected.labels)
            middle = float(np.median(expected.scores)) + 1e-4
            assert (
                len(client.detect([array], Prompt.of("dog. cat"), threshold=middle)[0])
                == (expected.scores >= middle).sum()
            )
        with pytest.raises(ServerError, match="token") as refused:
            Client(server.url).model()
        assert (refused.value.code, refused.value.status) == ("unauthorized", 401)

        # On the command line: the same files, whichever has computed them.
        monkeypatch.setenv("GLIP_EXPORT_TOKEN", TOKEN)
        documents = []
        for name, source in (
            ("here", LocalSource(tiny_bundle, "onnxruntime", threads=1)),
            ("there", ServerSource(server.url)),
        ):
            detect_command.run(
                [file], read_prompt("cat. dog"), source, Wanted(0.5, tmp_path / name, tmp_path / f"{name}.json")
            )
            documents.append(json.loads((tmp_path / f"{name}.json").read_text()))
        here, there = documents
        assert there["server"] == server.url and here["backend"] == "onnxruntime"
        assert here["results"][0]["detections"] == there["results"][0]["detections"] != []
        drawn = [np.asarray(Image.open(tmp_path / name / "cat.png")) for name in ("here", "there")]
        np.testing.assert_array_equal(*drawn)


def test_many_pictures_keep_their_order() -> None:
    pictures = [b"photo %d" % number for number in range(30)]
    with running_service(FakeModel(seconds=0.001)) as service, Client(service.url, at_once=8) as client:
        found = client.detect(pictures, "cat")
        assert [one.boxes[0].tolist() for one in found] == [box_of(image_key(picture)) for picture in pictures]
        assert client.detect([], "cat") == []


def test_it_waits_for_a_busy_server() -> None:
    with running_service(FakeModel(), Settings(max_queue=1, max_pictures=1, deadline_ms=AMPLE_MS)) as service:

        def refusals() -> float:
            return service.value("glip_errors_total", error="busy")

        with service.held_until(lambda: refusals() >= 1), Client(service.url, at_once=2) as client:
            assert len(client.detect([b"one", b"two"], "cat")) == 2
        before = refusals()
        with (
            service.held_until(lambda: refusals() > before),
            Client(service.url, at_once=2, busy_seconds=0.1) as client,
            pytest.raises(ServerError) as refused,
        ):
            client.detect([b"three", b"four"], "cat")
        assert (refused.value.code, refused.value.status) == ("busy", 429) and refused.value.retry_after >= 1


def test_a_picture_that_the_server_holds_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_service(FakeModel(cache=ImageCache(100))) as service, Client(service.url) as client:
        sent: list[bool] = []
        request = client._request

        def counted(method, path, form, document):
            sent.append(form is not None)
            return request(method, path, form, document)

        monkeypatch.setattr(client, "_request", counted)
        client.detect([b"photo"], "cat", cached=True)
        assert sent == [False, True]  # the server does not know it yet
        client.detect([b"photo"], "cat")
        assert sent == [False, True, True]


@pytest.mark.parametrize(
    ("picture", "options", "code", "status"),
    [
        (b"bad", {}, "bad_image", 400),
        (b"break", {}, "internal", 500),
        (b"photo", {"deadline_ms": 100}, "deadline", 504),
    ],
)
def test_what_the_server_refuses(picture: bytes, options: dict, code: str, status: int) -> None:
    with running_service(FakeModel(seconds=0.3)) as service, Client(service.url) as client:
        with pytest.raises(ServerError) as refused:
            client.detect([picture], "cat", **options)
        assert (refused.value.code, refused.value.status) == (code, status)
        assert service.url in str(refused.value) and "\n" not in str(refused.value)


def test_mistakes_that_are_not_even_sent() -> None:
    client = Client("http://127.0.0.1:9")
    for images, prompt, error in (
        ([Path("no-such-file.jpg")], "cat", ImageError),
        ([np.zeros((9, 9, 3), np.float32)], "cat", ImageError),
        ([b"photo"], " . ", PromptError),
        ([b"photo"], Prompt(("cat",), unscored=("dog",)), PromptError),
        (b"photo", "cat", GlipExportError),
    ):
        with pytest.raises(error):
            client.detect(images, prompt)
    with pytest.raises(ServerError, match="does not answer") as refused:
        client.detect([b"photo"], "cat")
    assert refused.value.code == "unreachable"
    for url in (
        "127.0.0.1:8000",
        "ftp://server",
        "http://",
        "",
        "http://[::1",
        "http://h:99999",
        "http://a b",
        "http://\x1b",
    ):
        with pytest.raises(GlipExportError, match="address"):
            Client(url)


def test_the_client_needs_no_server_packages(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "for name in ('fastapi', 'starlette', 'uvicorn', 'pydantic', 'onnxruntime', 'torch'):\n"
        "    sys.modules[name] = None\n"
        "from glip_export.client import Client\n"
        "Client('http://127.0.0.1:9')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
