"""The GPU run's step of parity, rehearsed: what it says of backends that are right, and of one that is not."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "gpu"))

import step_parity
from context import Context, run_part
from models import DEMO, FULL, ORACLE, oracle
from reference import Reference, ReferenceProcess

from glip_export import Bundle


@pytest.fixture
def context(tiny_bundle: Path, tmp_path: Path) -> Context:
    """With a small bundle in the place of all three; it is the oracle's."""
    for name in (DEMO, ORACLE, FULL):
        shutil.copytree(tiny_bundle, tmp_path / name, ignore=shutil.ignore_patterns("cache"))
    return Context(tmp_path, rehearsal=True, parcel=tmp_path / "none")


def measured(context: Context, name: str) -> dict[str, Any]:
    return run_part(context, "parity", name, dict(step_parity.parts(context))[name])


def test_right_backends_pass(context: Context) -> None:
    found = {name: measured(context, f"demo-{name}") for name in ("torch-cuda-fp32", "stand-in-fp16")}
    assert [one["status"] for one in found.values()] == ["ok", "ok"], found
    fp32, fp16 = (one["result"] for one in found.values())
    assert fp32["tensors"].keys() == fp16["tensors"].keys() == {"text_features", "p3", "p4", "p5", "p6", "p7"}
    assert all(tensor["relative"] < 1e-4 for tensor in fp32["tensors"].values())
    assert 1e-4 < fp16["tensors"]["p3"]["relative"] < 0.1
    assert fp32["detections"]["reference"] == fp32["detections"]["paired"] > 0
    assert fp32["detections"]["real"] == 0
    assert fp16["precision"]["share"] >= 0.95
    assert fp16["precision"]["counted"] > 0
    assert fp16["session"]["cuda_graphs"]["vision_backbone"] > 0
    assert (fp32["differing"], fp16["differing"]) == ([], [])


@pytest.mark.parametrize("name", ["oracle-torch-cuda-fp32", "oracle-stand-in-fp16"])
def test_the_originals_own_numbers(context: Context, name: str) -> None:
    found = measured(context, name)
    assert found["status"] == "ok", found["reason"]
    original = found["result"]["original"]
    assert original["recall"]["counted"] > 0
    assert max(original["tensors"].values()) < (1e-4 if name.endswith("fp32") else 0.05)
    assert len(original["tensors"]) == 6


def test_bf16_is_held_to_what_bf16_can_do(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(context, "oracle-torch-cuda-bf16")
    assert found["status"] == "ok", found["reason"]
    assert 0.6 < found["result"]["precision"]["least_share"] < 0.95
    monkeypatch.setattr(step_parity, "_least_share", lambda *_: 0.95)
    found = measured(context, "oracle-torch-cuda-bf16")
    assert found["status"] == "failed"
    assert "of the original's" in " ".join(found["result"]["problems"])


def test_other_numbers_than_the_originals_fail(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(oracle().stored, "fpn_P4@val", oracle().stored["fpn_P4@val"] * 1.01)
    found = measured(context, "oracle-torch-cuda-fp32")
    assert found["status"] == "failed"
    assert "fpn_P4" in found["reason"]


def test_what_is_not_here_is_skipped_with_its_reason(context: Context) -> None:
    found = measured(context, "demo-onnxruntime-cuda")
    assert found["status"] == "skipped"
    assert "CUDAExecutionProvider" in found["reason"] or "GPU" in found["reason"]


class Wrong:
    """A session whose head is wrong in one way."""

    def __init__(self, session: Any, how: str) -> None:
        self.session, self.how, self.calls = session, how, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def fusion_head(self, *arrays: Any) -> tuple[np.ndarray, ...]:
        boxes, scores, labels, count = self.session.fusion_head(*arrays)
        self.calls += 1
        if self.how == "boxes":
            boxes = np.where(labels[..., None] >= 0, np.maximum(boxes - 30, 0), boxes)
        elif self.how == "not finite":
            scores = np.where(np.arange(scores.shape[1]) == 0, np.nan, scores)
        elif self.calls % 2:
            scores = scores * np.float32(0.99999)
        return boxes, scores.astype(np.float32), labels, count


@pytest.mark.parametrize(
    ("backend", "how", "says"),
    [
        ("torch:cuda:fp32", "boxes", "boxes"),
        ("torch:cuda:fp16", "boxes", "clear detections found again"),
        ("torch:cuda:fp16", "not finite", "NaN"),
        ("torch:cuda:fp32", "changing", "not the same each time"),
    ],
)
def test_a_wrong_backend_fails(
    context: Context, monkeypatch: pytest.MonkeyPatch, backend: str, how: str, says: str
) -> None:
    right = Context.session

    @contextmanager
    def session(self: Context, *words: Any) -> Iterator[Wrong]:
        with right(self, *words) as opened:
            yield Wrong(opened, how)

    monkeypatch.setattr(Context, "session", session)
    found = measured(context, f"demo-{backend.replace(':', '-')}")
    assert found["status"] == "failed"
    assert " wrong: " in found["reason"]
    assert says in found["reason"]
    assert found["result"]["tensors"].keys() >= {"p3", "p7"}


def test_the_reference_of_another_process_is_read(context: Context) -> None:
    ReferenceProcess(context, FULL).wait()
    of = step_parity.subject(context, FULL)
    texts = sum(len(case.inputs(of.bundle.config).chunks) for case in of.cases)
    assert len(list((context.output / "reference" / FULL).iterdir())) == 1 + 2 * texts  # one picture
    assert [case.name for case in of.cases] == ["160x224, 4 names", "160x224, COCO"]
    found = measured(context, "full-size-torch-cuda-fp32")
    assert found["status"] == "ok", found["reason"]


def test_an_answer_is_computed_once(context: Context, tmp_path: Path) -> None:
    bundle = Bundle.open(context.output / DEMO)
    ids, mask = np.array([[101, 7, 102]]), np.ones((1, 3), np.int64)
    first = Reference(bundle, tmp_path / "answers").text_encoder(ids, mask)
    again = Reference(bundle, tmp_path / "answers")
    np.testing.assert_array_equal(again.text_encoder(ids, mask), first)
    assert again._session is None
    assert not np.array_equal(again.text_encoder(ids + 1, mask), first)
    assert again._session is not None


def test_a_reference_that_fails_says_why(context: Context) -> None:
    (context.output / FULL / "manifest.json").write_text("{}")
    with pytest.raises(RuntimeError, match=r"the reference failed: .*manifest"):
        ReferenceProcess(context, FULL).wait()
