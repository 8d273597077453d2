"""Calls glip-bench for one configuration and keeps its JSON; what is there already is not measured again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from glip_export.processes import child_environment

RESULTS = Path(__file__).parent / "results"


def default_output() -> Path:
    """Where today's results go: benchmarks/results/2026-11-23."""
    return RESULTS / date.today().isoformat()


def measure(target: Path, words: Sequence[str]) -> dict[str, Any]:
    """The report of `glip-bench words`, read from `target` or measured and written there.

    Ends the script with glip-bench's own message and exit code if it fails; started again, it goes on where it was.
    """
    if not target.exists():
        print(f"{time.strftime('%H:%M')} {target.stem}", flush=True)
        command = [sys.executable, "-m", "glip_export.bench.cli", *words, "--json", str(target)]
        result = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, env=child_environment())
        if result.returncode:
            sys.exit(result.returncode)
    return json.loads(target.read_text(encoding="utf-8"))


def repeated(option: str, values: Sequence[str]) -> list[str]:
    """["--backend", "torch", "--backend", "onnxruntime"]."""
    return [word for value in values for word in (option, value)]


def where(bundle: Path | None, weights: str | None, threads: int | None) -> list[str]:
    """The options that say what is measured and with how many threads."""
    given = {"--bundle": bundle, "--weights": weights, "--threads": threads}
    return [str(word) for option, value in given.items() if value is not None for word in (option, value)]
