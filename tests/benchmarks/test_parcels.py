"""Files in pieces and back, and a library without the machine code of other GPUs."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "gpu"))

from fat_binary import MAGIC, fat_binaries, strip

GPU = Path(__file__).parents[2] / "benchmarks" / "gpu"
PTX, CODE = 1, 2


def parcels(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, GPU / "parcels.py", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})


def entry(kind: int, architecture: int, data: bytes, header: int = 64) -> bytes:
    start = struct.pack("<HHIQ", kind, 0x101, header, len(data)) + bytes(12) + struct.pack("<I", architecture)
    return start + b"\x07" * (header - len(start)) + data


def fat(*entries: bytes) -> bytes:
    return MAGIC + struct.pack("<HHQ", 1, 16, sum(map(len, entries))) + b"".join(entries)


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.fixture
def two_files(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "a.whl", tmp_path / "empty"]
    files[0].write_bytes(noise(2500))
    files[1].write_bytes(b"")
    return files


@pytest.fixture
def pieces(two_files: list[Path], tmp_path: Path) -> Path:
    done = parcels("cut", *two_files, "--size", "1KiB", "--output", tmp_path / "pieces")
    assert done.returncode == 0, done.stderr
    return tmp_path / "pieces"


def test_pieces_make_the_files_again(pieces: Path, two_files: list[Path], tmp_path: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in pieces.iterdir() if path.suffix != ".json"}
    assert sizes == {"a.whl.000": 1024, "a.whl.001": 1024, "a.whl.002": 452, "empty.000": 0}
    listed = json.loads((pieces / "pieces.json").read_text())["files"]
    assert listed[0]["sha256"] == hashlib.sha256(two_files[0].read_bytes()).hexdigest()
    done = parcels("join", pieces, "--output", tmp_path / "new" / "brought")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "new" / "brought").iterdir()) == ["a.whl", "empty"]
    for file in two_files:
        assert (tmp_path / "new" / "brought" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("how", ["changed", "shorter", "longer", "missing", "exchanged"])
def test_a_damaged_piece_is_one_line_and_no_file(pieces: Path, tmp_path: Path, how: str) -> None:
    piece = pieces / "a.whl.001"
    data = piece.read_bytes()
    changed = {
        "changed": bytes([data[0] ^ 1]) + data[1:],
        "shorter": data[:-1],
        "longer": data + b"\0",
        "exchanged": (pieces / "a.whl.000").read_bytes(),
    }
    piece.unlink() if how == "missing" else piece.write_bytes(changed[how])
    done = parcels("join", pieces, "--output", tmp_path / "brought")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"parcels: {piece} is not ")
    assert not list((tmp_path / "brought").iterdir())


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "..", "", "a/b", "a\\b", "C:out", "a\0b", 7])
def test_no_name_leads_out_of_the_folder(pieces: Path, tmp_path: Path, name: object) -> None:
    manifest = json.loads((pieces / "pieces.json").read_text())
    for part in (manifest["files"][0], manifest["files"][0]["pieces"][0]):
        kept, part["name"] = part["name"], name
        (pieces / "pieces.json").write_text(json.dumps(manifest))
        part["name"] = kept
        done = parcels("join", pieces, "--output", tmp_path / "in" / "brought")
        assert done.returncode == 2
        assert "not a file's name alone" in done.stderr
        assert not (tmp_path / "in").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": [{"name": "a"}]}', '{"files": 3}', "nonsense"])
def test_no_list_of_pieces(tmp_path: Path, text: str) -> None:
    (tmp_path / "pieces.json").write_text(text)
    done = parcels("join", tmp_path, "--output", tmp_path / "brought")
    assert done.returncode == 2
    assert "no list of pieces" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cut", "nowhere", "--output", "pieces"], "nowhere: no such file"),
        (["cut", str(GPU / "run.py"), str(GPU / "run.py"), "--output", "pieces"], "two files are named run.py"),
        (["cut", str(GPU / "run.py"), "--size", "7 parsecs", "--output", "pieces"], "--size 7 parsecs"),
        (["cut", str(GPU / "run.py"), "--size", "0", "--output", "pieces"], "--size 0"),
        (["join", "nowhere", "--output", "brought"], "is not there"),
        (["strip-fatbin", str(GPU / "run.py"), "--keep", "90", "--output", "x"], "no machine code for architecture 90"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = parcels(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_only_other_machine_code_becomes_zeros(tmp_path: Path) -> None:
    kept, ptx, only_80 = noise(200, 1), noise(50, 2), fat(entry(CODE, 80, noise(40, 3)))
    apart = [noise(33, 4), noise(5, 5), MAGIC + noise(100, 6), noise(7, 7)]
    first = [entry(CODE, 80, noise(120, 8)), entry(CODE, 90, kept, 72), entry(PTX, 80, ptx), entry(CODE, 120, b"x" * 8)]
    second = [entry(CODE, 90, kept), entry(CODE, 80, noise(16, 9))]
    data = apart[0] + fat(*first) + apart[1] + only_80 + apart[2] + fat(*second) + apart[3]
    (library := tmp_path / "lib.so").write_bytes(data)
    done = parcels("strip-fatbin", library, "--keep", "90", "--output", tmp_path / "small.so")
    assert done.returncode == 0, done.stderr

    first[0], first[3] = entry(CODE, 80, bytes(120)), entry(CODE, 120, bytes(8))
    second[1] = entry(CODE, 80, bytes(16))
    expected = apart[0] + fat(*first) + apart[1] + only_80 + apart[2] + fat(*second) + apart[3]
    assert (tmp_path / "small.so").read_bytes() == expected
    assert library.read_bytes() == data
    assert done.stdout.splitlines()[-1] == "sm_90: 0.0 MB kept; 1 binaries without it are as they were"
    found = strip(bytearray(data), 90)
    assert (found.zeroed, found.kept, found.left) == ({80: 136, 120: 8}, 400, 1)


@pytest.mark.parametrize("damage", ["header", "size of all", "size of one", "at the end"])
def test_what_only_looks_like_a_fat_binary_is_left(damage: str) -> None:
    data = bytearray(fat(entry(CODE, 80, noise(64)), entry(CODE, 90, noise(64))))
    if damage == "header":
        struct.pack_into("<H", data, 6, 3)
    elif damage == "size of all":
        struct.pack_into("<Q", data, 8, 1 << 40)
    elif damage == "size of one":
        struct.pack_into("<Q", data, 16 + 8, 1 << 20)
    else:
        data = data[:20]
    assert list(fat_binaries(data)) == []
    assert strip(before := bytearray(data), 90).zeroed == {}
    assert before == data


def test_a_fat_binary_found_after_one_that_was_none() -> None:
    data = MAGIC + bytes(5) + fat(entry(CODE, 90, b"code"))
    assert [[(found.architecture, found.size) for found in entries] for entries in fat_binaries(data)] == [[(90, 4)]]
