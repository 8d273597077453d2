"""The GPU run's soak, rehearsed: what it says of a session that is right, one that changes its mind, one that leaks."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "gpu"))

import step_soak
from context import Context, run_part
from models import DEMO
from step_soak import growth, soak

from glip_export.parity.run import Inputs, TextInputs


class Session:
    """One detection that depends on the picture; trouble begins with the run `from_run` of the head."""

    def __init__(self, how: str = "", from_run: int = 0) -> None:
        self.how, self.from_run, self.runs = how, from_run, 0

    def text_encoder(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        return np.zeros((*input_ids.shape, 4), np.float32)

    def vision_backbone(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        return (images,) * 5

    def fusion_head(self, features: Any, *others: Any) -> tuple[np.ndarray, ...]:
        self.runs += 1
        value = np.float32(features[0].mean())
        boxes, labels = np.full((1, 1, 4), value), np.zeros((1, 1), np.int64)
        if self.runs > self.from_run:
            boxes[0, 0, 1] += {"boxes": 0.5, "nan": np.nan}.get(self.how, 0)
            labels += self.how == "labels"
        return boxes, np.full((1, 1), 0.5, np.float32), labels, np.ones(1, np.int64)

    def describe(self) -> dict[str, Any]:
        trouble = {"fusion_head": "no capture"} if self.how == "trouble" else {}
        return {"cuda_graph_trouble": trouble, "device_memory_mb": 1.0}


def questions(number: int = 3) -> list[Inputs]:
    text = TextInputs(np.array([1, 2]), np.array([1, 1]), np.ones((2, 1), np.float32))
    size = np.array([[32, 32]])
    return [Inputs(np.full((1, 3, 32, 32), value, np.float32), size, (text,)) for value in range(number)]


def after(runs: int, session: Session) -> Callable[[], bool]:
    return lambda: session.runs >= runs


def soaked(session: Session, memory: Callable[[], dict[str, float]] = lambda: {"host": 1.0}) -> dict[str, Any]:
    return soak(session, questions(), after(200, session), memory)


def test_a_right_session_has_no_problem() -> None:
    found = soaked(Session())
    assert (found["problems"], found["unequal"], found["runs"]) == ([], 0, 200)
    assert found["grown"] == {"host": 0.0}


def test_every_question_comes_three_times_though_the_time_is_up() -> None:
    assert soak(session := Session(), questions(5), lambda: True, lambda: {"host": 1.0})["runs"] == 15
    assert session.runs == 15


@pytest.mark.parametrize(("how", "by"), [("boxes", 0.5), ("labels", float("inf")), ("nan", float("inf"))])
def test_another_answer_than_the_first_is_a_problem(how: str, by: float) -> None:
    found = soaked(Session(how, from_run=150))
    assert found["unequal"] == 50
    assert found["largest_difference"] == by
    assert "50 of 200 answers are not the first" in found["problems"][0]


def test_what_grows_is_a_problem() -> None:
    used = count(0, 30)
    found = soaked(Session(), lambda: {"torch_reserved": float(next(used)), "host": 5.0})
    assert found["problems"] == ["torch_reserved memory grew by 180.0 MB"]


def test_a_graph_that_cannot_be_captured_is_a_problem() -> None:
    assert soaked(Session("trouble"))["problems"] == ["no CUDA graph of fusion_head: no capture"]


def test_growth_is_between_the_halves() -> None:
    looks = [{"a": value} for value in (1.0, 9.0, 2.0, 9.5)]
    assert growth(looks) == {"a": 0.5}
    assert growth(looks[:1]) == {}


@pytest.mark.parametrize("name", ["torch-cuda-fp16", "stand-in-fp16"])
def test_rehearsed(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    shutil.copytree(tiny_bundle, tmp_path / DEMO, ignore=shutil.ignore_patterns("cache"))
    monkeypatch.setattr(step_soak, "REHEARSED_SECONDS", 0.0)
    monkeypatch.setattr(step_soak, "EVERY", 4)
    context = Context(tmp_path, rehearsal=True, parcel=tmp_path / "none")
    found = run_part(context, "soak", name, dict(step_soak.parts(context))[name])
    assert found["status"] == "ok", found["reason"]
    assert found["result"]["runs"] == 24
    assert found["result"]["session"]["cuda_graphs"]["text_encoder"] > 0
    assert found["result"]["grown"].keys() == {"device", "host"}
