"""A child ends with its parent, however that ends and whatever the child is doing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until_gone

from glip_export.processes import PARENT, child_environment, end_with_parent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows tells no process of its parent's end")

CHILD = "from glip_export.processes import end_with_parent; end_with_parent(); print('ready', flush=True); "
SLEEPS = CHILD + "import time; time.sleep(100_000)"
HOLDS_THE_INTERPRETER = CHILD + "import ctypes; ctypes.PyDLL(None).sleep(100_000)"
# Starts a child, says its pid when that is ready, and then does nothing.
STARTS = """
import subprocess, sys, time
from glip_export.processes import child_environment
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, env=child_environment(), text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(100_000)
"""


def killed_parent_of(*command: str) -> int:
    """The pid of a child whose parent was killed when the child was ready."""
    words = [sys.executable, "-c", STARTS, *command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    return child


@pytest.mark.parametrize(
    "code",
    [
        SLEEPS,
        pytest.param(
            HOLDS_THE_INTERPRETER,
            marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel ends such a process"),
        ),
    ],
)
def test_it_ends_with_a_killed_parent(code: str) -> None:
    wait_until_gone([killed_parent_of(sys.executable, "-c", code)])


def test_it_ends_with_a_parent_behind_a_shell() -> None:
    shell = killed_parent_of("/bin/sh", "-c", 'echo $$; "$0" -c "$1"; true', sys.executable, SLEEPS)
    import psutil

    if psutil.pid_exists(shell):  # it waits for the child
        wait_until_gone([shell])


def test_it_ends_at_once_if_the_parent_ended_before_it_could_ask() -> None:
    parent = subprocess.Popen([sys.executable, "-c", "pass"])
    parent.wait()
    environment = {**child_environment(), PARENT: str(parent.pid)}
    child = subprocess.run([sys.executable, "-c", SLEEPS], check=False, env=environment, stdout=subprocess.PIPE)
    assert (child.returncode, child.stdout) == (1, b"")


def test_what_nobody_of_ours_started_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARENT, raising=False)
    end_with_parent()


def test_children_of_its_own_are_not_bound_to_its_parent(tmp_path: Path) -> None:
    code = f"from glip_export.processes import *; end_with_parent(); import os; print(os.environ.get('{PARENT}'))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=child_environment())
    assert done.stdout == b"None\n" and child_environment()[PARENT] == str(os.getpid())
