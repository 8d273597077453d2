"""What labelling a data set takes: nodes, what is used up first, shards, a restart's cost, money.

python benchmarks/labelling/plan.py --pictures 1e9 --days 30
python benchmarks/labelling/plan.py --gpus 8 --inference-seconds SECONDS_MEASURED_ON_THAT_GPU --price 20 --cores 96

Every figure is an option. A picture's costs default to a measurement (--costs FILE, of benchmarks/labelling/costs.py),
made on CPUs: with --gpus the time on that GPU has to be given. Nodes, storage and prices are assumptions: give yours.
The formula is planning.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from planning import Costs, Node, Store, Task, figures, plan

MEASURED = Path(__file__).parents[1] / "results" / "2026-11-27" / "labelling" / "costs.json"


def main() -> int:
    """Reads the figures, prints the plan; 2 for figures of which no plan follows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", type=Path, default=MEASURED, help="JSON of costs.py (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    for name, (_, each) in figures().items():
        kind = int if each.type == "int" else float
        words = each.metadata["help"].replace("%", "%%")
        default = "" if each.metadata["origin"] == "measured" else f" (assumed: {each.default:g})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=words + default)
    given = parser.parse_args()
    asked = {name: value for name in figures() if (value := getattr(given, name)) is not None}
    try:
        values, origins = resolve(asked, given.costs)
        task, costs, node, store = (_made(kind, values) for kind in (Task, Costs, Node, Store))
        planned = plan(task, costs, node, store)
    except ValueError as error:
        print(f"plan.py: {error}", file=sys.stderr)
        return 2
    shown = {"figures": {name: {"value": values[name], "from": origins[name]} for name in values}, **planned}
    print(json.dumps(shown, indent=1) if given.json else text(values, origins, planned))
    return 0


def resolve(asked: dict[str, float], measured: Path) -> tuple[dict[str, float], dict[str, str]]:
    """The value of every figure and where it comes from. Raises ValueError where one is missing."""
    values: dict[str, float] = {}
    origins: dict[str, str] = {}
    if asked.get("gpus") and "inference_seconds" not in asked:
        raise ValueError("--gpus needs --inference-seconds, measured on that GPU (glip-bench): the default is a CPU's")
    for name, (_, each) in figures().items():
        if name in asked:
            values[name], origins[name] = asked[name], "given"
        elif each.metadata["origin"] == "assumed":
            values[name], origins[name] = each.default, "assumed"
        else:
            values[name], origins[name] = _measured(measured, name), "measured"
    return values, origins


def text(values: dict[str, float], origins: dict[str, str], planned: dict[str, Any]) -> str:
    """The figures, each with where it comes from, and the plan in words."""
    lines = ["figure              value        from"]
    for name, (_, each) in figures().items():
        lines.append(f"{name:19} {values[name]:<12.6g} {origins[name]:9} {each.metadata['help']}")
    rates, again, paid = planned["rates"], planned["restart"], planned["money"]
    lines += [
        "",
        f"needed {rates['needed']:.1f} pictures/s; a node does {rates['node']:.2f}, "
        f"{rates['at_work']:.1%} of its time at work; of a node its {planned['first']} are used up first: "
        + ", ".join(f"{name} {busy:.1%}" for name, busy in planned["busy"].items() if name in rates["node_limits"]),
        f"{planned['nodes']} nodes with {planned['workers']} workers do {rates['cluster']:.1f} pictures/s: "
        f"{planned['days']:.1f} days; {planned['interruptions']:.0f} interruptions on the way",
        "all nodes together: "
        + ", ".join(
            f"{name} {planned['busy'][name]:.1%} used, enough for {until:.0f} nodes"
            for name, until in planned["nodes_until"].items()
        ),
    ]
    if planned["runs"] > 1:
        lines.append(f"the source is split in {planned['runs']} parts, a run and a driver each")
    lines += [
        f"shards of {planned['shard']} pictures: {planned['shards']} Parquet files of {planned['shard_mb']:.1f} MB, "
        f"{planned['answers_gb']:.0f} GB of answers to {planned['pictures_gb']:.0f} GB of pictures",
        f"a driver killed near the end costs {again['seconds']:.0f} s: source read again {again['enumerate']:.0f} s, "
        f"footers {again['footers']:.1f} s, models opened {again['open']:.0f} s, up to {again['pictures_again']:.0f} "
        f"pictures again {again['again']:.0f} s",
        f"money {paid['all']:.0f} ({paid['a_million']:.2f} a million pictures): "
        + ", ".join(f"{name} {paid[name]:.0f}" for name in ("nodes", "drivers", "requests", "egress", "answers")),
    ]
    short = [name for name in planned["nodes_until"] if planned["busy"][name] > 1]
    if short:
        lines.append(f"TOO SLOW FOR THIS PLAN: {', '.join(short)}. Spread over more prefixes, stores or --runs")
    return "\n".join(lines)


def _measured(path: Path, name: str) -> float:
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["costs"][name])
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): run benchmarks/labelling/costs.py") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} says nothing of costs.{name}: run costs.py, or give --{name}") from error


def _made(kind: type, values: dict[str, float]) -> Any:
    return kind(**{each.name: values[each.name] for each in fields(kind)})


if __name__ == "__main__":
    raise SystemExit(main())
