"""50 bad inputs of all kinds among 500 good pictures: 500 answers, 50 rows of errors, whatever the workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import ran, refused
from labelling.bad_pictures import CONTENTS, KINDS, encoded, make_bad, odd_but_good

from glip_export.cli import main
from glip_export.labelling.shards import read_shards

GOOD, BAD = 500, 50
EVERY = 11  # each 11th picture is a bad one


class Run:
    """A list in a folder, and what `label` made of it."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder = folder
        self.output = folder / "labelled"
        self.words: list[Any] = [
            "glip-export",
            "label",
            folder / "list.txt",
            "--prompt",
            "cat. dog",
            "--bundle",
            bundle,
        ]
        self.words += ["--output", self.output, "--format", "jsonl", "--threshold", "0", "--threads", "1"]

    def errors(self) -> dict[str, str]:
        """errors.jsonl; no source stands there twice."""
        rows = [json.loads(line) for line in (self.output / "errors.jsonl").read_text("utf-8").splitlines()]
        found = {row["source"]: row["error"] for row in rows}
        assert len(found) == len(rows)
        return found


@pytest.fixture
def mixed(tmp_path: Path, tiny_bundle: Path) -> Iterator[tuple[Run, dict[int, str]]]:
    """The run, and of each bad line (from 0) its kind."""
    odd = odd_but_good()
    photo = tmp_path / "photo.jpeg"
    photo.write_bytes(encoded("JPEG"))
    lines: list[str] = []
    kinds: dict[int, str] = {}
    for number in range(GOOD + BAD):
        if number % EVERY == EVERY - 1:
            kind = KINDS[len(kinds) % len(KINDS)]
            kinds[number] = kind
            lines.append(make_bad(tmp_path, kind, f"{number:03d}-{kind}.jpg"))
        elif odd:
            name = next(iter(odd))
            (tmp_path / name).write_bytes(odd.pop(name))
            lines.append(name)
        else:
            lines.append(f"one_of_the_good_{number:03d}.jpg")
            (tmp_path / lines[-1]).symlink_to(photo)
    assert len(kinds) == BAD and not odd and set(kinds.values()) == set(KINDS)
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    yield Run(tmp_path, tiny_bundle), kinds


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_good_ones_are_answered_and_bad_ones_are_rows(
    mixed: tuple[Run, dict[int, str]], workers: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, kinds = mixed
    code, out, err = ran(main, [*run.words, "--workers", workers], monkeypatch, capsys)
    assert code == 0, err
    assert "Traceback" not in out + err
    rows = list(read_shards(run.output))
    assert len(rows) == len({row.source for row in rows}) == GOOD + BAD
    assert {number: kinds.get(number) for number, row in enumerate(rows) if row.answer.error} == kinds
    errors = run.errors()
    assert errors == {row.source: row.answer.error for row in rows if row.answer.error}
    assert len(errors) == BAD
    for number, kind in kinds.items():
        words = rows[number].answer.error
        assert len(words.splitlines()) == 1 and len(words) < 1000, kind
    summary = json.loads((run.output / "summary.json").read_text("utf-8"))
    assert summary["pictures"] == GOOD + BAD and sum(summary["errors"].values()) == BAD
    # A picture beside a bad one has the answer that it has alone: all links to one photo are answered alike.
    photo = [row.answer for number, row in enumerate(rows) if number > 2 * EVERY and number not in kinds]
    assert len({(one.scores.tobytes(), one.boxes.tobytes(), one.labels.tobytes()) for one in photo}) == 1
    assert (photo[0].height, photo[0].width) == (96, 128)


def test_strict_ends_at_the_first(
    mixed: tuple[Run, dict[int, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = mixed
    refused(ran(main, [*run.words, "--strict"], monkeypatch, capsys), "-empty.jpg", "without --strict")


def test_nothing_but_bad_ones(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [make_bad(tmp_path, kind, f"{kind}.jpg") for kind in CONTENTS]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    run = Run(tmp_path, tiny_bundle)
    refused(ran(main, run.words, monkeypatch, capsys), f"none of the {len(CONTENTS)} pictures could be used")
    assert len(run.errors()) == len(CONTENTS)
