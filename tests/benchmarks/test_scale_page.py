"""docs/scale.md shows the figures that stand in benchmarks/results, and no others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "labelling"))

from scale_page import filled, parts, ran

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "2026-11-27" / "labelling"


def test_the_page_shows_the_results() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert page == filled(page, parts(RESULTS)), "run benchmarks/labelling/scale_page.py"


def test_what_is_not_equal_is_said() -> None:
    machinery, cluster = (
        json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in ("machinery", "cluster")
    )
    assert "NOT" not in ran(machinery, cluster, None)
    cluster["a machine killed"] |= {"equal": False, "once": False}
    (line,) = (line for line in ran(machinery, cluster, None).splitlines() if "NOT" in line)
    assert "one raylet" in line and "NOT EACH ONCE" in line and "NOT EQUAL" in line


def test_throughput_is_told_once_it_is_there() -> None:
    machinery, cluster = (
        json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in ("machinery", "cluster")
    )
    speeds = {"1 worker": 10.0, "2 workers": 19.0, "2 workers on Ray": 18.0}
    found = {"pictures_a_second": speeds, "ms_a_picture": dict.fromkeys(speeds, 100.0)}
    words = ran(machinery, cluster, {**found, "two_workers": 1.9, "ray_overhead": 0.0556})
    assert "2 workers on Ray 18.0/s (100 ms a picture): two do 1.90 times one, Ray takes 5.6% more time" in words


def test_a_part_is_put_between_its_marks() -> None:
    page = "a\n<!-- one -->\nold\nolder\n<!-- / -->\nb\n<!-- two -->\n\n<!-- / -->\n"
    made = {"one": r"new \1", "two": "2"}
    assert filled(page, made) == "a\n<!-- one -->\nnew \\1\n<!-- / -->\nb\n<!-- two -->\n2\n<!-- / -->\n"
    assert filled(filled(page, made), made) == filled(page, made)
    with pytest.raises(ValueError, match="has 0 parts that begin with <!-- three -->"):
        filled(page, {"three": ""})
