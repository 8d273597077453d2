"""Tests as a part of a step: pytest in a process of its own, and what its report says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from context import ROOT, Context, FailedError, SkippedError

NO_TESTS = 5  # pytest's code where none was collected
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: .*")  # compute-sanitizer's


def run_tests(context: Context, paths: Sequence[str], words: Sequence[str] = (), before: Sequence[str] = ()) -> Any:
    """Runs tests of the checkout; before: a command that runs Python, such as compute-sanitizer.

    Returns the counts, each test that failed with its last lines, the reasons of those that were skipped, and the
    process's code and output. Raises FailedError if one failed, SkippedError if none ran.
    """
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    if context.rehearsal:
        environment["GLIP_REHEARSE_GPU"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [*before, sys.executable, "-m", "pytest", "-c", "tests/gpu/any_pytest.ini", "--rootdir", str(ROOT)]
        command += [
            "--confcutdir",
            str(ROOT),
            "-q",
            "-p",
            "no:cacheprovider",
            "--junitxml",
            str(report),
            *paths,
            *words,
        ]
        timeout = max(context.seconds_left, 1)
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=timeout,
        )
        cases = list(ElementTree.parse(report).getroot().iter("testcase")) if report.exists() else []
    found = {
        "code": done.returncode,
        "output": (done.stdout + done.stderr)[-4000:],
        "summaries": SUMMARY.findall(done.stdout + done.stderr),
        **_summary(cases),
    }
    if found["failed"] or done.returncode not in (0, NO_TESTS) or not cases:
        raise FailedError(f"pytest ended with {done.returncode}: {found['line']}", found)
    if not found["counts"].get("passed"):
        raise SkippedError(f"no test ran: {'; '.join(found['skipped'])}")
    return found


def _summary(cases: Sequence[ElementTree.Element]) -> dict[str, Any]:
    counts, skipped, failed = Counter(), Counter(), {}
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = {child.tag: child for child in case if child.tag in ("failure", "error", "skipped")}
        if "skipped" in kinds:
            counts["skipped"] += 1
            skipped[kinds["skipped"].get("message", "")] += 1
        elif kinds:
            counts["failed"] += 1
            (kind,) = list(kinds.values())[:1]
            failed[name] = (kind.text or kind.get("message", ""))[-1500:]
        else:
            counts["passed"] += 1
    words = ", ".join(f"{number} {word}" for word, number in sorted(counts.items())) or "no test ran"
    names = f"; failed: {', '.join(failed)}" if failed else ""
    return {"line": f"{words}{names}", "counts": dict(counts), "failed": failed, "skipped": dict(skipped)}
