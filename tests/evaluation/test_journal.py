"""Results as they come: whatever of a journal was written whole is there again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("filelock", reason="the extra eval is not installed")

from glip_export.errors import GlipExportError
from glip_export.evaluation import Journal
from glip_export.evaluation.journal import rows_file
from glip_export.evaluation.rows import ROW

ASKED = {"backend": "torch", "batch": 3, "names": ["cat", "dog"]}
NO_ROWS = {"rows": 0, "crc32": 0}
RECORDS = [{"pictures": [1, 2], "score": 0.1 + 0.2, **NO_ROWS}, {"pictures": [3], "score": 1 / 3, **NO_ROWS}]


def write(path: Path, records=RECORDS, **identity: object) -> None:
    with Journal.open(path, {**ASKED, **identity}) as journal:
        for record in records:
            journal.append(record)


def read(path: Path, **identity: object) -> Journal:
    with Journal.open(path, {**ASKED, **identity}) as journal:
        return journal


def test_records_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "progress.jsonl"
    write(path, RECORDS[:1])
    write(path, RECORDS[1:])
    again = read(path)
    assert again.records == RECORDS and again.note == ""  # floats exactly
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("lost", range(1, 60, 7))
def test_a_torn_last_line_is_dropped(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "progress.jsonl"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    kept = 1 if lost <= len(whole.splitlines()[-1]) + 1 else 0
    assert read(path).records == RECORDS[:kept]
    write(path, RECORDS[kept:])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("tail", [b"\0\0\0\0", b"{}", b'{"pictures": [', b"\xff\xfe\n", b"[1]\n", b"[" * 9])
def test_a_tail_that_is_no_record_is_dropped(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "progress.jsonl"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert read(path).records == RECORDS
    assert path.read_bytes() == whole


def test_a_torn_first_line_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    write(path)
    path.write_bytes(path.read_bytes()[:20])
    journal = read(path)
    assert journal.records == [] and journal.note == ""
    write(path)
    assert read(path).records == RECORDS


def test_another_identity_starts_over_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    write(path)
    old = path.read_bytes()
    journal = read(path, batch=4, names=["cat", "a very long name"])
    assert journal.records == [] and journal.note == "batch 3, now 4; names differs"
    assert path.with_name("progress.jsonl.old").read_bytes() == old
    assert json.loads(path.read_text())["identity"]["batch"] == 4
    assert read(path, batch=4, names=["cat", "a very long name"]).note == ""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from glip_export.errors import GlipExportError\n"
        "from glip_export.evaluation import Journal\n"
        "try:\n"
        "    with Journal.open(Path(sys.argv[1]), {}):\n"
        "        pass\n"
        "except GlipExportError as error:\n"
        "    print(error)\n"
    )
    with Journal.open(path, ASKED) as journal:
        done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
        assert "another process writes" in done.stdout
        journal.append(RECORDS[0])
    assert read(path).records == RECORDS[:1]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GlipExportError, match=r"cannot write .*progress\.jsonl"):
        read(tmp_path / "file" / "progress.jsonl")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(GlipExportError, match="No space left"), open("/dev/full", "wb", buffering=0) as file:
        Journal(tmp_path / "progress.jsonl", file, file, [], "").append(RECORDS[0])


def rows(*items: int) -> np.ndarray:
    found = np.zeros(len(items), ROW)
    found["item"], found["score"], found["box"] = items, np.float32(1 / 3), (1, 2, 3, 4)
    return found


def held(path: Path, **identity: object) -> list[int]:
    with Journal.open(path, {**ASKED, **identity}) as journal:
        return [int(item) for block in journal.blocks() for item in block["item"]]


def test_rows_are_there_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress.jsonl"
    with Journal.open(path, ASKED) as journal:
        journal.append(RECORDS[0], rows(5, 6, 7))
        journal.append(RECORDS[1], rows())
    with Journal.open(path, ASKED) as journal:
        journal.append({"pictures": [4]}, rows(8))
        assert [record["rows"] for record in journal.records] == [3, 0, 1]
        monkeypatch.setattr("glip_export.evaluation.journal.BLOCK", 3)
        assert [block.tobytes() for block in journal.blocks()] == [rows(5, 6, 7).tobytes(), rows(8).tobytes()]


@pytest.mark.parametrize("tail", [b"", b"\0" * 5, rows(9, 9, 9).tobytes()])
def test_rows_of_no_line_are_dropped(tmp_path: Path, tail: bytes) -> None:
    """As if killed between the rows and their line, or in the middle of either."""
    path = tmp_path / "progress.jsonl"
    with Journal.open(path, ASKED) as journal:
        journal.append(RECORDS[0], rows(5, 6))
        journal.append(RECORDS[1], rows(7))
    path.write_bytes(path.read_bytes()[:-4])
    with rows_file(path).open("ab") as file:
        file.write(tail)
    assert held(path) == [5, 6]
    assert rows_file(path).read_bytes() == rows(5, 6).tobytes()


@pytest.mark.parametrize("kept", [0, 30, 2 * ROW.itemsize])
def test_a_line_without_its_rows_is_dropped(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "progress.jsonl"
    with Journal.open(path, ASKED) as journal:
        journal.append(RECORDS[0], rows(5, 6))
        journal.append(RECORDS[1], rows(7))
    rows_file(path).write_bytes(rows_file(path).read_bytes()[:kept])
    assert held(path) == ([5, 6] if kept == 2 * ROW.itemsize else [])
    assert len(read(path).records) == (1 if kept == 2 * ROW.itemsize else 0)


def test_another_identity_starts_rows_over_too(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    with Journal.open(path, ASKED) as journal:
        journal.append(RECORDS[0], rows(5))
    assert held(path, batch=4) == []
    assert (tmp_path / "progress.rows.old").read_bytes() == rows(5).tobytes()


def test_rows_that_were_changed_end_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    with Journal.open(path, ASKED) as journal:
        for number, item in enumerate((5, 6, 7)):
            journal.append({"pictures": [number]}, rows(item, item))
    data = bytearray(rows_file(path).read_bytes())
    data[2 * ROW.itemsize + 1] ^= 1  # of the second record
    rows_file(path).write_bytes(data)
    assert held(path) == [5, 5] and len(read(path).records) == 1


def test_a_journal_of_the_format_before_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    old = json.dumps({"identity": ASKED}) + "\n" + json.dumps({"pictures": [1], "results": []}) + "\n"
    path.write_text(old)
    journal = read(path)
    assert journal.records == [] and journal.note == "journal null, now 2"
    assert (tmp_path / "progress.jsonl.old").read_text() == old
