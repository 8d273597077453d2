"""What a run came to, from its shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from labelled_runs import NAMES, answer, item, write_run
from rich.table import Table

from glip_export.cli.console import make_console
from glip_export.labelling.formats.errors_file import write_errors
from glip_export.labelling.items import Answer, Item
from glip_export.labelling.shards import Labelled
from glip_export.labelling.summary import Summary, error_kind
from glip_export.labelling.thresholds import Thresholds

BOX = (1, 2, 30, 40)
PICTURES = [
    (item("a.jpg"), answer((1, 0.9, BOX), (1, 0.8, BOX), (0, 0.6, BOX))),
    (item("b.jpg"), answer((1, 0.9, BOX), (2, 0.4, BOX))),
    (item("c.jpg"), answer((2, 0.4, BOX))),
    (item("d.jpg"), answer()),
    (item("e.jpg"), Answer.failed("'e.jpg' is too large: 20000 x 10000 is more than 89478485 pixels")),
    (item("f.jpg"), Answer.failed("'it\\'s f.jpg' is too large: 1 x 9 is more than 7 pixels")),
    (item("g.jpg"), Answer.failed("'g.jpg' is not a picture that can be read")),
]


def test_everything_is_counted_once(tmp_path: Path) -> None:
    write_run(tmp_path, PICTURES, shard_size=2)
    summary = Summary.of(tmp_path, NAMES, Thresholds.same(0.5, NAMES), seconds=2.0)
    assert (summary.pictures, summary.answered, summary.empty, summary.boxes) == (7, 4, 2, 4)
    assert [(each.name, each.boxes, each.pictures) for each in summary.classes] == [
        ("cat", 1, 1),
        ("dog", 3, 2),
        ("remote control", 0, 0),
    ]
    assert summary.errors == {
        "... is too large: N x N is more than N pixels": 2,
        "... is not a picture that can be read": 1,
    }
    assert summary.pictures_per_second == 3.5
    assert summary.lines() == ["7 picture(s), 2 of them without a box, 3 with an error; 2.00 s, 3.50 pictures/s"]


def test_names_are_held_to_their_own_thresholds() -> None:
    rows = _rows(PICTURES)
    summary = Summary.counted(rows, NAMES, Thresholds((0.7, 0.85, 0.3)), 1.0)
    assert [each.boxes for each in summary.classes] == [0, 2, 2]
    assert summary.empty == 1


def test_json_and_a_run_that_went_on(tmp_path: Path) -> None:
    write_run(tmp_path, PICTURES)
    summary = Summary.of(tmp_path, NAMES, Thresholds.same(0.5, NAMES), 4.0, labelled=2)
    document = json.loads(summary.write(tmp_path, {"prompt": "cat"}).read_text())
    assert document["prompt"] == "cat" and document["pictures_per_second"] == 0.5
    assert document["classes"][1] == {"name": "dog", "threshold": 0.5, "boxes": 3, "pictures": 2}
    assert "; 2 of them labelled now, 4.00 s, 0.50 pictures/s" in summary.lines()[0]
    nothing = Summary.of(tmp_path, NAMES, Thresholds.same(0.5, NAMES), 0.0, labelled=0)
    assert nothing.lines()[0].endswith("; all were labelled before") and nothing.pictures_per_second == 0


def test_the_table_shows_the_most_frequent_and_counts_the_others() -> None:
    names = tuple(f"name {number}" for number in range(40))
    found = [(label, 0.9, BOX) for label in range(40) for _ in range(label)]
    summary = Summary.counted(_rows([(item("a.jpg"), answer(*found))]), names, Thresholds.same(0.5, names), 1.0)
    text = _printed(summary.table())
    assert "name 39" in text and "name 10" in text and "name 9" not in text
    assert "and 10 more names" in text and str(sum(range(10))) in text
    assert summary.errors_table() is None


def test_no_name_acts_on_the_terminal() -> None:
    names = ("[red]cat[/red] \x1b[31m", ":smile:")
    rows = _rows([(item("a"), answer((0, 0.9, BOX))), (item("b"), Answer.failed("\x1b[2J [bold]no"))])
    summary = Summary.counted(rows, names, Thresholds.same(0.5, names), 1.0)
    errors = summary.errors_table()
    assert errors is not None
    text = _printed(summary.table()) + _printed(errors)
    assert "\x1b[31m" not in text and "\x1b[2J" not in text
    assert "[red]cat[/red] \\x1b[31m" in text and ":smile:" in text and "[bold]no" in text


def test_kinds_of_errors_are_short_and_few() -> None:
    assert error_kind("x" * 500) == "x" * 100 + "..."
    rows = _rows([(item(str(n)), Answer.failed("problem " + "abcdefghij"[n % 10] * (n // 10 + 1))) for n in range(300)])
    summary = Summary.counted(rows, NAMES, Thresholds.same(0.5, NAMES), 1.0)
    assert len(summary.errors) == 101 and summary.errors["others"] == 200


def test_errors_have_a_file_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, PICTURES)
    path = write_errors(tmp_path)
    assert path == tmp_path / "errors.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["source"] for line in lines] == ["e.jpg", "f.jpg", "g.jpg"]
    assert lines[2]["error"] == "'g.jpg' is not a picture that can be read"
    write_run(tmp_path, [*PICTURES[:4], *PICTURES[:3]])
    assert write_errors(tmp_path) is None and not path.exists()


def _rows(pictures: Sequence[tuple[Item, Answer]]) -> list[Labelled]:

    return [Labelled(each.source, each.where, given, {}) for each, given in pictures]


def _printed(table: Table) -> str:
    console = make_console(terminal=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()
