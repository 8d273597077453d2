"""A source into shards: every picture once, whatever was killed, added or damaged between."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from filelock import FileLock
from labelling.stub_worker import Stub, answer_to, items
from waiting import wait_until

from glip_export.errors import GlipExportError
from glip_export.labelling.items import Answer, Block, BlockAnswer, Item
from glip_export.labelling.local import answers
from glip_export.labelling.question import FILE, LOCK
from glip_export.labelling.run import Answers, Plan, Ran, label
from glip_export.labelling.shards import read_shards, shard_file, shard_files

QUESTION = {"source": "pictures", "floor": 0.5}


@dataclass(frozen=True)
class Fixed:
    """A source of given pictures."""

    pictures: Sequence[Item]
    carried: pa.Schema | None = None

    def items(self) -> Iterator[Item]:
        return iter(self.pictures)

    def count(self) -> int | None:
        return len(self.pictures)

    def describe(self) -> dict[str, Any]:
        return {}


@dataclass
class Here:
    """Answers blocks in this process; `stop`: how many it answers before it is killed."""

    stop: int = 1 << 30
    errors: frozenset[int] = frozenset()
    asked: list[int] = field(default_factory=list)  # places
    order: Callable[[list[Block]], list[Block]] = list

    def __call__(self, blocks: Callable[[], Iterator[Block]]) -> Generator[tuple[Block, BlockAnswer], None, None]:
        for number, block in enumerate(self.order(list(blocks()))):
            if number == self.stop:
                raise KeyboardInterrupt
            places = range(block.first, block.first + len(block.items))
            self.asked += places
            found = tuple(Answer.failed("broken") if place in self.errors else answer_to(place) for place in places)
            yield block, BlockAnswer(block.first, found, hints=("a hint",))


def run(folder: Path, pictures: Sequence[Item], how: Answers, **more: Any) -> Ran:
    """In shards of 10 and blocks of 4."""
    return label(Plan(Fixed(pictures, more.pop("carried", None)), folder, 10, 4), QUESTION, how, **more)


def check(folder: Path, pictures: Sequence[Item], errors: Sequence[int] = ()) -> None:
    """That the folder holds each picture's answer, once and in order."""
    rows = list(read_shards(folder))
    assert [row.source for row in rows] == [item.source for item in pictures]
    for place, row in enumerate(rows):
        if place in errors:
            assert row.answer.error
        else:
            expected = answer_to(place)
            assert (row.answer.boxes == expected.boxes).all() and (row.answer.scores == expected.scores).all()


def test_answers_in_any_order_fill_the_shards(tmp_path: Path) -> None:
    pictures = items(37)
    told: list[int] = []
    ran = run(
        tmp_path, pictures, Here(order=lambda blocks: blocks[::-1], errors=frozenset((5, 36))), progress=told.append
    )
    assert ran == Ran(37, 37, 2, ("a hint",)) and told[0] == 0 and told[-1] == 37
    check(tmp_path, pictures, (5, 36))
    assert [file.stem for file in shard_files(tmp_path)] == ["000000", "000001", "000002", "000003"]


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    pictures = items(37)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, pictures, Here(stop=7))  # two shards of three blocks, and one block
    second, told = Here(), list[int]()
    ran = run(tmp_path, pictures, second, progress=told.append)
    assert second.asked == list(range(20, 37)) and ran.answered == 17 and told[0] == 20 and told[-1] == 37
    check(tmp_path, pictures)
    third = Here()
    assert run(tmp_path, pictures, third).answered == 0 and third.asked == []


def test_shards_of_other_pictures_are_done_again(tmp_path: Path) -> None:
    pictures = items(40)
    run(tmp_path, pictures, Here())
    shard_file(tmp_path, 2).write_bytes(shard_file(tmp_path, 2).read_bytes()[:-9])  # a damaged one
    how = Here()
    run(tmp_path, pictures, how)
    assert how.asked == list(range(20, 30))
    fewer, how = [*pictures[:13], *pictures[14:25]], Here()  # one removed in the middle, and the end
    run(tmp_path, fewer, how)
    assert how.asked == list(range(10, 24)) and len(shard_files(tmp_path)) == 3
    check(tmp_path, fewer)


def test_carried_columns_keep_their_types(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.int16()), ("tags", pa.list_(pa.string()))])
    pictures = [Item(item.source, item.where, (place, [f"tag{place}"])) for place, item in enumerate(items(23))]
    run(tmp_path, pictures, Here(), carried=schema)
    table = pa.concat_tables([pa.parquet.read_table(file) for file in shard_files(tmp_path)])
    assert table.schema.field("id").type == pa.int16() and table["id"].to_pylist() == list(range(23))
    assert table["tags"].to_pylist()[7] == ["tag7"]


def test_an_answer_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(GlipExportError, match="some pictures got no answer"):
        run(tmp_path, items(37), Here(order=lambda blocks: blocks[1:]))


def test_blocks_are_the_same_whenever_they_are_asked_for(tmp_path: Path) -> None:
    """Ray reads the source again where the process that did has ended; shards are written meanwhile."""
    run(tmp_path, items(20), Here())
    again: list[list[Block]] = []

    def how(blocks: Callable[[], Iterator[Block]]) -> Generator[tuple[Block, BlockAnswer], None, None]:
        again.append(list(blocks()))
        yield from Here()(blocks)
        again.append(list(blocks()))

    assert run(tmp_path, items(45), how).answered == 25
    assert again[0] == again[1] and again[0][0].first == 20


def test_errors_are_tried_again_where_that_is_asked(tmp_path: Path) -> None:
    pictures = items(37)
    run(tmp_path, pictures, Here(errors=frozenset((4, 33))))
    how, told = Here(), list[int]()
    assert run(tmp_path, pictures, how).answered == 0
    plan = Plan(Fixed(pictures), tmp_path, 10, 4, retry_errors=True)
    ran = label(plan, QUESTION, how, progress=told.append)
    assert how.asked == [*range(10), *range(30, 37)] and ran.errors == 0 and told[0] == 20 and told[-1] == 37
    check(tmp_path, pictures)
    assert label(plan, QUESTION, how).answered == 0


def test_strict_tells_errors_of_earlier_runs(tmp_path: Path) -> None:
    run(tmp_path, items(9), Here(errors=frozenset((4,))))
    with pytest.raises(GlipExportError, match="broken; without --strict"):
        run(tmp_path, items(9), Here(), strict=True)


def test_other_values_of_carried_columns_are_other_pictures(tmp_path: Path) -> None:
    schema = pa.schema([("split", pa.string())])
    before, after = ([Item(item.source, item.where, (word,)) for item in items(9)] for word in ("old", "new"))
    run(tmp_path, before, Here(), carried=schema)
    how = Here()
    assert run(tmp_path, before, how, carried=schema).answered == 0
    assert run(tmp_path, after, how, carried=schema).answered == 9
    assert run(tmp_path, after, how, carried=pa.schema([("part", pa.string())])).answered == 9
    assert {row.carried["part"] for row in read_shards(tmp_path)} == {"new"}


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """Those of the same names, those that links lead to, and shards of other names."""
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(GlipExportError, match=r"summary\.json is of no run, since"):
        run(tmp_path, items(9), Here())
    (tmp_path / "summary.json").unlink()
    (tmp_path / FILE).write_text('{"wandb": 1}')
    with pytest.raises(GlipExportError, match="is no labelling run's"):
        run(tmp_path, items(9), Here())
    (tmp_path / FILE).unlink()
    linked = tmp_path / "linked"
    linked.write_text("theirs")
    shard_file(tmp_path / "run", 0).parent.mkdir(parents=True)
    for place in (shard_file(tmp_path / "run", 0), tmp_path / "run" / FILE):
        place.symlink_to(linked)
    with pytest.raises(GlipExportError, match="cannot be read"):
        run(tmp_path / "run", items(9), Here())
    (tmp_path / "run" / FILE).unlink()
    with pytest.raises(GlipExportError, match="is of no run, since"):
        run(tmp_path / "run", items(9), Here())
    shard_file(tmp_path / "run", 0).unlink()
    shard_file(tmp_path / "run", 0).parent.rmdir()
    run(tmp_path / "run", items(9), Here())
    shard_file(tmp_path / "run", 0).unlink()
    shard_file(tmp_path / "run", 0).symlink_to(linked)
    run(tmp_path / "run", items(9), Here())
    assert linked.read_text() == "theirs" and not shard_file(tmp_path / "run", 0).is_symlink()
    shard_file(tmp_path / "run", 0).with_name("00.parquet").write_bytes(shard_file(tmp_path / "run", 0).read_bytes())
    check(tmp_path / "run", items(9))


def test_strict_stops_at_the_first_error(tmp_path: Path) -> None:
    with pytest.raises(GlipExportError, match="broken; without --strict"):
        run(tmp_path, items(9), Here(errors=frozenset((4,))), strict=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "others"}, "source was 'pictures' and is 'others' now"),
        ({"floor": 0.3}, "scores below 0.5 were not kept, and thresholds go down to 0.3 now"),
        ({"backend": "torch"}, "backend was None and is 'torch' now"),
    ],
)
def test_answers_to_another_question_are_not_mixed_with(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    run(tmp_path, items(9), Here())
    with pytest.raises(GlipExportError, match=words):
        label(Plan(Fixed(items(9)), tmp_path, 10, 4), {**QUESTION, **change}, Here())
    more = {"floor": 0.7, "bundle": "elsewhere", "glip_export": "2"}  # higher ones only leave out; the others only tell
    label(Plan(Fixed(items(9)), tmp_path, 10, 4), {**QUESTION, **more}, Here())


@pytest.mark.parametrize(("text", "words"), [("{", "cannot be read"), ("[]", "is no labelling run's")])
def test_a_damaged_question_is_told(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(GlipExportError, match=words):
        run(tmp_path, items(9), Here())


def test_shards_without_a_question_are_not_taken(tmp_path: Path) -> None:
    run(tmp_path, items(9), Here())
    (tmp_path / FILE).unlink()
    with pytest.raises(GlipExportError, match="is of no run, since"):
        run(tmp_path, items(9), Here())


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with FileLock(tmp_path / LOCK), pytest.raises(GlipExportError, match="another process labels into"):
        run(tmp_path, items(9), Here())


def test_what_shards_are_written_with_is_missed_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    how = Here()
    with pytest.raises(GlipExportError, match=r"needs pyarrow: pip install 'glip-export\[label\]'"):
        run(tmp_path, items(9), how)
    assert not how.asked


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GlipExportError, match=r"cannot write .*file"):
        run(tmp_path / "file", items(9), Here())


DRIVER = """
import sys
from pathlib import Path
from labelling.stub_worker import Stub, items
from labelling.test_labelling_run import run
from glip_export.labelling.local import answers
if __name__ == "__main__":
    folder, notes = map(Path, sys.argv[1:])
    run(folder, items(120), lambda blocks: answers(blocks(), Stub(seconds=0.01, notes=notes), 2))
"""


def test_a_driver_that_is_killed_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    """SIGKILL in the middle, three times: what is in a shard then is never asked again."""
    folder, notes, script = tmp_path / "run", tmp_path / "notes", tmp_path / "driver.py"
    notes.mkdir()
    script.write_text(DRIVER)
    command = [sys.executable, str(script), str(folder), str(notes)]
    paths = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    kept: set[int] = set()
    for kills in range(3):
        driver = subprocess.Popen(command, env=paths)
        wait_until(lambda more=kills + 1: len(shard_files(folder)) >= 2 * more)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        whole = {int(file.stem) for file in shard_files(folder)}
        for note in notes.iterdir():
            if int(note.name.split("-")[0]) // 10 in kept:
                pytest.fail(f"{note.name} was in a shard and was asked again")
            note.unlink()
        kept = whole
    subprocess.run(command, env=paths, check=True)
    check(folder, items(120))
    assert json.loads((folder / FILE).read_text())["source"] == "pictures"


def test_worker_processes_fill_shards(tmp_path: Path) -> None:
    pictures = items(45)
    ran = run(tmp_path, pictures, lambda blocks: answers(blocks(), Stub(kills=(22,)), 2))
    assert ran.errors == 1
    check(tmp_path, pictures, (22,))
