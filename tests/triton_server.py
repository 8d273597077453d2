"""A real tritonserver on the CPU for tests and benchmarks: the one in the wheel of nvidia-pytriton, installed apart.

python tests/triton_server.py     # installs it into .triton/; says why where it cannot, and that is no failure

That server (2.51) has its python backend for Python 3.8 to 3.13 on x86-64 Linux with glibc 2.35 or later. It works with
NumPy 1 only, so .triton/ is a virtual environment of its own; NumPy 1 has wheels for Python up to 3.12. The backend's
process needs the interpreter as a shared library (libpython3.11.so), which some interpreters are built without.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".triton"
PACKAGE = "nvidia-pytriton==0.7.0"
STUB = "triton_python_backend_stub"
_PYTHON = "{}.{}".format(*sys.version_info)
_READY, _WHY_NOT = FOLDER / "ready", FOLDER / "why-not"


def install() -> str:
    """Installs it, unless it is there; gives why that cannot be, or ""."""
    if _READY.exists() and _READY.read_text() == _stamp():
        return ""
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        _run(sys.executable, "-m", "venv", str(FOLDER))
        pip = [str(FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run(*pip, "--only-binary=:all:", *_requirements())
        _run(*pip, "--no-deps", PACKAGE)
        _finish()
        (backend,) = backend_folder().glob(f"python/{STUB}")
        started = subprocess.run([backend], check=False, capture_output=True, text=True, env=environment())
        if "error while loading shared libraries" in started.stderr:
            raise OSError(started.stderr.strip())
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        FOLDER.mkdir(exist_ok=True)
        output = getattr(error, "stderr", "") or str(error)
        _WHY_NOT.write_text(output.strip().splitlines()[-1])
        return _WHY_NOT.read_text()
    _READY.write_text(_stamp())
    return ""


def why_not() -> str:
    """Why there is no server to test with, or ""."""
    if _READY.exists() and _READY.read_text() == _stamp():
        return ""
    reason = _WHY_NOT.read_text() if _WHY_NOT.exists() else "not installed: make triton-server"
    return f"no tritonserver for Python {_PYTHON} here: {reason}"


def backend_folder() -> Path:
    """Where the server finds the python backend."""
    return _server_folder() / "backends"


def environment() -> dict[str, str]:
    """That of the server: its own interpreter first, and the shared library that this one has."""
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))},
        "PATH": os.pathsep.join([str(FOLDER / "bin"), os.environ.get("PATH", "")]),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "OMP_NUM_THREADS": "1",
    }


@dataclass
class TritonServer:
    """A running server."""

    process: subprocess.Popen[bytes]
    repository: Path
    log: Path
    ports: dict[str, int]

    @property
    def url(self) -> str:
        """Of its gRPC."""
        return f"127.0.0.1:{self.ports['grpc']}"

    def get(self, path: str, port: str = "http") -> str:
        """What it answers to GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}/{path}", timeout=600) as answer:
            return answer.read().decode()

    def is_ready(self) -> bool:
        """Whether it says so."""
        try:
            self.get("v2/health/ready")
            return True
        except OSError:
            return False

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def stubs(self) -> dict[int, str]:
        """Its python instances that live: pid -> what their command line ends with, such as glip_0_1."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                words = (folder / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if Path(words[0]).name == STUB and words[1].startswith(str(self.repository)):
                found[int(folder.name)] = words[-3]
        return found


@contextmanager
def running(repository: Path, log: Path, *words: str, seconds: float = 600) -> Iterator[TritonServer]:
    """run_server.py of a repository, started with these words more and ready; ended with the block."""
    from glip_export.serving.triton.run_server import BECOME

    ports = dict(zip(("http", "grpc", "metrics"), _free_ports(3), strict=True))
    command = [
        *(str(FOLDER / "bin" / "python"), str(repository / "run_server.py"), f"--http-port={ports['http']}"),
        *(f"--tritonserver={_server_folder() / 'bin' / 'tritonserver'}", *words, "--"),
        *(f"--backend-directory={backend_folder()}", "--http-address=127.0.0.1", "--grpc-address=127.0.0.1"),
        *(f"--grpc-port={ports['grpc']}", f"--metrics-port={ports['metrics']}", "--exit-timeout-secs=5"),
    ]
    with log.open("wb") as file:
        words = [sys.executable, "-c", BECOME, str(os.getpid()), *command]  # ends with the tests, killed or not
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=environment())
    server = TritonServer(process, repository, log, ports)
    try:
        end = time.monotonic() + seconds
        while not server.is_ready():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"tritonserver did not start:\n{server.said()[-4000:]}")
            time.sleep(0.1)
        yield server
    except BaseException:
        print(server.said()[-4000:], file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait(600)


def _server_folder() -> Path:
    return FOLDER / "lib" / f"python{_PYTHON}" / "site-packages" / "pytriton" / "tritonserver"


def _finish() -> None:
    """What pytriton does when it starts: programs made executable, and this Python's stub put in its place."""
    stub = _server_folder() / "python_backend_stubs" / _PYTHON / STUB
    if not stub.exists():
        raise OSError(f"{PACKAGE} has no python backend for Python {_PYTHON}")
    for program in (stub, _server_folder() / "bin" / "tritonserver"):
        program.chmod(0o755)
    (backend_folder() / "python" / STUB).symlink_to(stub)


def _requirements() -> list[str]:
    """The packages that a repository asks for, and the NumPy that this old server works with."""
    from glip_export.serving.triton.repository import requirements

    return [*requirements("onnxruntime"), "numpy<2"]


def _stamp() -> str:
    return "\n".join([sys.version, PACKAGE, *_requirements()])


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    reason = install()
    print(f"tritonserver in {FOLDER}" if not reason else f"No tritonserver here, its tests are skipped: {reason}")
