"""What is measured of models that nobody published: text inside the backbone, text that runs ahead of the head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from compact_oracle import OracleCase

from glip_export.bench.graph_cost import bundle_gmac
from glip_export.bench.job import PLAIN, TRIMMED, Job
from glip_export.bench.measure import Measurement, count_work
from glip_export.bench.workload import Workload
from glip_export.bundle import Bundle

SIZE = (96, 160)  # H, W
NAMES = ("cat", "coffee cup", "rocket")


@pytest.fixture(scope="module", params=["swint_v2_vl", "mha_s"])
def bundle(request: pytest.FixtureRequest, oracle_bundle: Callable[[OracleCase], Path]) -> Bundle:
    return Bundle.open(oracle_bundle(OracleCase(request.param)), verify=False)


class Counter:
    """Counts in this process."""

    def ask(self, do: str, bundle: str, graph: str, size: tuple[int, int], tokens: int, classes: int) -> float:
        return bundle_gmac(Bundle.open(Path(bundle), verify=False), graph, size, max(tokens, 1), max(classes, 1))

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def job(bundle: Bundle, prompts: int = 1, names: tuple[str, ...] = NAMES) -> Job:
    return Job(str(bundle.path), names, SIZE, batch=2, threads=1, prompts_per_image=prompts)


def test_a_backbone_that_fuses_text_runs_once_a_prompt(bundle: Bundle) -> None:
    calls = Workload.open(job(bundle, prompts=3), "onnxruntime").run().calls
    backbones = 3 if bundle.config.swin.fuses_text else 1
    assert (calls["text_encoder"], calls["vision_backbone"], calls["fusion_head"]) == (3, backbones, 3)


def test_the_published_form_detects_the_same(bundle: Bundle) -> None:
    outcomes = []
    for backend in (PLAIN, TRIMMED):
        work = Workload.open(job(bundle), backend)
        work.run()
        outcomes.append(work.outcome())
    padded, trimmed = outcomes
    tokens = [max(item["tokens"] for item in outcome["sizes"]) for outcome in outcomes]
    assert tokens[0] == bundle.config.text.max_query_len > tokens[1]
    for theirs, ours in zip(padded["detections"], trimmed["detections"], strict=True):
        np.testing.assert_array_equal(theirs["labels"], ours["labels"])
        np.testing.assert_allclose(theirs["scores"], ours["scores"], atol=1e-5)
    assert np.max(padded["detections"][0]["scores"]) > 0.05


def test_multiply_adds_follow_the_prompts_tokens(bundle: Bundle) -> None:
    """Of the backbone too, where it reads them."""
    found = []
    for names in (NAMES[:1], NAMES):
        work = Workload.open(job(bundle, names=names), "onnxruntime")
        work.run()
        measured = Measurement("onnxruntime", "fp32", 0.0, outcome=work.outcome())
        (graphs,) = count_work(job(bundle, names=names), [measured], worker=Counter())  # type: ignore[arg-type]
        assert graphs is not None
        found.append(graphs)
    few, many = found
    assert many["text_encoder"] > few["text_encoder"]
    assert many["fusion_head"] > few["fusion_head"]
    assert (many["vision_backbone"] > few["vision_backbone"]) == bundle.config.swin.fuses_text
