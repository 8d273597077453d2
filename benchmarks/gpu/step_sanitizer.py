"""NVIDIA's compute-sanitizer over the kernels' tests: memory that is not theirs, and races in shared memory."""

from __future__ import annotations

import re
import shutil
from functools import partial
from typing import Any

from context import Context, FailedError, Part, SkippedError
from pytest_run import run_tests

TOOLS = ("memcheck", "racecheck")
LARGE = ("size2", "size3", "largest2", "1000-largest1", "5000", "20267", "4000")  # in the names of the tests


def parts(context: Context) -> list[Part]:
    """A part a tool."""
    return [(tool, partial(_run, context, tool)) for tool in TOOLS]


def _run(context: Context, tool: str) -> dict[str, Any]:
    found = shutil.which("compute-sanitizer")
    before: list[str] = []
    if not context.rehearsal:
        if found is None:
            raise SkippedError("compute-sanitizer is not on the PATH")
        before = [found, "--tool", tool, "--target-processes", "application-only", "--error-exitcode", "99"]
    ran = run_tests(context, ["tests/gpu/test_kernels.py"], ["-k", f"not ({' or '.join(LARGE)})"], before)
    if context.rehearsal:
        raise SkippedError(f"compute-sanitizer needs a GPU; the tests under it: {ran['line']}")
    summary = ran["summaries"]
    ran["line"] = f"{tool}: {'; '.join(summary) or 'no summary'}; {ran['line']}"
    clean = summary and all(re.search(r": 0 (?:errors|hazards)", line) for line in summary)
    if not clean:
        raise FailedError(ran["line"], ran)
    return ran
