"""The cores that a container leaves, and threads that are no more than those."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glip_export import processes
from glip_export.bundle import Bundle
from glip_export.errors import GlipExportError, GlipExportWarning
from glip_export.processes import thread_count, usable_cores
from glip_export.runtime import onnxruntime_session
from glip_export.runtime.backends import open_session

CORES = 16
V1 = "sys/fs/cgroup/cpu,cpuacct"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine with 16 cores and no quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(CORES)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: CORES)
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, CORES),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, CORES),
        ({"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"sys/fs/cgroup/cpu.max": "5000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "9900000 100000\n"}, CORES),
        ({"sys/fs/cgroup/cpu.max": "many of them\n"}, CORES),
        ({"sys/fs/cgroup/cpu.max": "0 0\n"}, CORES),
        # Of nested groups the least counts, the process's own or one above.
        (
            {
                "proc/self/cgroup": "0::/user.slice/job\n",
                "sys/fs/cgroup/user.slice/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n",
                "sys/fs/cgroup/other/cpu.max": "100000 100000\n",
            },
            3,
        ),
        ({"proc/self/cgroup": "0::/../outside\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        # Version 1, seen from a container (its own group is mounted, the path is the host's) and from the host.
        ({f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, CORES),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n3:cpuset:/\n0::/\n",
                f"{V1}/cpu.cfs_quota_us": "250000\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/a/b\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "50000\n",
            },
            2,
        ),
    ],
)
def test_the_containers_quota_is_honoured(machine: Path, files: dict[str, str], cores: int) -> None:
    write(machine, files)
    assert usable_cores(machine) == cores


def test_affinity_and_quota_together(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert usable_cores(machine) == 2
    write(machine, {"sys/fs/cgroup/cpu.max": "100000 100000\n"})
    assert usable_cores(machine) == 1


def test_threads_are_no_more_than_the_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [thread_count(None), thread_count(1), thread_count(2)] == [2, 1, 2]
    with pytest.warns(GlipExportWarning, match="128 threads are more than the 2 CPU core") as caught:
        assert thread_count(128) == 2
    assert caught[0].filename == __file__
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert thread_count(None) is None  # nothing limits the backend, which knows better which cores are one


def test_sessions_keep_to_the_usable_cores(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int | None] = []

    class Session:
        def __init__(self, bundle: Bundle, threads: int | None, provider: str) -> None:
            given.append(threads)

    monkeypatch.setattr(onnxruntime_session, "OnnxRuntimeSession", Session)
    monkeypatch.setattr(processes, "usable_cores", lambda: 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    bundle = Bundle.open(tiny_bundle, verify=False)
    open_session(bundle, "onnxruntime", 1)
    open_session(bundle, "onnxruntime")
    with pytest.warns(GlipExportWarning, match="128 threads"):
        open_session(bundle, "onnxruntime", 128)
    assert given == [1, 3, 3]


@pytest.mark.parametrize("asked", [0, -3, 1.5])
def test_threads_that_are_none_are_refused(asked: float) -> None:
    with pytest.raises(GlipExportError, match=f"threads are a whole number from 1 on, not {asked}"):
        thread_count(asked)  # type: ignore[arg-type]
