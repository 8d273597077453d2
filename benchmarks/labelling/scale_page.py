"""docs/scale.md's figures, from the JSON of the other scripts: machinery, throughput, cluster and costs.

python benchmarks/labelling/scale_page.py benchmarks/results/2026-11-27/labelling --write docs/scale.md

Prints the parts, or with --write puts them between the page's marks: <!-- ran --> ... <!-- / -->, and so on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from planning import Costs, Node, Store, Task, plan

END = "\n<!-- / -->"
PLANS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("30 days, one run", {"days": 30.0}),
    ("30 days, 10 runs", {"days": 30.0, "runs": 10}),
    ("7 days, 10 runs", {"days": 7.0, "runs": 10}),
)


def main() -> None:
    """Reads, prints or writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the folder with the four files; throughput.json may be missing")
    parser.add_argument("--write", type=Path, help="the page")
    given = parser.parse_args()
    made = parts(given.results)
    if given.write is None:
        print("\n\n".join(f"{name}:\n{text}" for name, text in made.items()))
        return
    given.write.write_text(filled(given.write.read_text(encoding="utf-8"), made), encoding="utf-8")


def parts(results: Path) -> dict[str, str]:
    """The page's parts by their marks. Raises OSError where a file is missing."""
    found = {
        name: json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("machinery", "throughput", "cluster", "costs")
        if name != "throughput" or (results / f"{name}.json").exists()
    }
    costs = found["costs"]
    return {
        "ran": ran(found["machinery"], found["cluster"], found.get("throughput")),
        "costs": cost_table(costs),
        "plan": plan_table(Costs(**costs["costs"])),
    }


def filled(page: str, made: dict[str, str]) -> str:
    """The page with the parts between their marks. Raises ValueError where a mark is missing."""
    for name, text in made.items():
        before, *after = page.split(f"<!-- {name} -->\n")
        if len(after) != 1 or END not in after[0]:
            raise ValueError(f"the page has {len(after)} parts that begin with <!-- {name} -->, not one with an end")
        page = f"{before}<!-- {name} -->\n{text}{after[0][after[0].index(END) :]}"
    return page


def ran(machinery: dict[str, Any], cluster: dict[str, Any], throughput: dict[str, Any] | None) -> str:
    """What was run, a line each."""
    rows = [_cluster_row(name, cluster[name]) for name in cluster if name != "machine"]
    if throughput is not None:
        rows.append(("pictures a second, one thread a worker, medians of turns", _speeds(throughput)))
    for place, where in (("local", "worker processes"), ("ray", "Ray")):
        if place in machinery:
            rows.append(
                (f"a list of {machinery['pictures']} paths, a stub detects, {where}", _machinery(machinery[place]))
            )
    return _table(("what", "result"), rows)


def cost_table(costs: dict[str, Any]) -> str:
    """What a picture costs, and what that was measured on."""
    cost, about = costs["costs"], costs["about"]
    rows = [
        ("decode", f"{1e3 * cost['decode_seconds']:.1f} ms of a core", "640x427 JPEG"),
        ("network", f"{cost['picture_bytes'] / 1e3:.0f} kB", "the same photos"),
        ("inference", f"{cost['inference_seconds']:.3g} s of a worker", about["inference"]),
        ("a worker's machinery", f"{1e3 * cost['overhead_seconds']:.2f} ms of a core", "a stub detects"),
        ("the driver", f"{1e3 * cost['driver_seconds']:.2f} ms", about["driver"]),
        ("a row in a shard", f"{cost['row_bytes']:.0f} bytes", "8 boxes a picture, zstd"),
        ("reading the source again", f"{1e6 * cost['enumerate_seconds']:.0f} µs", "a list of paths"),
        ("a shard's footer", f"{1e3 * cost['footer_seconds']:.2f} ms a shard", "a local disk"),
        ("opening a worker", f"{cost['open_seconds']:.1f} s a worker", f"{about['bundle_here']['bundle']}'s bundle"),
    ]
    return _table(("a picture", "measured", "on"), rows)


def plan_table(costs: Costs) -> str:
    """10^9 pictures with these costs and planning.py's assumptions."""
    rows = []
    for name, words in PLANS:
        planned = plan(Task(pictures=1e9, **words), costs, Node(), Store())
        busy = planned["busy"]
        rows.append(
            (
                name,
                f"{planned['nodes']} nodes, {planned['workers']} workers",
                f"{planned['first']}; network {busy['network']:.1%}, storage requests {busy['storage requests']:.0%}, "
                f"driver {busy['driver']:.0%}",
                f"{planned['shard']} pictures, {planned['shards']} files of {planned['shard_mb']:.1f} MB",
                f"{planned['restart']['seconds'] / 60:.0f} min, of these "
                f"{planned['restart']['enumerate'] / 60:.0f} reading the source",
                f"{planned['money']['all']:.0f}, of these {planned['money']['nodes']:.0f} for nodes",
            )
        )
    head = (
        "10^9 pictures in",
        "takes",
        "used up first; and all else",
        "shards",
        "a run's restart, at its end",
        "money",
    )
    return _table(head, rows)


def _cluster_row(name: str, run: dict[str, Any]) -> tuple[str, str]:
    what = {
        "here": "generated scenes, the demo model, two worker processes",
        "cluster": "the same on the cluster",
        "a machine killed": "one raylet and its processes killed (SIGKILL) on the way",
        "the driver killed": "the driver killed (SIGKILL) on the way and started again",
    }[name]
    words = f"{run['pictures']} pictures, {'each once' if run['once'] else 'NOT EACH ONCE'}, {run['errors']} errors, "
    words += f"{run['boxes']} boxes"
    if name != "here":
        words += ", equal to the byte" if run["equal"] else ", NOT EQUAL"
    if "of_those_untouched" in run:
        words += f"; of {run['shards_then']} shards there then {run['of_those_untouched']} untouched"
    return what, words


def _speeds(found: dict[str, Any]) -> str:
    speeds, ms = found["pictures_a_second"], found["ms_a_picture"]
    words = ", ".join(f"{name} {speeds[name]:.1f}/s ({ms[name]:.0f} ms a picture)" for name in speeds)
    words += f": two do {found['two_workers']:.2f} times one"
    if found["ray_overhead"] is not None:
        words += f", Ray takes {found['ray_overhead']:.1%} more time than worker processes"
    return words


def _machinery(found: dict[str, Any]) -> str:
    words = f"first answer after {found['first_answer_s']:.1f} s, then {found['pictures_a_second']:.0f} pictures/s"
    for role, memory in found["memory"].items():
        if memory and role != "ray":
            words += (
                f"; {role} {memory['first_uss_mb']:.0f} MB in the first third, {memory['last_uss_mb']:.0f} in the last"
            )
    return words


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
