"""The parent's end of a builder: starts it, hears it, and says how it ended."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from glip_export.errors import BackendError
from glip_export.processes import start_worker
from glip_export.trt.builder import Job


def run_builder(job: Job, say: Callable[[str], None]) -> dict[str, Any]:
    """Has a process of its own build one engine; its facts. Raises BackendError with its words, or how it ended."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        process = start_worker("glip_export.trt.builder", stderr)
        try:
            answer = _converse(process, job, say)
        except BaseException:
            process.kill()
            raise
        finally:
            process.communicate()  # closes its input, with which it ends
        stderr.seek(0)
        printed = [line.strip() for line in stderr.read().splitlines() if line.strip()]
    if "engine" not in answer:
        raise BackendError(f"{job.graph}: {answer.get('error') or _how(process.returncode, printed)}")
    # What a plugin raises TensorRT only prints, and goes on.
    if failed := [line for line in printed if line.startswith("[ERROR]")]:
        raise BackendError(f"{job.graph}: {failed[0][:400]}")
    return answer["engine"]


def _converse(process: subprocess.Popen[str], job: Job, say: Callable[[str], None]) -> dict[str, Any]:
    """Gives it the job and passes on what it says; its last answer, or {} if it ended without one."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(asdict(job)) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return {}
    for line in process.stdout:
        answer: dict[str, Any] = json.loads(line)
        if "say" not in answer:
            return answer
        say(answer["say"])
    return {}


def _how(code: int, printed: list[str]) -> str:
    how = f"its builder ended with code {code}"
    if code < 0:
        how = f"its builder was ended by {signal.Signals(-code).name}"
        how += " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"{how}: {printed[-1][:300]}" if printed else how
