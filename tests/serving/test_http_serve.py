"""`glip-export serve` on the small model: its answers are the Detector's, its page and texts, its end."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from expected import difference
from PIL import Image
from raw_http import Reply, detect, form, request, send
from server_process import ServerProcess, running_server
from waiting import LIMIT, wait_until_gone

from glip_export import Detector
from glip_export.runtime.requests import image_key

PICTURES = Path(__file__).parents[2] / "glip_export" / "data" / "pictures"
PROMPTS = ("cat", "cat. remote control. a very long name of a thing", "person. dog")
PAGE = ("/", "/page.css", "/page.js", "/client.js", "/icon.svg")


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return Detector.open(tiny_bundle, "onnxruntime", threads=1)


def photo(name: str, size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.open(PICTURES / name).convert("RGB").resize(size).save(stream, "PNG")
    return stream.getvalue()


def ask(server: ServerProcess, *requests: bytes) -> list[Reply]:
    async def run() -> list[Reply]:
        return await asyncio.gather(*(send((server.host, server.port), data, LIMIT) for data in requests))

    return asyncio.run(run())


def get(server: ServerProcess, path: str) -> Reply:
    return ask(server, request(path, method="GET"))[0]


def assert_equal(reply: Reply, detector: Detector, pictures: list[bytes], prompt: str | list[str]) -> None:
    assert reply.status == 200, reply
    results = reply.json()["results"]
    assert [one["image"]["id"] for one in results] == [image_key(picture) for picture in pictures]
    for picture, result in zip(pictures, results, strict=True):
        (expected,) = detector.detect([picture], prompt)
        assert len(expected) > 0
        box, score = difference(expected, result)
        assert box <= 0.02 and score <= 1e-4


def test_many_at_once_are_each_the_detectors_own(server: ServerProcess, detector: Detector) -> None:
    pictures = [photo(name, size) for name in ("cat.jpg", "coffee.jpg") for size in ((96, 64), (64, 80))]
    asked = [(picture, prompt) for picture in pictures for prompt in PROMPTS]
    for (picture, prompt), reply in zip(asked, ask(server, *(detect(*one) for one in asked)), strict=True):
        assert_equal(reply, detector, [picture], prompt)


def test_a_picture_is_named_by_its_id_afterwards(server: ServerProcess, detector: Detector) -> None:
    pictures = [photo("coffee.jpg", (96, 72)), photo("astronaut.jpg", (64, 64))]
    (first,) = ask(server, request("/v1/detect", *form([*(("image", one) for one in pictures), ("prompt", b"cup")])))
    assert_equal(first, detector, pictures, "cup")
    assert first.json()["cached"] == [False, False]
    images = [{"id": image_key(pictures[1])}, {"data": base64.b64encode(pictures[0]).decode()}]
    body = json.dumps({"images": images, "prompt": ["a cup of coffee", "face"]}).encode()
    (again,) = ask(server, request(body=body, headers={"Content-Type": "application/json"}))
    assert_equal(again, detector, pictures[::-1], ["a cup of coffee", "face"])
    assert again.json()["cached"] == [True, True] and again.json()["timing_ms"]["image"] == 0
    assert again.json()["timing_ms"]["head"] > 0


def test_the_threshold(server: ServerProcess, detector: Detector) -> None:
    picture = photo("cat.jpg", (96, 64))
    scores = detector.detect([picture], "cat")[0].scores
    middle = round(float(np.median(scores)), 3) + 0.0005
    (reply,) = ask(
        server, request("/v1/detect", *form([("image", picture), ("prompt", b"cat"), ("threshold", b"%f" % middle)]))
    )
    assert len(reply.json()["results"][0]["detections"]) == (scores >= middle).sum()


def test_the_page(server: ServerProcess) -> None:
    for path in PAGE:
        reply = get(server, path)
        assert reply.status == 200 and reply.body, path
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert get(server, f"{path}/..").status == 404 or path == "/"
    types = {path: get(server, path).headers["content-type"].partition(";")[0] for path in PAGE}
    assert list(types.values()) == ["text/html", "text/css", "text/javascript", "text/javascript", "image/svg+xml"]
    for path in ("/settings.py", "/../app.py", "/page/index.html", "/%2e%2e/app.py"):
        assert get(server, path).status == 404


def test_the_schema(server: ServerProcess) -> None:
    schema = get(server, "/openapi.json").json()
    operation = schema["paths"]["/v1/detect"]["post"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert {"200", "400", "401", "404", "413", "415", "429", "504"} <= set(operation["responses"])
    assert get(server, "/docs").status == 404  # would load from another host


def test_what_it_runs(server: ServerProcess, detector: Detector) -> None:
    model = get(server, "/v1/model").json()
    assert (model["name"], model["backend"]) == (detector.config.name, "onnxruntime")
    assert model["max_pictures"] == 16 and model["deadline_ms"] == 600_000
    assert get(server, "/healthz").status == get(server, "/readyz").status == 200


def test_metrics(server: ServerProcess) -> None:
    def values() -> dict[str, float]:
        lines = get(server, "/metrics").body.decode().splitlines()
        return {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    before = values()
    ask(server, detect(photo("cat.jpg", (70, 64)), "cat"), detect(b"no picture", "cat"))
    after = values()
    assert after['glip_requests_total{code="200",path="/v1/detect"}'] >= 1
    assert after['glip_errors_total{error="bad_image"}'] - before.get('glip_errors_total{error="bad_image"}', 0) == 1
    for stage in ("upload", "prepare", "queue", "image", "text", "head", "total"):
        key = f'glip_stage_seconds_count{{stage="{stage}"}}'
        assert after[key] - before.get(key, 0) == 1
    assert after["glip_queue_pictures"] == 0 and after["glip_image_cache_bytes"] > 0


def test_sigterm_finishes_what_was_accepted(tiny_bundle: Path, detector: Detector) -> None:
    pictures = [photo("cat.jpg", (96, 64 + number)) for number in range(4)]
    with running_server(
        tiny_bundle, ["--backend", "onnxruntime", "--threads", "1", "--deadline-ms", "600000"]
    ) as server:
        replies: list[Reply] = []
        asking = threading.Thread(target=lambda: replies.extend(ask(server, *(detect(one, "cat") for one in pictures))))
        asking.start()
        while b"glip_queue_pictures 4.0" not in get(server, "/metrics").body:
            assert asking.is_alive()
        assert server.stop(LIMIT) == 0
        asking.join()
        for picture, reply in zip(pictures, replies, strict=True):
            assert_equal(reply, detector, [picture], "cat")
        assert re.search(r"Stopped; .*answered", server.read_log())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_service_leaves_no_process(tiny_bundle: Path) -> None:
    import psutil

    with running_server(tiny_bundle, ["--backend", "onnxruntime", "--threads", "1"]) as server:
        children = [child.pid for child in psutil.Process(server.process.pid).children(recursive=True)]
        server.process.kill()
        server.process.wait()
        wait_until_gone(children)
        with pytest.raises(OSError):
            get(server, "/healthz")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-bundle"], "no-such-bundle"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--max-queue", "3"], "--max-pictures"),
        (["--token-file", "missing"], "missing"),
        (["--allow-host", "http://glip"], "--allow-host 'http://glip' is no host name"),
    ],
)
def test_mistakes_are_one_line(tiny_bundle: Path, tmp_path: Path, words: list[str], message: str) -> None:
    bundle = [] if words[0] == "no-such-bundle" else [str(tiny_bundle)]
    command = [sys.executable, "-m", "glip_export.cli", "serve", *bundle, *words, "--port", "0"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr


def test_a_port_in_use(server: ServerProcess, tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "glip_export.cli", "serve", str(tiny_bundle), "--port", str(server.port)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2 and str(server.port) in done.stderr
