"""Recall where it is awkward, and files of detections that are broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glip_export.errors import GlipExportError
from glip_export.evaluation.flickr30k.detections_file import read_grounded, write_grounded
from glip_export.evaluation.flickr30k.entities import Target
from glip_export.evaluation.flickr30k.grounding import Grounded
from glip_export.evaluation.flickr30k.recall import Recall, RecallCounter, overlaps
from glip_export.evaluation.problems import ProblemList, counts

BOX, ELSEWHERE = [0, 0, 100, 100, 0.9], [300, 300, 400, 400, 0.8]


def target(*types: str, box: tuple[int, ...] = (0, 0, 100, 100)) -> Target:
    return Target(types, np.array([box], float))


def boxes(*rows: list[float]) -> Any:
    return np.array(rows, float).reshape(-1, 5)


def test_half_an_overlap_meets_without_one_added() -> None:
    counter = RecallCounter({"1_0": (target("people"), target("people"))})
    counter.add(Grounded(1, 0, [boxes([0, 0, 50, 100, 1]), boxes([0, 0, 49.999, 100, 1])]))
    assert counter.result().values["Recall@1_people"] == 0.5
    assert overlaps(np.array([[0.0, 0, 50, 100]]), np.array([[0.0, 0, 100, 100]])).tolist() == [0.5]


def test_how_many_boxes_count() -> None:
    rows = [[*ELSEWHERE[:4], 1 - place / 100] for place in range(20)]
    found = [boxes(*rows[:place], [*BOX[:4], 0.5], *rows[place:]) for place in (0, 1, 4, 5, 9, 10)]
    counter = RecallCounter({"1_0": (target("a"),) * 6})
    counter.add(Grounded(1, 0, found))
    values = counter.result().values
    assert [values[f"{name}_a"] for name in ("Recall@1", "Recall@5", "Recall@10", "Upper_bound")] == [
        pytest.approx(1 / 6),
        0.5,
        pytest.approx(5 / 6),
        1,
    ]


def test_a_phrase_counts_in_each_of_its_types_and_as_often_as_it_is_repeated() -> None:
    counter = RecallCounter({"1_0": (target("people", "other"), target("people")), "1_1": (target("scene"),)})
    counter.add(Grounded("1", "0", [boxes(BOX), boxes(ELSEWHERE)]))
    counter.add(Grounded(1, 1, [boxes()]))
    result = counter.result()
    assert list(result.values)[:4] == ["Recall@1_all", "Recall@1_other", "Recall@1_people", "Recall@1_scene"]
    assert result.phrases == {"all": 3, "other": 1, "people": 2, "scene": 1} and result.sentences == 2
    assert [result.values[f"Recall@1_{each}"] for each in result.phrases] == [1 / 3, 1, 0.5, 0]


def test_a_box_without_area_is_as_in_the_original() -> None:
    counter = RecallCounter({"1_0": (target("a", box=(5, 5, 5, 5)), target("a", box=(5, 5, 5, 5)))})
    counter.add(Grounded(1, 0, [boxes([5, 5, 5, 5, 1]), boxes(BOX)]))
    assert set(counter.result().values.values()) == {0.0}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "huge",
    [[0, 0, 1e308, 1e308], [-1e308, -1e308, 1e308, 1e308], [1e308, 1e308, -1e308, -1e308], [-1e308, 5, 1e308, 5]],
)
def test_boxes_without_end_overlap_nothing(huge: list[float]) -> None:
    assert overlaps(np.array([huge, BOX[:4]], float), np.array([BOX[:4]], float)).tolist() == [0, 1]


def test_sentences_that_the_run_left_out_count_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    write_grounded(path, [Grounded(1, 0, [boxes(BOX)]), Grounded(1, "1", (), left_out=True)])
    assert json.loads(path.read_text().splitlines()[1]) == {"image_id": 1, "sentence_id": "1", "left_out": True}
    counter = RecallCounter({"1_0": (target("a"),), "1_1": (target("b"),)})
    assert [counter.add(each) for each in [*read_grounded(path, ProblemList())] * 2] == [True, True, False, False]
    assert counter.result() == _alone(Grounded(1, 0, [boxes(BOX)]))
    path.write_text('{"image_id": 1, "sentence_id": 1, "left_out": 1}\n')
    problems = ProblemList()
    assert not list(read_grounded(path, problems)) and counts(problems.listed()) == {"detections: broken entry": 1}


def _alone(found: Grounded) -> Recall:
    counter = RecallCounter({"1_0": (target("a"),)})
    counter.add(found)
    return counter.result()


def test_second_missing_and_wrong_predictions() -> None:
    counter = RecallCounter({"1_0": (target("a"),), "1_1": (target("a"),)})
    assert counter.add(Grounded(1, 0, [boxes(ELSEWHERE)]))
    assert not counter.add(Grounded(1, 0, [boxes(BOX)]))  # ignored
    assert counter.add(Grounded(9, 0, [boxes(BOX)]))  # not scored
    with pytest.raises(GlipExportError, match=r"nothing is given for 1 of 2 sentences.* sentence 1 of picture 1"):
        counter.result()
    with pytest.raises(GlipExportError, match=r"sentence 1 of picture 1 has boxes for 2 phrase\(s\), but 1 are scored"):
        counter.add(Grounded(1, 1, [boxes(), boxes()]))
    rest = RecallCounter({"1_0": (target("a"),), "2_0": (target("b"),)}, left_out=["2_0"])
    rest.add(Grounded(1, 0, [boxes(BOX)]))
    assert rest.result().values["Recall@1_all"] == 1 and rest.result().values["Recall@1_b"] is None


def test_lines_are_sorted_and_broken_ones_told(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    good = {"image_id": 1, "sentence_id": "0", "boxes": [[[1, 2, 3, 4, 0.5], BOX, [5, 6, 7, 8, 0.5]], []]}
    spoilt = {
        **good,
        "image_id": 2,
        "boxes": [[BOX, [1, 2, 3, 4], None, [1, 2, 3, 4, "high"], [1, 2, 3, 4, float("nan")]]],
    }
    lines = [good, spoilt, [], {"image_id": 3}, {**good, "boxes": [3]}, {**good, "sentence_id": None}]
    path.write_text("\n\n".join([*map(json.dumps, lines), '{"image_id": 4, "sent']))
    problems = ProblemList()
    first, second = read_grounded(path, problems)
    assert (first.image_id, first.sentence_id) == (1, "0")
    assert [each.tolist() for each in first.boxes] == [[BOX, [1, 2, 3, 4, 0.5], [5, 6, 7, 8, 0.5]], []]
    assert [each.tolist() for each in second.boxes] == [[BOX]]
    assert counts(problems.listed()) == {"detections: broken box": 4, "detections: broken entry": 5}
    assert "detections line 3: " in problems.listed()[0].text  # empty lines count
    with pytest.raises(GlipExportError, match="without --strict"):
        list(read_grounded(path, ProblemList(), strict=True))
    with pytest.raises(GlipExportError, match="cannot read"):
        list(read_grounded(tmp_path / "none.jsonl", problems))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    write_grounded(path, [Grounded("a", 3, [boxes(BOX), boxes()])])
    before = path.read_bytes()
    assert json.loads(before) == {"image_id": "a", "sentence_id": 3, "boxes": [[BOX], []]}

    def fails() -> Any:
        yield Grounded(1, 0, [boxes(BOX)])
        raise GlipExportError("enough")

    with pytest.raises(GlipExportError, match="enough"):
        write_grounded(path, fails())
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["found.jsonl"]
