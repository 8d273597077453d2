"""What one run does, shown by its calls: what is cached, what is encoded once, what is padded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from parity.fakes import CONFIG, FakeSession

from glip_export.bench.job import Job, precision_of
from glip_export.bench.published_form import PublishedForm
from glip_export.bench.workload import Workload, graph_sizes

JOB = Job("bundle", ("cat", "coffee cup", "rocket"), (64, 96), batch=2)


def workload(job: Job = JOB, **changes: Any) -> Workload:
    return Workload(FakeSession("fake"), CONFIG, replace(job, **changes))


def graph_calls(work: Workload) -> tuple[int, int, int]:
    """(text_encoder, vision_backbone, fusion_head) calls of a run that is not the first."""
    work.run()
    calls = work.run().calls
    return calls["text_encoder"], calls["vision_backbone"], calls["fusion_head"]


def test_stages_add_up_to_the_total_of_each_run() -> None:
    work = workload()
    for _ in range(3):
        run = work.run()
        assert sum(run.stages.values()) == pytest.approx(run.total_ms, rel=1e-9)
        assert all(value > 0 for value in run.stages.values())


def test_every_run_encodes_the_text_unless_it_is_cached() -> None:
    assert graph_calls(workload()) == (1, 1, 1)
    assert graph_calls(workload(cached_text=True)) == (0, 1, 1)


def test_more_prompts_on_a_picture_cost_no_backbone() -> None:
    assert graph_calls(workload(prompts_per_image=5)) == (5, 1, 5)
    assert graph_calls(workload(prompts_per_image=3, cached_text=True)) == (0, 1, 3)


def test_1203_names_run_the_backbone_once() -> None:
    names = tuple(f"name {index}" for index in range(1203))
    text, vision, fusion = graph_calls(workload(names=names))
    assert vision == 1 and text == fusion > 10


def test_prompts_are_as_long_as_each_other_and_differ() -> None:
    prompts = replace(JOB, prompts_per_image=3).prompts()
    assert prompts == [
        ["cat", "coffee cup", "rocket"], ["coffee cup", "rocket", "cat"], ["rocket", "cat", "coffee cup"],
    ]  # fmt: skip


def test_the_outcome_has_sizes_and_the_last_runs_detections() -> None:
    work = workload()
    work.run()
    work.run()
    outcome = work.outcome()
    tokens = 8  # [CLS] cat . coffee cup . rocket [SEP]
    assert outcome["sizes"] == [
        {"graph": "vision_backbone", "batch": 2, "tokens": 0, "classes": 0, "calls": 1},
        {"graph": "text_encoder", "batch": 1, "tokens": tokens, "classes": 0, "calls": 1},
        {"graph": "fusion_head", "batch": 2, "tokens": tokens, "classes": 3, "calls": 1},
    ]
    assert len(outcome["detections"]) == 1
    assert np.shape(outcome["detections"][0]["boxes"])[::2] == (2, 4)


def test_the_published_form_pads_every_caption() -> None:
    work = workload()
    work.run()
    trimmed = work.outcome()
    work.publish()
    work.run()
    assert {item.tokens for item in graph_sizes(work.session.calls) if item.graph != "vision_backbone"} == {64}
    assert work.outcome()["detections"] == trimmed["detections"]


def test_the_published_form_gives_back_the_tokens_it_was_given() -> None:
    session = PublishedForm(FakeSession("fake"), 64)
    ids = np.array([[101, 4937, 102]])
    features = session.text_encoder(ids, np.ones_like(ids))
    np.testing.assert_array_equal(features, FakeSession("fake").text_encoder(ids, np.ones_like(ids)))


def test_a_job_survives_json() -> None:
    import json

    assert Job.from_json(json.loads(json.dumps(JOB.to_json()))) == JOB


@pytest.mark.parametrize(
    ("backend", "session", "bundle", "expected"),
    [
        ("openvino:bf16", None, "fp32", "bf16"),
        ("openvino:f32", "bf16", "fp32", "fp32"),
        ("openvino", "bf16", "fp32", "bf16"),
        ("torch:trimmed", None, "fp32", "fp32"),
        ("tensorrt", None, "fp16", "fp16"),
    ],
)
def test_precision(backend: str, session: str | None, bundle: str, expected: str) -> None:
    assert precision_of(backend, session, bundle) == expected
