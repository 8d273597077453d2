"""Starts tritonserver on the model repository this file lies in, and brings python instances back that died.

python3 run_server.py [--model NAME ...] [--repository DIR] [--tritonserver FILE] [-- OPTION OF TRITONSERVER ...]

Triton since 24.06 does not restart a process of its python backend: a killed one fails every batch that it is given,
while the server goes on to call itself ready. This watches those processes (Linux, /proc). When one dies, its model is
loaded again beside the old one, which serves on with the instances that it has left, and then replaces it.
It needs nothing but Python's standard library. SIGTERM and SIGINT end the server; its exit code is given back. The
server ends when this is killed, too.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

STUB = "triton_python_backend_stub"
GRAPHS = ("text_encoder", "vision_backbone", "fusion_head")
ATTEMPTS = 5  # to load a model again, before the server is given up
# A process that becomes the program it is given, and that Linux sends a SIGTERM when its parent, however, ends.
BECOME = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # which Python ignores, and the program would inherit
os.execvp(sys.argv[2], sys.argv[2:])
"""


def main() -> int:
    """Runs until the server ends; gives its exit code, 1 if a model does not come back."""
    given = _arguments()
    models = [name for model in given.model or ["glip"] for name in with_graphs(given.repository, model)]
    for name in models:
        if not (given.repository / name / "config.pbtxt").is_file():
            print(f"run_server: there is no model {name} in {given.repository}", file=sys.stderr)
            return 2
    key = secrets.token_hex(16)  # who does not have it can neither load nor unload models
    command = [
        *(given.tritonserver, f"--model-repository={given.repository}", f"--http-port={given.http_port}"),
        *("--model-control-mode=explicit", *(f"--load-model={name}" for name in models)),
        "--disable-auto-complete-config",  # which starts a process for each model that ends at once
        f"--http-restricted-api=model-repository:glip-key={key}",
        f"--grpc-restricted-protocol=model-repository:glip-key={key}",
        *given.options,
    ]
    if shutil.which(given.tritonserver) is None:
        print(f"run_server: there is no program {given.tritonserver}; --tritonserver names it", file=sys.stderr)
        return 2
    server = subprocess.Popen([sys.executable, "-c", BECOME, str(os.getpid()), *command])
    watch = Watch(server.pid, f"http://{given.http_host}:{given.http_port}/v2", key, given.grace)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watch.end(server))
    while server.poll() is None:
        time.sleep(given.interval)
        if not watch.ended and not watch.look():
            watch.end(server)
            server.wait()
            return 1
    return server.returncode


class Watch:
    """Looks after the stubs, the processes of the python backend: children of the server."""

    def __init__(self, server: int, url: str, key: str, grace: float) -> None:
        self._server = server
        self._url = url
        self._key = key
        self._grace = grace  # seconds that a replaced model has for its last batches
        self._models: dict[int, str] = {}  # pid of a stub -> its model
        self._ends: dict[int, float] = {}  # pid of a replaced stub -> when it is to be gone
        self._over: set[int] = set()  # pids of the past
        self._missing: set[int] = set()  # pids not found at the last look: what is missing twice is dead
        self._failures: dict[str, int] = {}
        self.ended = False

    def end(self, server: subprocess.Popen[bytes]) -> None:
        """Has the server finish what it accepted and end; from then on nothing is brought back."""
        self.ended = True
        server.terminate()

    def look(self) -> bool:
        """Once; False when a model could not be loaded again so often that the server is of no use."""
        stubs = {pid: name for pid, name in find_stubs(self._server).items() if pid not in self._over}
        self._models |= stubs
        now = time.monotonic()
        for pid in [pid for pid, end in self._ends.items() if end <= now or pid not in stubs]:
            del self._ends[pid], self._models[pid]
            self._over.add(pid)
            if pid in stubs:
                os.kill(pid, signal.SIGKILL)  # Triton waits for the dead one beside it and would never end it
        missing = {pid for pid in self._models if pid not in stubs and pid not in self._ends}
        lost = sorted({self._models[pid] for pid in missing & self._missing})
        self._missing = missing
        return all(self.ended or self._replace(name, stubs) for name in lost)

    def _replace(self, name: str, stubs: dict[int, str]) -> bool:
        old = [pid for pid, model in self._models.items() if model == name and pid not in self._ends]
        gone = [pid for pid in old if pid not in stubs]
        _say(f"{name}: instance process {', '.join(map(str, gone))} died; loading the model again")
        started = time.monotonic()
        try:
            self._load(name)
        except (OSError, ValueError) as error:
            if self.ended:
                return True
            self._failures[name] = self._failures.get(name, 0) + 1
            _say(f"{name}: not loaded ({error}), attempt {self._failures[name]} of {ATTEMPTS}")
            return self._failures[name] < ATTEMPTS
        self._failures.pop(name, None)
        _say(f"{name}: back after {time.monotonic() - started:.1f} s")
        for pid in old:
            self._ends[pid] = time.monotonic() + self._grace
        return True

    def _load(self, name: str) -> None:
        """A load replaces a model only if its configuration changed, so a parameter counts the loads."""
        config = json.loads(self._call(f"models/{name}/config"))
        parameters = config.setdefault("parameters", {})
        loads = int(parameters.get("loads", {"string_value": "0"})["string_value"])
        parameters["loads"] = {"string_value": str(loads + 1)}
        self._call(f"repository/models/{name}/load", {"parameters": {"config": json.dumps(config)}})

    def _call(self, path: str, body: object = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}/{path}", data, {"glip-key": self._key})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return bytes(answer.read())


def find_stubs(server: int) -> dict[int, str]:
    """The server's children that run models and live: pid -> the model's name."""
    stubs: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            parent = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            words = (folder / "cmdline").read_bytes().split(b"\0")  # empty of one that is dead and not yet waited for
        except OSError:  # it ended meanwhile
            continue
        if int(parent) == server and Path(os.fsdecode(words[0])).name == STUB:
            stubs[int(folder.name)] = Path(os.fsdecode(words[1])).parent.parent.name  # <model>/<version>/model.py
    return stubs


def with_graphs(repository: Path, model: str) -> list[str]:
    """The model, and those of the three graphs that it asks where they are models of their own."""
    graphs = [f"{model}_{graph}" for graph in GRAPHS]
    return [*(name for name in graphs if (repository / name).is_dir()), model]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("--model", action="append", help="repeat for several; by default glip")
    parser.add_argument("--repository", type=Path, default=here, help="by default the folder of this file")
    parser.add_argument("--tritonserver", default="tritonserver", help="by default the one on PATH")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--http-host", default="127.0.0.1", help="where this reaches the server")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between looks")
    parser.add_argument("--grace", type=float, default=60, help="seconds that a replaced instance has to finish")
    parser.add_argument("options", nargs="*", metavar="OPTION", help="behind --: options of tritonserver")
    return parser.parse_args()


def _say(text: str) -> None:
    print(f"run_server: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
