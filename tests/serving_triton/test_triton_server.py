"""A real tritonserver on the CPU: answers are the Detector's, mistakes stay their own, killed instances come back."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from same import assert_same
from triton_server import TritonServer, running, why_not
from waiting import LIMIT, wait_until, wait_until_gone

from glip_export import Detections, Detector
from glip_export.client.triton import TritonClient
from glip_export.errors import ServerError

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]

CAT = Path(__file__).parents[2] / "glip_export" / "data" / "pictures" / "cat.jpg"
GRACE = 2  # seconds


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with running(repository, log, "--model=glip", f"--grace={GRACE}", "--interval=0.1") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Iterator[TritonClient]:
    with TritonClient(server.url, timeout=LIMIT) as client:
        yield client


@pytest.fixture(scope="module")
def expected(detector: Detector, pictures: list[bytes], prompts: list) -> list[Detections]:
    return [
        detector.detect([picture], prompt)[0].above(0.05 * (i % 2))
        for i, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True))
    ]


def batches(server: TritonServer) -> tuple[int, int]:
    """(pictures, runs) by Triton's own statistics."""
    (model,) = json.loads(server.get("v2/models/glip/stats"))["model_stats"]
    return model["inference_count"], model["execution_count"]


def test_200_concurrent_requests_are_answered_as_alone(
    server: TritonServer, client: TritonClient, pictures: list[bytes], prompts: list, expected: list[Detections]
) -> None:
    assert client.is_ready() and len(server.stubs()) == 2
    before = batches(server)
    together = threading.Barrier(200)

    def ask(number: int) -> Detections:
        i = number % 20
        together.wait()
        return client.detect([pictures[i]], prompts[i], threshold=0.05 * (i % 2))[0]

    with ThreadPoolExecutor(200) as pool:
        found = list(pool.map(ask, range(200)))
    for number, detections in enumerate(found):
        assert_same(detections, expected[number % 20])
    inferences, executions = (after - then for after, then in zip(batches(server), before, strict=True))
    assert inferences == 200 and inferences / executions > 1.5


def test_a_list_of_pictures_of_any_kind(client: TritonClient, detector: Detector) -> None:
    image = Image.open(CAT).convert("RGB").resize((150, 100))
    kinds = [CAT, str(CAT), CAT.read_bytes(), image, np.asarray(image)]
    for picture, found in zip(kinds, client.detect(kinds, ["cat", "remote control"]), strict=True):
        assert_same(found, detector.detect([picture], ["cat", "remote control"])[0])
    assert client.detect([], "cat") == []
    (none,) = client.detect([CAT], "cat", threshold=1)
    assert len(none) == 0 and none.boxes.shape == (0, 4) and none.classes == ("cat",)


def test_mistakes_stay_their_own(client: TritonClient, pictures: list[bytes], detector: Detector) -> None:
    def ask(number: int) -> Detections | Exception:
        try:
            image = b"no picture" if number % 3 == 1 else pictures[0]
            # An empty prompt would be told by the client itself; this one's names are too long for the model.
            return client.detect([image], ["word " * 400] if number % 3 == 2 else "cat")[0]
        except Exception as error:
            return error

    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(ask, range(30)))
    (right,) = detector.detect([pictures[0]], "cat")
    for number, answer in enumerate(answers):
        if number % 3 == 0:
            assert isinstance(answer, Detections)
            assert_same(answer, right)
        else:
            code, words = [("bad_image", "not a picture"), ("bad_prompt", "tokens")][number % 3 - 1]
            assert isinstance(answer, ServerError) and answer.code == code and words in str(answer)


def test_rest_with_json(server: TritonServer, detector: Detector) -> None:
    """KServe's v2 protocol, with two pictures in one request: what pads the shorter answer says so."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), np.uint8)
    body = {
        "inputs": [
            {"name": "pixels", "datatype": "UINT8", "shape": [2, 40, 48, 3], "data": pixels.reshape(-1).tolist()},
            {"name": "prompt", "datatype": "BYTES", "shape": [2, 1], "data": ["cat. dog", '["cup"]']},
            {"name": "threshold", "datatype": "FP32", "shape": [2, 1], "data": [0, 0.99]},
        ]
    }
    url = f"http://127.0.0.1:{server.ports['http']}/v2/models/glip/infer"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=LIMIT) as answer:
        outputs = {output["name"]: output for output in json.load(answer)["outputs"]}
    (right,) = detector.detect([pixels[0]], "cat. dog")
    n = len(right)
    assert outputs["count"]["data"] == [n, 0] and outputs["image_size"]["data"] == [40, 48, 40, 48]
    assert outputs["boxes"]["shape"] == [2, n, 4] and outputs["names"]["data"] == right.names + [""] * n
    assert outputs["labels"]["data"] == right.labels.tolist() + [-1] * n
    np.testing.assert_allclose(outputs["scores"]["data"][:n], right.scores, atol=1e-4)


def test_what_triton_itself_refuses(client: TritonClient) -> None:
    grpc = client._grpc
    prompt = client._input("prompt", np.array([[b"cat"]], np.object_), "BYTES")
    picture = client._picture(np.zeros((40, 40, 3), np.uint8))
    wrong = client._input("pixels", np.zeros((1, 40, 40, 4), np.uint8), "UINT8")
    for inputs, words in [
        ([picture], "bad_prompt: the request has no prompt"),
        ([prompt], "bad_image: a request has either"),
        ([picture, client._picture(b"x"), prompt], "bad_image: a request has either"),
        ([wrong, prompt], "unexpected shape"),
    ]:
        with pytest.raises(grpc.InferenceServerException, match=words):
            client._client.infer("glip", inputs)
    with pytest.raises(ServerError, match="unknown model") as unknown:
        TritonClient(client.url, "glib").detect([CAT], "cat")
    assert unknown.value.code == "unknown"
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:1: ") as unreachable:
        TritonClient("127.0.0.1:1", timeout=5).detect([CAT], "cat")
    assert unreachable.value.code == "unreachable"
    assert not TritonClient("127.0.0.1:1", timeout=5).is_ready()


def test_garbage(server: TritonServer, client: TritonClient, pictures: list[bytes], detector: Detector) -> None:
    """Every request is refused as its sender's mistake; the instances are the same and right afterwards."""
    grpc, instances, chance = client._grpc, server.stubs(), random.Random(0)

    def raw(name: str, kind: str, shape: list[int], data: bytes) -> Any:
        tensor = grpc.InferInput(name, shape, kind)
        tensor._raw_content = data
        return tensor

    prompt = client._input("prompt", np.array([[b"cat"]], np.object_), "BYTES")
    picture = client._picture(np.zeros((40, 40, 3), np.uint8))
    requests = [
        [raw("prompt", "BYTES", [1, 1], struct.pack("<I", 2**32 - 1) + b"cat"), picture],
        [raw("prompt", "BYTES", [1, 1], (struct.pack("<I", 1) + b"a") * 2), picture],
        [prompt, raw("pixels", "UINT8", [1, 40, 40, 3], b"short")],
        [prompt, raw("pixels", "UINT8", [1, 0, 40, 3], b"")],
        [prompt, raw("pixels", "UINT8", [1, 2**31, 2**31, 3], b"x")],
        [prompt, raw("pixels", "UINT8", [1, -1, -1, 3], b"xyz")],
        [raw("prompt", "BYTES", [0, 1], b""), raw("pixels", "UINT8", [0, 4, 4, 3], b"")],
        [client._input("prompt", np.full((9, 1), b"cat", np.object_), "BYTES"), picture],
        [prompt, picture, client._input("threshold", np.array([[1]]), "INT64")],
        *([raw("image", "BYTES", [1, 1], chance.randbytes(n)), prompt] for n in range(50)),
        *([picture, raw("prompt", "BYTES", [1, 1], chance.randbytes(n))] for n in range(50)),
    ]
    for inputs in requests:
        with pytest.raises(grpc.InferenceServerException) as error:
            client._client.infer("glip", inputs, client_timeout=LIMIT)
        assert error.value.status() == "StatusCode.INVALID_ARGUMENT", error.value
    assert server.stubs() == instances
    assert_same(client.detect([pictures[0]], "cat")[0], detector.detect([pictures[0]], "cat")[0])


def test_detect_with_a_server(server: TritonServer, detector: Detector, tmp_path: Path) -> None:
    """glip-export detect --server grpc://HOST:PORT."""
    words = [
        "detect",
        CAT,
        "--prompt",
        "cat. dog",
        "--server",
        f"grpc://{server.url}",
        "--json",
        tmp_path / "found.json",
    ]
    command = [sys.executable, "-m", "glip_export.cli", *map(str, words), "--output", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "found.json").read_text())["results"]
    (right,) = detector.detect([CAT], "cat. dog")
    assert found["detections"] == right.to_dict()["detections"]
    assert (tmp_path / "cat.jpg").exists()


def test_metrics(server: TritonServer) -> None:
    lines = dict(
        line.rsplit(" ", 1) for line in server.get("metrics", "metrics").splitlines() if not line.startswith("#")
    )
    inferences = float(lines['nv_inference_count{model="glip",version="1"}'])
    runs = float(lines['nv_inference_exec_count{model="glip",version="1"}'])
    assert inferences >= 200 and 0 < runs < inferences
    assert float(lines['nv_inference_queue_duration_us{model="glip",version="1"}']) > 0


def test_strangers_cannot_unload_the_model(server: TritonServer) -> None:
    url = f"http://127.0.0.1:{server.ports['http']}/v2/repository/models/glip/unload"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(url, b"{}", method="POST"), timeout=LIMIT)
    assert server.is_ready()


@pytest.mark.parametrize("victims", [1, 2])
def test_killed_instances_come_back(
    server: TritonServer,
    client: TritonClient,
    pictures: list[bytes],
    prompts: list,
    expected: list[Detections],
    victims: int,
) -> None:
    """kill -9 while requests come in: all are answered, rightly, and there are as many instances as before."""
    stop = threading.Event()
    answered: list[int] = []

    def ask(worker: int) -> int:
        count = worker
        while not stop.is_set():
            i = count % 20
            (found,) = client.detect([pictures[i]], prompts[i], threshold=0.05 * (i % 2))
            assert_same(found, expected[i])
            answered.append(i)
            count += 7
        return count

    before = server.stubs()
    assert len(before) == 2
    with ThreadPoolExecutor(6) as pool:
        workers = [pool.submit(ask, number) for number in range(6)]
        wait_until(lambda: len(answered) > 6 or any(worker.done() for worker in workers))
        for pid in list(before)[:victims]:
            os.kill(pid, signal.SIGKILL)
        try:
            wait_until(lambda: len(server.stubs()) == 2 and not before.keys() & server.stubs().keys())
            enough = len(answered) + 40
            wait_until(lambda: len(answered) >= enough or any(worker.done() for worker in workers))
        finally:
            stop.set()
        for worker in workers:
            worker.result()  # raises what it raised
    assert sorted(server.stubs().values()) == ["glip_0_0", "glip_0_1"]
    assert "died; loading the model again" in server.said() and len(answered) >= enough
    assert server.process.poll() is None and server.is_ready()


def test_a_killed_runner_leaves_no_process(repository: Path, tmp_path: Path) -> None:
    import psutil

    with running(repository, tmp_path / "log") as server:
        children = [child.pid for child in psutil.Process(server.process.pid).children(recursive=True)]
        assert len(children) >= 3  # the server and two instances
        server.process.kill()
        wait_until_gone(children)
