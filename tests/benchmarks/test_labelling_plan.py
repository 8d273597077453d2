"""benchmarks/labelling/plan.py: the arithmetic by hand, what follows from what, and what it is asked wrongly."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "labelling"))

from planning import Costs, Node, Store, Task, figures, plan, restart, shard_size

FOLDER = Path(__file__).parents[2] / "benchmarks" / "labelling"
COSTS = Costs(
    inference_seconds=0.5,
    decode_seconds=0.01,
    overhead_seconds=0.0,
    driver_seconds=0.001,
    enumerate_seconds=1e-5,
    footer_seconds=0.001,
    open_seconds=10.0,
    picture_bytes=100_000.0,
    row_bytes=500.0,
)
TASK = Task(pictures=8_640_000.0, days=1.0)  # 100 pictures/s
NODE = Node(cores=16, threads=1, gbit=10.0, price=2.0)


def run(*words: str, costs: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "plan.py"), *words, *(["--costs", str(costs)] if costs else [])]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def costs_file(folder: Path, **others: Any) -> Path:
    path = folder / "costs.json"
    path.write_text(json.dumps({"costs": {**vars(COSTS), **others}}))
    return path


def test_by_hand() -> None:
    planned = plan(TASK, COSTS, NODE, Store())
    limits = planned["rates"]["node_limits"]
    assert limits == {"workers": 16 / 0.5, "cores": pytest.approx(16 / 0.51), "network": 12_500.0}
    assert planned["first"] == "cores"
    assert planned["nodes"] == math.ceil(100 / (16 / 0.51)) == 4 and planned["workers"] == 64
    assert planned["days"] == pytest.approx(8_640_000 / (4 * 16 / 0.51) / 86400)
    assert planned["runs"] == 1 and planned["busy"]["driver"] == pytest.approx(4 * 16 / 0.51 * 0.001)
    assert planned["nodes_until"]["driver"] == pytest.approx(1000 / (16 / 0.51))
    hours = planned["days"] * 24
    assert planned["money"]["nodes"] == pytest.approx(4 * hours * 2.0)
    assert planned["money"]["requests"] == pytest.approx(8640 * 0.0004)
    assert planned["answers_gb"] == pytest.approx(4.32) and planned["pictures_gb"] == pytest.approx(864.0)
    assert planned["money"]["all"] == pytest.approx(
        sum(planned["money"][name] for name in ("nodes", "drivers", "requests", "egress", "answers"))
    )


@pytest.mark.parametrize(
    ("costs", "node", "first"),
    [
        ({}, {"gpus": 2}, "GPUs"),
        ({"inference_seconds": 0.001, "decode_seconds": 0.02}, {"gpus": 2}, "cores"),
        ({"inference_seconds": 0.001, "picture_bytes": 5e6}, {"gbit": 1.0}, "network"),
        ({}, {"workers": 8}, "workers"),
    ],
)
def test_what_is_used_up_first(costs: dict[str, float], node: dict[str, Any], first: str) -> None:
    planned = plan(TASK, replace(COSTS, **costs), replace(NODE, **node), Store())
    assert planned["first"] == first
    assert planned["busy"][first] == pytest.approx(1.0)
    assert planned["rates"]["node"] == pytest.approx(planned["rates"]["node_limits"][first])


def test_a_gpu_leaves_the_cores_to_decoding() -> None:
    limits = plan(TASK, COSTS, replace(NODE, gpus=2), Store())["rates"]["node_limits"]
    assert limits["cores"] == pytest.approx(16 / 0.01) and limits["GPUs"] == pytest.approx(2 / 0.5)


def test_a_slow_driver_splits_the_source() -> None:
    planned = plan(TASK, replace(COSTS, driver_seconds=0.025), NODE, Store())
    assert planned["runs"] == 3  # 40 pictures/s each, 100 are needed
    assert planned["busy"]["driver"] == pytest.approx(planned["rates"]["cluster"] * 0.025 / 3)
    assert planned["shards"] == 3 * math.ceil(TASK.pictures / 3 / planned["shard"])


def test_more_runs_than_needed_restart_sooner() -> None:
    one, ten = (plan(replace(TASK, runs=runs), COSTS, NODE, Store()) for runs in (0, 10))
    assert (one["runs"], ten["runs"]) == (1, 10) and ten["nodes"] == one["nodes"]
    assert ten["restart"]["enumerate"] == pytest.approx(one["restart"]["enumerate"] / 10)
    assert ten["nodes_until"]["driver"] == pytest.approx(10 * one["nodes_until"]["driver"])
    assert ten["money"]["drivers"] == pytest.approx(10 * one["money"]["drivers"])


def test_interruptions_take_nodes_and_hours() -> None:
    calm, spot = (plan(TASK, COSTS, replace(NODE, interruptions=often), Store()) for often in (0.0, 3.0))
    lost = 180 + 10 + 2 * 16 * 0.5
    assert spot["rates"]["at_work"] == pytest.approx(1 - 3 * lost / 3600)
    assert spot["nodes"] == 4 and spot["days"] == pytest.approx(calm["days"] / spot["rates"]["at_work"])
    assert spot["interruptions"] == pytest.approx(3 * 4 * 24 * spot["days"])
    with pytest.raises(ValueError, match="nothing would be left of its hour"):
        plan(TASK, COSTS, replace(NODE, interruptions=30.0), Store())


def test_storage_that_is_too_slow_is_said(tmp_path: Path) -> None:
    ran = run("--pictures", "864e4", "--days", "1", "--requests", "50", costs=costs_file(tmp_path))
    assert ran.returncode == 0 and "TOO SLOW FOR THIS PLAN: storage requests" in ran.stdout
    in_tars = ("--requests-a-picture", "0.01")
    ran = run("--pictures", "864e4", "--days", "1", "--requests", "50", *in_tars, costs=costs_file(tmp_path))
    assert ran.returncode == 0 and "TOO SLOW" not in ran.stdout


@pytest.mark.parametrize(("pictures", "rate"), [(1e8, 400.0), (1e9, 400.0), (1e9, 5000.0)])
def test_no_other_shard_size_restarts_faster(pictures: float, rate: float) -> None:
    best = shard_size(pictures, rate, COSTS)
    seconds = {size: restart(TASK, COSTS, pictures, rate, size, 100)["seconds"] for size in (best // 4, best, best * 4)}
    assert min(seconds, key=lambda size: seconds[size]) == best


def test_a_shards_file_stays_small() -> None:
    large = replace(COSTS, row_bytes=30_000.0)  # 1 000 detections a picture
    assert shard_size(1e9, 5000.0, large) * 30_000 <= 256e6 < shard_size(1e9, 5000.0, COSTS) * 30_000


def test_a_restart_does_no_more_again_than_there_is() -> None:
    again = restart(TASK, COSTS, 500, 10.0, 4096, 2)
    assert again["pictures_again"] == 500 and again["again"] == 50.0


def test_every_figure_is_an_option_and_says_where_it_comes_from(tmp_path: Path) -> None:
    ran = run("--json", "--cores", "16", "--threads", "1", "--decode-seconds", "0.02", costs=costs_file(tmp_path))
    shown = json.loads(ran.stdout)
    assert set(shown["figures"]) == set(figures())
    assert shown["figures"]["cores"] == {"value": 16, "from": "given"}
    assert shown["figures"]["decode_seconds"] == {"value": 0.02, "from": "given"}
    assert shown["figures"]["row_bytes"] == {"value": 500.0, "from": "measured"}
    assert shown["figures"]["price"]["from"] == "assumed"
    options = run("--help").stdout
    assert not [name for name in figures() if f"--{name.replace('_', '-')} N" not in options]


@pytest.mark.parametrize(
    ("words", "costs", "said"),
    [
        (("--gpus", "8"), {}, "--gpus needs --inference-seconds"),
        (("--days", "0"), {}, "days is 0: a number, more than 0"),
        (("--price", "-1"), {}, "price is -1: a number, 0 or more"),
        ((), {"row_bytes": "much"}, "says nothing of costs.row_bytes"),
    ],
)
def test_figures_without_a_plan(tmp_path: Path, words: tuple[str, ...], costs: dict[str, Any], said: str) -> None:
    ran = run(*words, costs=costs_file(tmp_path, **costs))
    assert ran.returncode == 2 and said in ran.stderr and len(ran.stderr.splitlines()) == 1


def test_no_cost_of_a_gpu_is_built_in() -> None:
    assert not [each.name for each in fields(Costs) if each.default is not each.default_factory]
    assert Node().gpus == 0
