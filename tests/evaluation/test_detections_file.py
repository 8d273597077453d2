"""Files of detections: read block by block as json.loads reads them, written as json.dumps writes them."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glip_export.errors import GlipExportError
from glip_export.evaluation import json_entries as entries_of
from glip_export.evaluation.detections_file import NOT_ASKED, Places, detections_writer, read_detections
from glip_export.evaluation.json_entries import json_entries
from glip_export.evaluation.problems import MOST_NAMED, ProblemList, counts
from glip_export.evaluation.rows import Found

PLACES = Places({5: 0, 9: 1, "a": 2, 11: NOT_ASKED}, {3: 0, 4: 1, 8: NOT_ASKED})
GOOD: dict[str, Any] = {"image_id": 9, "category_id": 4, "bbox": [1, 2.5, 3, 4.25], "score": 0.1}


def read(path: Path, entries: object, strict: bool = False) -> tuple[list[tuple[Any, ...]], ProblemList]:
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    problems = ProblemList()
    rows = [
        row
        for block in read_detections(path, PLACES, problems, strict)
        for row in zip(*(each.tolist() for each in block), strict=True)
    ]
    return rows, problems


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "found.json"


def test_ids_become_places_and_numbers_stay(file: Path) -> None:
    rows, problems = read(file, [GOOD, {**GOOD, "image_id": "a", "category_id": 3, "score": 1}])
    assert rows == [(1, 1, 0.1, [1, 2.5, 3, 4.25]), (2, 0, 1.0, [1, 2.5, 3, 4.25])]
    assert not problems.listed()


def test_what_is_not_asked_for_is_left_out_without_a_word(file: Path) -> None:
    rows, problems = read(file, [{**GOOD, "image_id": 11}, GOOD, {**GOOD, "category_id": 8}])
    assert len(rows) == 1
    assert not problems.listed()


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"image_id": 6}, "unknown picture", "image_id 6 is no picture's"),
        ({"image_id": 9.5}, "broken entry", "image_id is 9.5, not a whole number"),
        ({"image_id": "9"}, "unknown picture", "image_id '9' is no picture's"),
        ({"category_id": float("inf")}, "broken entry", "category_id is inf, not a whole number"),
        ({"image_id": True}, "broken entry", "image_id is True, not a whole number"),
        ({"category_id": 5}, "unknown category", "category_id 5 is no category's"),
        ({"category_id": "4"}, "broken entry", "category_id is '4', not a whole number"),
        ({"score": float("nan")}, "broken entry", "score is nan, not a finite number"),
        ({"score": None}, "broken entry", "score is None, not a finite number"),
        ({"score": 10**400}, "broken entry", "not a finite number"),
        ({"bbox": [1, 2, 3]}, "broken entry", "bbox is [1, 2, 3], not [x, y, width, height]"),
        ({"bbox": [1, 2, 3, float("inf")]}, "broken entry", "not [x, y, width, height]"),
        ({"bbox": "1234"}, "broken entry", "bbox is '1234'"),
        ({"bbox": [1, 2, True, 4]}, "broken entry", "not [x, y, width, height]"),
    ],
)
def test_broken_entries_are_left_out_and_told(file: Path, changes: dict[str, Any], kind: str, words: str) -> None:
    rows, problems = read(file, [GOOD, {**GOOD, **changes}, GOOD])
    assert len(rows) == 2
    (problem,) = problems.listed()
    assert problem.kind == f"detection: {kind}"
    assert problem.text.startswith("detection entry 2: ")
    assert words in problem.text
    with pytest.raises(GlipExportError, match=r"detection entry 2: .*; without --strict it is left out"):
        read(file, [GOOD, {**GOOD, **changes}], strict=True)


@pytest.mark.parametrize("others", [[], [{**GOOD, "image_id": 6}]])  # all in order, and one by one
def test_ids_may_be_whole_floats(file: Path, others: list[Any]) -> None:
    rows, _ = read(file, [{**GOOD, "image_id": 9.0, "category_id": 4.0}, *others])
    assert rows == [(1, 1, 0.1, [1, 2.5, 3, 4.25])]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{**GOOD, "image_id": 6}] * 3, "has 3 entries, .*: detection entry 1: image_id 6 is no picture's"),
        ([{**GOOD, "image_id": "9"}], "image_id '9' is no picture's"),
        ([[GOOD]], "is not an object"),
        ([1, 2, 3], "has 3 entries, .*: detection entry 1: 1 is not an object"),
        ([None], "None is not an object"),
    ],
)
def test_a_file_of_which_nothing_can_be_used_is_refused(file: Path, entries: list[Any], words: str) -> None:
    with pytest.raises(GlipExportError, match=words):
        read(file, entries)


def test_a_file_of_what_is_not_asked_for_is_none_of_another_set(file: Path) -> None:
    assert read(file, [{**GOOD, "image_id": 11}])[0] == []


def test_entries_without_a_key_or_that_are_no_objects(file: Path) -> None:
    rows, problems = read(file, [{"image_id": 9}, 4, GOOD])
    assert len(rows) == 1
    assert counts(problems.listed()) == {"detection: broken entry": 2}


def test_millions_of_problems_are_counted_and_the_first_named(file: Path) -> None:
    _, problems = read(file, [GOOD, *[{**GOOD, "image_id": 6}] * (MOST_NAMED + 30)])
    assert counts(problems.listed()) == {"detection: unknown picture": MOST_NAMED + 30}
    assert len(problems.listed()) == MOST_NAMED + 1
    assert problems.listed()[-1].text == "and 30 more"


NESTED = [
    {"a": [{"b": 1}, {"b": '}, {"'}], "c": "é}, {"},
    {"a": {}, "long": "x" * 300},
    {"a": [[{}, {}], {"b": {"c": 2}}]},
] * 40


@pytest.mark.parametrize("size", [7, 64, 1000])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_is_cut_between_its_entries(
    file: Path, size: int, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries_of, "READ_BYTES", size)
    file.write_text("\ufeff " + json.dumps(NESTED, indent=indent, ensure_ascii=False) + " \n", encoding="utf-8")
    parts = list(json_entries(file))
    assert [each for part in parts for each in part] == NESTED
    assert len(parts) > 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not begin with"),
        ('{"annotations": []}', "does not begin with"),
        ("[{}, {}", "its end is not JSON"),
        ("[{}, {}]]", "its end is not JSON"),
        ("[{} {}]", "its end is not JSON"),
        ("[{}, {},]", "its end is not JSON|nothing stands after"),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_what_is_no_list_is_refused(
    file: Path, text: str, words: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries_of, "READ_BYTES", size)
    with pytest.raises(GlipExportError, match=f"{file.name} is no JSON list of objects: .*({words})"):
        read(file, text)


def test_what_never_becomes_an_entry_is_not_read_to_its_end(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries_of, "READ_BYTES", 100)
    monkeypatch.setattr(entries_of, "MOST_BYTES", 1000)
    file.write_text("[" + "1, " * 100_000 + "1]")
    with pytest.raises(GlipExportError, match=r"no JSON list of objects of at most .* from byte 1 on"):
        list(json_entries(file))


def test_an_empty_list_and_a_missing_file(file: Path, tmp_path: Path) -> None:
    assert read(file, "[ ]")[0] == []
    with pytest.raises(GlipExportError, match=r"cannot read .*none.json: No such file"):
        list(json_entries(tmp_path / "none.json"))


def test_memory_does_not_grow_with_the_file(file: Path) -> None:
    with file.open("w") as target:
        target.write("[" + ", ".join([json.dumps(GOOD)] * 150_000) + "]")
    assert file.stat().st_size > 10_000_000
    tracemalloc.start()
    try:
        rows = sum(len(block.item) for block in read_detections(file, PLACES, ProblemList()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows == 150_000
    assert peak < 30_000_000  # about 1 kB an entry of two megabytes of them; all would take 140 MB


def test_progress_ends_with_the_files_size(file: Path) -> None:
    file.write_text(json.dumps([GOOD] * 20_000))
    told: list[int] = []
    list(json_entries(file, told.append))
    assert told == sorted(told) and told[-1] == file.stat().st_size


def test_written_as_json_dumps_writes_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glip_export.evaluation.detections_file.WRITTEN_AT_ONCE", 3)
    rng = np.random.default_rng(0)
    found = Found(
        rng.integers(0, 3, 8).astype(np.int64),
        rng.integers(0, 2, 8).astype(np.int64),
        rng.random(8),
        rng.random((8, 4)),
    )
    ids, categories = [5, 9, "a"], [3, 4]
    with detections_writer(file, ids, categories) as write:
        write(found.part(slice(0, 5)))
        write(found.part(slice(5, None)))
    entries = [
        {"image_id": ids[item], "category_id": categories[label], "bbox": box, "score": score}
        for item, label, score, box in zip(*(each.tolist() for each in found), strict=True)
    ]
    assert file.read_text() == json.dumps(entries) + "\n"
    (block,) = read_detections(file, PLACES, ProblemList())
    assert all((one == other).all() for one, other in zip(block, found, strict=True))


def test_nothing_found_is_an_empty_list(file: Path) -> None:
    with detections_writer(file, [], []):
        pass
    assert file.read_text() == "[]\n"
