"""glip-bench as it is typed: quick help, wrong words, a whole run in worker processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import cpu_seconds, least, wait_until, wait_until_gone

from glip_export.bench.client import WorkerProcess
from glip_export.errors import BackendError

BENCH = (sys.executable, "-m", "glip_export.bench.cli")


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, *words], check=False, capture_output=True, text=True)


def test_help_is_quick() -> None:
    """In processor time, against Python with the libraries that print it; torch alone takes ten times that."""
    bench("--help")  # compiles what is not compiled yet
    assert "--cached-text" in bench("--help").stdout
    plain = (sys.executable, "-c", "import typer, rich.console, rich.panel")
    assert least(lambda: cpu_seconds(*BENCH, "--help"), lambda: cpu_seconds(*plain)) < 4


def test_help_loads_nothing_heavy() -> None:
    names = "('numpy', 'torch', 'onnxruntime')"
    code = f"import sys, glip_export.bench.cli; print([name for name in {names} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--batch", "0"), "--batch"),
        (("--image-size", "800"), "HEIGHTxWIDTH"),
        (("--image-size", "100x100"), "multiple of 32"),
        (("--prompt", "cat", "--coco-prompt"), "give one of"),
        (("--prompt", "..."), "empty"),
        (("--prompt-file", "none.txt"), "none.txt"),
        (("--backend", "abacus"), "abacus"),
        (("--runs", "0"), "--runs"),
    ],
)
def test_wrong_words_exit_with_2_and_no_traceback(tiny_bundle: Path, words: tuple[str, ...], told: str) -> None:
    result = bench("--bundle", str(tiny_bundle), *words)
    assert result.returncode == 2
    assert told in result.stderr and "Traceback" not in result.stderr


def test_no_bundle_exits_with_2(tmp_path: Path) -> None:
    result = bench("--bundle", str(tmp_path / "none"))
    assert result.returncode == 2 and "no bundle at" in result.stderr


def test_two_backends_in_turn(tiny_bundle: Path, tmp_path: Path) -> None:
    words = ("--batch", "2", "--runs", "2", "--warmup", "1", "--threads", "1", "--image-size", "64x96")
    backends = ("--backend", "torch", "--backend", "onnxruntime")
    result = bench("--bundle", str(tiny_bundle), *words, *backends, "--json", str(tmp_path / "bench.json"))
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    torch, ort = report["runs"]
    assert (torch["tokens"], ort["tokens"]) == (64, 10)  # MAX_QUERY_LEN of the small model, and the prompt's own
    assert ort["agreement"]["within_tolerance"] and ort["max_box_diff_px"] < 0.05
    assert torch["gmac_per_image"] > ort["gmac_per_image"] > 0
    assert report["machine"]["peak_gflops"]["fp32"] > 0
    for run in (torch, ort):
        assert sum(stage["mean_ms"] for stage in run["stages"].values()) == pytest.approx(run["total"]["mean_ms"])
        assert run["rounds"] == 2 and run["image_size"] == "64x96"
        assert 50 < run["peak_rss_mb"] < 5000
        assert run["stages"]["vision_backbone"]["calls"] == 1


def test_a_worker_that_ends_is_told_with_its_last_words() -> None:
    with (
        WorkerProcess("fake") as worker,
        pytest.raises(BackendError, match=r"fake: its process ended with code 1: .*no_such"),
    ):
        worker.ask("no_such_command")


def test_a_worker_passes_on_what_went_wrong() -> None:
    with WorkerProcess("fake") as worker:
        for command in ("run", "outcome"):  # it goes on after a failure
            with pytest.raises(BackendError, match="fake: AttributeError"):
                worker.ask(command)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_a_worker_that_was_killed_is_told() -> None:
    with WorkerProcess("fake") as worker:
        worker._process.kill()
        with pytest.raises(BackendError, match=r"SIGKILL.*out of memory"):
            worker.ask("run")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("option", ["--cost", "--no-cost"])  # the first child measures matrix products, or runs torch
def test_its_processes_end_when_it_is_killed(tiny_bundle: Path, option: str) -> None:
    import psutil

    words = ["--bundle", str(tiny_bundle), "--backend", "torch", "--runs", "100000", "--image-size", "64x64", option]
    with subprocess.Popen([*BENCH, *words], stdout=subprocess.DEVNULL) as killed:
        bench_process = psutil.Process(killed.pid)
        wait_until(bench_process.children)
        children = [child.pid for child in bench_process.children(recursive=True)]
        killed.kill()
    wait_until_gone(children)
