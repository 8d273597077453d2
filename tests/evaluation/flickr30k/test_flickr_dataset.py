"""The grounding annotations, as they should be and broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_flickr import CAPTION, PEOPLE, entry, write_entities, write_grounding

from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.evaluation.flickr30k.dataset import FlickrDataset
from glip_export.evaluation.flickr30k.entities import Entities
from glip_export.evaluation.problems import counts


def read(path: Path, *entries: Any, limit: int | None = None, **others: Any) -> FlickrDataset:
    return FlickrDataset.read(write_grounding(path / "grounding_test.json", entries, **others), None, limit)


def test_sentences_stand_with_their_picture(tmp_path: Path) -> None:
    entries = [entry(5, 200, 1), entry(1, "100"), entry(4, 200, "0"), entry(3, 200, 2), entry(2, 300)]
    found = read(tmp_path, *entries, annotated=[1, 4, 5, 2, 5])
    assert [image.id for image in found.images] == ["100", 300, 200]
    assert [sentence.key for sentence in found.sentences] == ["100_0", "300_0", "200_0", "200_1"]
    assert "200_2" in found.known and not found.problems and not found.limited
    some = read(tmp_path, *entries, limit=2)
    assert [image.id for image in some.images] == ["100", 300] and some.limited


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        ({"file_name": "../secret.jpg"}, "sentence: path outside the folder"),
        ({"file_name": "/etc/passwd"}, "sentence: path outside the folder"),
        ({"file_name": None}, "sentence: broken entry"),
        ({"file_name": "other.jpg"}, "sentence: broken entry"),
        ({"width": 201}, "sentence: broken entry"),
        ({"caption": None}, "sentence: broken entry"),
        ({"caption": "half \ud800", "tokens_positive_eval": [[[0, 4]]]}, "sentence: broken entry"),
        ({"id": 1}, "sentence: id used twice"),
        ({"sentence_id": "0"}, "sentence: id used twice"),
        ({"sentence_id": None}, "sentence: broken entry"),
        ({"tokens_positive_eval": None}, "sentence: broken entry"),
        ({"tokens_positive_eval": [[[0, 1]]] * 101}, "sentence: broken entry"),
        ({"tokens_positive_eval": [[0, 7]]}, "sentence: span outside the caption"),
        ({"tokens_positive_eval": [[[0, 99]]]}, "sentence: span outside the caption"),
        ({"tokens_positive_eval": [[[3, 3]]]}, "sentence: span outside the caption"),
        ({"tokens_positive_eval": [[[-1, 3]]]}, "sentence: span outside the caption"),
        ({"tokens_positive_eval": [[[0, True]]]}, "sentence: span outside the caption"),
    ],
)
def test_broken_sentences_are_left_out_and_told(broken: dict[str, Any], kind: str, tmp_path: Path) -> None:
    found = read(
        tmp_path, entry(1, 100), {**entry(2, 100, 1), **broken}, entry(3, 100, 2), annotated=[1, broken.get("id", 2), 3]
    )
    assert [sentence.key for sentence in found.sentences] == ["100_0", "100_2"]
    assert counts(found.problems) == {kind: 1}
    assert "sentence entry 2" in found.problems[0].text and "\n" not in found.problems[0].text


def test_broken_annotations(tmp_path: Path) -> None:
    found = read(tmp_path, entry(1, 100), entry(2, 200), annotated=[1, 7, None, [1]])
    assert [sentence.key for sentence in found.sentences] == ["100_0"]
    assert counts(found.problems) == {"annotation: unknown sentence": 1, "annotation: broken entry": 2}


def test_phrases_without_a_token_are_asked_for(tmp_path: Path) -> None:
    caption = "A cat \u200b\u200b\u200b\u200b."
    found = read(tmp_path, entry(1, 100, caption=caption, tokens_positive_eval=[[[0, 5]], [[6, 8]], []]))
    (chunk,) = found.sentences[0].prompt().chunks()
    assert chunk.class_tokens == ((1, 2), (), ())
    nothing = read(tmp_path, entry(1, 100, tokens_positive_eval=[]))
    assert nothing.sentences[0].prompt() is None


def test_sentences_that_are_too_long(tmp_path: Path) -> None:
    found = read(tmp_path, entry(1, 100), entry(2, 100, 1, caption=CAPTION + " word" * 300))
    config = GlipConfig()
    fitting = found.fitting(config)
    assert [sentence.key for sentence in fitting.sentences] == ["100_0"]
    assert counts(fitting.problems) == {"sentence: too long": 1}
    short = replace(config, text=replace(config.text, max_query_len=4))
    assert not found.fitting(short).sentences


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    entities = Entities.read(write_entities(tmp_path), "test")
    truth, lacking = read(tmp_path, entry(1, 100), entry(2, 200), entry(3, 300)).asked(entities)
    assert truth.keys() == {"100_0", "200_0"} and not lacking
    with pytest.raises(GlipExportError, match="no sentence in common; see --subset"):
        read(tmp_path, entry(1, 300)).asked(entities)
    with pytest.raises(GlipExportError, match=r"1 sentence.* not annotated, the first is sentence 0 of picture 200"):
        read(tmp_path, entry(1, 100)).asked(entities)
    with pytest.raises(GlipExportError, match=r"sentence 0 of picture 200 asks for 1 phrase\(s\), but 2 have boxes"):
        read(tmp_path, entry(1, 100), entry(2, 200, tokens_positive_eval=[[[0, 7]]])).asked(entities)
    truth, lacking = read(tmp_path, entry(1, 100), entry(2, 200), limit=1).asked(entities)
    assert truth.keys() == {"100_0"} and not lacking


def test_sentences_whose_entry_is_broken_are_not_scored(tmp_path: Path) -> None:
    entities = Entities.read(write_entities(tmp_path, {"100": f"{PEOPLE}\n{PEOPLE}"}), "test")
    found = read(tmp_path, entry(1, 100), entry(2, 100, 1, caption="Short ."), annotated=[1, 2])
    truth, lacking = found.asked(entities)
    assert truth.keys() == {"100_0"}
    assert counts((*found.problems, *lacking)) == {"sentence: span outside the caption": 1, "sentence: not scored": 1}


def test_files_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(GlipExportError, match='no list "images"'):
        (tmp_path / "a.json").write_text("{}")
        FlickrDataset.read(tmp_path / "a.json", None)
    with pytest.raises(
        GlipExportError, match="no sentence to evaluate: sentence entry 1: tokens_positive_eval is None"
    ):
        read(tmp_path, entry(1, 100, tokens_positive_eval=None))
    with pytest.raises(GlipExportError, match="does not exist or is no folder"):
        FlickrDataset.read(tmp_path / "a.json", tmp_path / "none")
