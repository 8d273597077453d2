"""The driver of a cluster's run is killed and started again: it goes on, and every picture has one answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import ray_driver
from stub_worker import answer_to

from glip_export.labelling.shards import read_shards, shard_files

if TYPE_CHECKING:
    from raylets import Raylets

SIGTERM_WHILE_CONNECTED = """
import os, signal, sys, time
from glip_export.labelling.cluster.connection import connected
from glip_export.labelling.cluster.settings import Cluster

came = []
signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
with connected(Cluster(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    print(*map(int, came), flush=True)
"""

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")


def environment() -> dict[str, str]:
    """Of a process that imports what the tests do."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_driver_that_is_killed_goes_on(raylets: Raylets, tiny_bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{place:03d}.jpg\n" for place in range(60)))

    def run(kill_at: int) -> subprocess.CompletedProcess[str]:
        words = [raylets.address, tmp_path / "out", tiny_bundle, kill_at, source]
        return subprocess.run(
            [sys.executable, ray_driver.__file__, *map(str, words)],
            check=False,
            capture_output=True,
            text=True,
            env=environment(),
            cwd=tmp_path,
        )

    assert run(kill_at=30).returncode == -signal.SIGKILL
    kept = {file: file.stat().st_ino for file in shard_files(tmp_path / "out")}
    assert 0 < len(kept) < 15
    again = run(kill_at=0)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split() == ["60", str(60 - 4 * len(kept))]
    assert all(file.stat().st_ino == known for file, known in kept.items())
    rows = list(read_shards(tmp_path / "out"))
    assert [Path(row.source).name for row in rows] == [f"{place:03d}.jpg" for place in range(60)]
    for place, row in enumerate(rows):
        assert np.array_equal(row.answer.boxes, answer_to(place).boxes) and not row.answer.error


def test_what_sigterm_does_is_ours(raylets: Raylets) -> None:
    """In a process of its own: what else ends that one is told by its stacks, and ends no other test's."""
    words = [sys.executable, "-X", "faulthandler", "-c", SIGTERM_WHILE_CONNECTED, raylets.address]
    ran = subprocess.run(words, check=False, capture_output=True, text=True, env=environment())
    assert ran.stdout.split() == [str(int(signal.SIGTERM))], f"ended with {ran.returncode}: {ran.stderr}"
