"""The worker process: one backend in a process of its own, told what to do by one JSON line each.

python -m glip_export.bench.worker; a line {"do": name, ...arguments} in, a line {"ok": result} or {"error": text} out.
In its own process a backend's peak memory and thread pools are its own. It ends with its parent.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from glip_export.errors import BackendError, GlipExportError
from glip_export.processes import end_with_parent


class Worker:
    """What each command does; a result is anything JSON holds."""

    def __init__(self) -> None:
        self._workload: Any = None

    def load(self, job: dict[str, Any], backend: str) -> dict[str, Any]:
        """Opens a bundle on a backend."""
        from glip_export.bench.job import Job
        from glip_export.bench.workload import Workload

        self._workload = Workload.open(Job.from_json(job), backend)
        return {"load_s": self._workload.load_s, "precision": self._workload.precision}

    def run(self) -> dict[str, Any]:
        """One run, timed."""
        return asdict(self._workload.run())

    def outcome(self) -> dict[str, Any]:
        """Memory, sizes and detections after the last run."""
        return self._workload.outcome()

    def count_with_torch(self) -> float:
        """10^9 multiply-adds a picture of the loaded torch backend."""
        return self._workload.count_with_torch()

    def count_graph(self, bundle: str, graph: str, size: list[int], tokens: int, classes: int) -> float:
        """10^9 multiply-adds of one picture or caption through one graph."""
        from glip_export.bench.graph_cost import bundle_gmac
        from glip_export.bundle import Bundle

        opened = Bundle.open(Path(bundle), verify=False)
        return bundle_gmac(opened, graph, (size[0], size[1]), max(tokens, 1), max(classes, 1))

    def matmul_peak(self, threads: int | None) -> dict[str, Any]:
        """This machine's fastest matrix product."""
        from glip_export.bench.matmul_peak import matmul_peak

        return matmul_peak(threads)


def serve(lines: TextIO, answers: TextIO, worker: Worker | None = None) -> None:
    """Answers each line until the last; a failure is an answer too."""
    worker = worker or Worker()
    for line in lines:
        request = json.loads(line)
        answer = _answer(getattr(worker, request.pop("do")), request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(command: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": command(**arguments)}
    except GlipExportError as error:
        return {"error": str(error)}
    except ImportError as error:
        return {"error": str(BackendError(f"{error.name or error} is not installed"))}
    except Exception as error:
        traceback.print_exc()  # the parent keeps it with what else the worker wrote
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def main() -> None:
    """Serves on standard input and output; what libraries print goes to standard error instead."""
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        serve(sys.stdin, answers)
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(130)  # the parent was interrupted and says so


if __name__ == "__main__":
    main()
