"""run_server.py's watch, on processes that look like Triton's and a server that answers like it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from waiting import Clock, wait_until, wait_until_gone

from glip_export.serving.triton import run_server
from glip_export.serving.triton.run_server import ATTEMPTS, STUB, Watch, find_stubs, main, with_graphs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="run_server.py reads /proc")


class Triton:
    """Has instances of the model `glip`, two more at each load; this process stands for the server."""

    def __init__(self, folder: Path) -> None:
        self.model = folder / "repository" / "glip" / "1" / "model.py"
        self.model.parent.mkdir(parents=True)
        self.model.write_text("import time\ntime.sleep(100_000)\n")
        self.instances: list[subprocess.Popen[bytes]] = []
        self.loads: list[dict[str, Any]] = []
        self.works = True
        self.config: dict[str, Any] = {"name": "glip", "parameters": {"backend": {"string_value": "onnxruntime"}}}
        self.server = HTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def start(self, count: int = 2) -> None:
        # The name that the process list shows is the first word; what runs is Python.
        words = [f"/opt/{STUB}", str(self.model), "shared_memory"]
        self.instances += [subprocess.Popen(words, executable=sys.executable) for _ in range(count)]
        wait_until(lambda: all(one.pid in find_stubs(os.getpid()) for one in self.instances[-count:]))

    def _handler(triton) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == "/v2/models/glip/config"
                self._answer(json.dumps(triton.config).encode())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                triton.loads.append({"path": self.path, "key": self.headers["glip-key"], **body})
                if triton.works:
                    triton.config = json.loads(body["parameters"]["config"])
                    triton.start()
                    self._answer(b"")
                else:
                    self.send_error(400)

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def kill(process: subprocess.Popen[bytes], reap: bool) -> None:
    process.kill()
    if reap:  # Triton does so when it next asks the instance, and until then leaves a zombie
        process.wait()
    else:
        wait_until(lambda: process.pid not in find_stubs(os.getpid()))


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[Triton]:
    triton = Triton(tmp_path)
    triton.start()
    yield triton
    triton.server.shutdown()
    for instance in triton.instances:
        instance.kill()
        instance.wait()


def watch_of(triton: Triton, grace: float) -> Watch:
    watch = Watch(os.getpid(), f"http://127.0.0.1:{triton.server.server_port}/v2", "secret", grace)
    assert watch.look() and triton.loads == []
    return watch


@pytest.mark.parametrize("reap", [False, True])
def test_a_dead_instance_is_replaced_once(triton: Triton, reap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(run_server, "time", clock)
    watch = watch_of(triton, grace=0.5)
    assert set(find_stubs(os.getpid()).values()) == {"glip"}
    first, second = triton.instances
    kill(first, reap)
    assert watch.look() and triton.loads == []  # once might be a misreading
    assert watch.look()
    assert [(load["path"], load["key"]) for load in triton.loads] == [("/v2/repository/models/glip/load", "secret")]
    assert triton.config["parameters"] == {"backend": {"string_value": "onnxruntime"}, "loads": {"string_value": "1"}}
    for _ in range(4):
        clock.now += 0.1
        assert watch.look() and second.poll() is None  # it may have a batch to finish
    clock.now += 0.2
    wait_until(lambda: watch.look() and second.poll() is not None)
    for _ in range(5):
        assert watch.look()
    assert len(triton.loads) == 1 and [one.poll() for one in triton.instances[2:]] == [None, None]


def test_all_of_them_and_again(triton: Triton) -> None:
    watch = watch_of(triton, grace=0)
    for round in (1, 2):
        assert watch.look()
        for instance in triton.instances[-2:]:
            kill(instance, reap=False)
        assert watch.look() and watch.look()
        assert len(triton.loads) == round and triton.config["parameters"]["loads"] == {"string_value": str(round)}


def test_it_gives_up(triton: Triton) -> None:
    watch = watch_of(triton, grace=0)
    triton.works = False
    kill(triton.instances[0], reap=True)
    assert [watch.look() for _ in range(ATTEMPTS + 1)] == [True] * ATTEMPTS + [False]


def test_it_tries_again(triton: Triton) -> None:
    watch = watch_of(triton, grace=0)
    triton.works = False
    kill(triton.instances[0], reap=True)
    assert watch.look() and watch.look() and watch.look()
    triton.works = True
    assert watch.look() and len(triton.loads) == 3 and len(triton.instances) == 4


def test_which_models_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    graphs = [f"glip_gpu_{graph}" for graph in ("text_encoder", "vision_backbone", "fusion_head")]
    for name in ("glip", "glip_gpu", *graphs):
        (tmp_path / name).mkdir()
    assert with_graphs(tmp_path, "glip") == ["glip"]
    assert with_graphs(tmp_path, "glip_gpu") == [*graphs, "glip_gpu"]
    monkeypatch.setattr(sys, "argv", ["run_server.py", "--repository", str(tmp_path), "--model", "glib"])
    assert main() == 2 and "there is no model glib" in capsys.readouterr().err


def test_nothing_comes_back_once_the_server_ends(triton: Triton) -> None:
    watch = watch_of(triton, grace=0)
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100_000)"])
    watch.end(server)
    kill(triton.instances[0], reap=True)
    assert watch.look() and watch.look() and triton.loads == [] and server.wait() == -15


def test_the_server_ends_with_a_killed_runner(tmp_path: Path) -> None:
    program = tmp_path / "tritonserver"
    program.write_text(
        f"#!/bin/sh\necho $$ > {tmp_path}/begun\nmv {tmp_path}/begun {tmp_path}/pid\nexec sleep 100000\n"
    )
    program.chmod(0o755)
    (tmp_path / "glip").mkdir()
    (tmp_path / "glip" / "config.pbtxt").write_text("")
    words = [sys.executable, run_server.__file__, "--repository", str(tmp_path), "--tritonserver", str(program)]
    with subprocess.Popen(words) as runner:
        wait_until((tmp_path / "pid").exists)
        runner.kill()
    wait_until_gone([int((tmp_path / "pid").read_text())])


def test_a_server_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "glip").mkdir()
    (tmp_path / "glip" / "config.pbtxt").write_text("")
    words = ["run_server.py", "--repository", str(tmp_path), "--tritonserver", "no-such-server"]
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 2 and "there is no program no-such-server" in capsys.readouterr().err
