"""Flickr30k's numbers against those of the original's evaluator, digit for digit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glip_export.config import GlipConfig
from glip_export.evaluation.flickr30k.dataset import FlickrDataset
from glip_export.evaluation.flickr30k.detections_file import read_grounded, write_grounded
from glip_export.evaluation.flickr30k.entities import Entities, subset_of
from glip_export.evaluation.flickr30k.entity_files import read_sentences
from glip_export.evaluation.flickr30k.grounding import Grounded, boxes_by_phrase, with_empty_box
from glip_export.evaluation.flickr30k.recall import RecallCounter
from glip_export.evaluation.problems import ProblemList
from glip_export.image import restore_boxes

ORACLE = Path(__file__).parents[2] / "data" / "oracle" / "flickr_eval"
ANNOTATIONS = ORACLE / "grounding_test.json"
EXPECTED: dict[str, Any] = json.loads((ORACLE / "expected.json").read_text())
PREDICTIONS: list[dict[str, Any]] = json.loads((ORACLE / "predictions.json").read_text())


@pytest.fixture(scope="module")
def dataset() -> FlickrDataset:
    return FlickrDataset.read(ANNOTATIONS, None)


@pytest.fixture(scope="module")
def found(dataset: FlickrDataset) -> list[Grounded]:
    """The stored detections after our post-processing."""
    results = []
    with np.load(ORACLE / "detections.npz") as arrays:
        for image, sentences in zip(dataset.images, dataset.grouped, strict=True):
            assert image.size is not None
            for sentence in sentences:
                boxes, scores, labels, (w, h) = (
                    arrays[f"{sentence.key}_{name}"] for name in ("boxes", "scores", "labels", "size_wh")
                )
                order = np.random.default_rng(1).permutation(len(scores))
                whole = restore_boxes(boxes[order], (int(h), int(w)), image.size)
                found = boxes_by_phrase(whole, scores[order], labels[order] - 1, len(sentence.spans))
                results.append(Grounded(sentence.image_id, sentence.sentence_id, found))
    return results


def metrics(found: Sequence[Grounded], merged: bool) -> dict[str, float | None]:
    counter = RecallCounter(Entities.read(ORACLE, "test", merged).truth)
    assert all(counter.add(each) for each in found)
    return dict(counter.result().values)


def test_the_loader_keeps_the_sentences_with_annotations(dataset: FlickrDataset) -> None:
    assert [sentence.key for sentence in dataset.sentences] == EXPECTED["evaluated_sentences"]
    assert [image.id for image in dataset.images] == [9000000101, 9000000202]
    assert not dataset.problems and "9000000101_2" in dataset.known


def test_captions_ids_and_positive_maps(dataset: FlickrDataset) -> None:
    for sentence in dataset.sentences:
        (chunk,) = sentence.prompt().chunks(GlipConfig().text.max_query_len)
        assert chunk.caption == EXPECTED["captions"][sentence.key]
        assert chunk.input_ids.tolist() == EXPECTED["input_ids"][sentence.key]
        maps = EXPECTED["positive_maps_1based_phrase_to_tokens"][sentence.key]
        assert {str(label + 1): list(tokens) for label, tokens in enumerate(chunk.class_tokens)} == maps


def test_phrases_of_the_entities() -> None:
    for picture, sentences in EXPECTED["phrases"].items():
        whole = read_sentences(ORACLE / "Sentences" / f"{picture}.txt")
        assert len(whole) == len(sentences)
        for ours, theirs in zip(whole, sentences, strict=True):
            scored = [(each["phrase_id"], each["phrase"], tuple(each["phrase_type"])) for each in theirs or ()]
            assert [tuple(each) for each in ours if each.id in {own for own, *_ in scored}] == scored


def test_post_processing(found: list[Grounded]) -> None:
    assert len(found) == len(PREDICTIONS)
    for ours, theirs in zip(found, PREDICTIONS, strict=True):
        assert (ours.image_id, ours.sentence_id) == (theirs["image_id"], theirs["sentence_id"])
        assert [with_empty_box(boxes).tolist() for boxes in ours.boxes] == theirs["boxes"]
        assert [boxes[:, 4].tolist() for boxes in ours.boxes] == theirs["scores"]


@pytest.mark.parametrize("mode", ["separate", "merged"])
def test_recall(found: list[Grounded], mode: str) -> None:
    ours = metrics(found, mode == "merged")
    assert list(ours.items()) == list(EXPECTED["metrics"][mode].items())
    assert EXPECTED["metrics"]["separate"] != EXPECTED["metrics"]["merged"]


@pytest.mark.parametrize("mode", ["separate", "merged"])
def test_recall_of_a_file(found: list[Grounded], mode: str, tmp_path: Path) -> None:
    write_grounded(tmp_path / "found.jsonl", found)
    problems = ProblemList()
    again = list(read_grounded(tmp_path / "found.jsonl", problems))
    assert metrics(again, mode == "merged") == EXPECTED["metrics"][mode]
    assert not problems.listed() and [json.loads(line)["sentence_id"] for line in (tmp_path / "found.jsonl").open()]
    # The original's own predictions, with the box that it appends to each list; the order of lines is no matter.
    entries = [
        {**entry, "boxes": [[[*box, score] for box, score in zip(boxes, [*scores, 0.0], strict=True)]
                            for boxes, scores in zip(entry["boxes"], entry["scores"], strict=True)]}
        for entry in reversed(PREDICTIONS)
    ]  # fmt: skip
    (tmp_path / "theirs.jsonl").write_text("\n".join(map(json.dumps, entries)))
    assert (
        metrics(list(read_grounded(tmp_path / "theirs.jsonl", problems)), mode == "merged") == EXPECTED["metrics"][mode]
    )


def test_the_subset() -> None:
    assert subset_of(ORACLE, ANNOTATIONS) == "test"
    assert subset_of(ORACLE, Path("final_flickr_separateGT_val.json")) == "val"
    assert subset_of(ORACLE, Path("annotations.json")) == "test"  # the only one in the folder
    assert subset_of(ORACLE, ANNOTATIONS, "val") == "val"
