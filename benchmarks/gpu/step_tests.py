"""tests/gpu but the kernels' own: sessions, engines, CUDA graphs, other libraries' arrays, commands, the service."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from context import ROOT, Context, Part
from pytest_run import run_tests


def parts(context: Context) -> list[Part]:
    """A part for each file, so that a crash in one leaves the others."""
    found = (path for path in (ROOT / "tests" / "gpu").glob("test_*.py") if path.name != "test_kernels.py")
    # The engines tell most; commands, which start Python again and again, come last.
    files = sorted(found, key=lambda path: (path.stem == "test_commands", path.stem != "test_engines", path.stem))
    return [(path.stem.removeprefix("test_"), partial(_run, context, path)) for path in files]


def _run(context: Context, path: Path) -> dict[str, Any]:
    return run_tests(context, [str(path.relative_to(ROOT))])
