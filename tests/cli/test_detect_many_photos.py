"""glip-export detect on folders: memory of a batch or two, results as they come, bad files told and counted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import CAT, refused
from PIL import Image

from glip_export import Detector
from glip_export.cli.detect_inputs import find_pictures
from glip_export.results.annotated import is_annotated

ROCKET = CAT.with_name("rocket.jpg")

# Peak resident memory in bytes of `glip-export detect` with the given words.
PEAK = """
import resource, sys
from glip_export.cli import main
try:
    main()
finally:
    print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.fixture
def asked(tiny_bundle: Path) -> list[object]:
    return ["--prompt", "cat. dog", "--bundle", tiny_bundle, "--threads", "1", "--json", "found.json"]


def found(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "found.json").read_text())


def small(path: Path, size: tuple[int, int] = (96, 64), source: Path = CAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(source).convert("RGB").resize(size).save(path)
    return path


def test_many_photos_of_folders_are_found_once_and_in_order(tmp_path: Path) -> None:
    top = tmp_path / "photos"
    for name in ("b.jpg", "a.PNG", "deep/er/c.webp", ".hidden.jpg", ".thumbs/d.jpg", "out/annotated.jpg"):
        small(top / name)
    (top / "notes.txt").write_text("no picture")
    (top / "deep" / "link.jpg").symlink_to(top / "b.jpg")
    (top / "deep" / "gone.jpg").symlink_to(top / "nowhere.jpg")
    (top / "deep" / "loop").symlink_to(top)
    elsewhere = small(tmp_path / "elsewhere" / "e.jpg").parent
    (top / "linked").symlink_to(elsewhere)
    (top / "linked again").symlink_to(elsewhere)
    names = [str(picture.relative) for picture in find_pictures([top], top / "out")]
    assert names == ["a.PNG", "b.jpg", "deep/er/c.webp", "deep/gone.jpg", "deep/link.jpg", "linked/e.jpg"]
    given = find_pictures([top / "notes.txt", top / ".hidden.jpg"], None)  # files are taken as they are
    assert [picture.path.name for picture in given] == ["notes.txt", ".hidden.jpg"]


def test_many_photos_keep_their_folders(glip_export, tmp_path: Path, asked) -> None:
    for name in ("photos/one.jpg", "photos/sub/one.jpg", "photos/sub/two.png"):
        small(tmp_path / name)
    code, out, err = glip_export("detect", "photos", *asked, "--output", "photos/out", "--html", "page.html")
    assert code == 0 and err == "" and "3 picture(s) in" in out
    for again in (False, True):
        if again:  # what was annotated before is no picture to detect in
            assert glip_export("detect", "photos", *asked, "--output", "photos/out")[0] == 0
        files = [(entry["file"], entry["annotated"]) for entry in found(tmp_path)["results"]]
        names = ("one.jpg", "sub/one.jpg", "sub/two.png")
        assert files == [(f"photos/{name}", f"photos/out/{name}") for name in names]
        assert all(is_annotated(tmp_path / annotated) for _, annotated in files)
    kinds = [Image.open(tmp_path / "photos" / "out" / name).format for name in ("one.jpg", "sub/two.png")]
    assert kinds == ["JPEG", "PNG"]
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<figure") == 3


def test_many_photos_draw_nothing_where_nothing_is_wanted(glip_export, tmp_path: Path, asked) -> None:
    small(tmp_path / "photos" / "one.jpg")
    assert glip_export("detect", "photos", *asked, "--no-draw", "--output", "out")[0] == 0
    assert found(tmp_path)["results"][0]["annotated"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json", "photos"]


def test_many_photos_with_bad_ones_among_them(glip_export, tmp_path: Path, asked, tiny_bundle: Path) -> None:
    folder = tmp_path / "photos"
    for index, source in enumerate((CAT, ROCKET, CAT)):
        small(folder / f"{index}.png", (96, 64 + 32 * index), source)
    (folder / "0-text.jpg").write_text("no picture")
    (folder / "1-cut.png").write_bytes((folder / "1.png").read_bytes()[:3000])
    (folder / "1-gone.png").symlink_to("nowhere.png")
    Image.new("RGB", (3000, 2)).save(folder / "2-narrow.png")
    bad = ["0-text.jpg", "1-cut.png", "1-gone.png", "2-narrow.png"]
    good = [str(folder / f"{index}.png") for index in range(3)]
    detector = Detector.open(tiny_bundle, "auto", threads=1)
    for size in (1, 2, 5):
        code, out, err = glip_export("detect", "photos", *asked, "--batch-size", size)
        lines = err.splitlines()
        assert code == 0 and len(lines) == 4, err
        assert all(name in line for name, line in zip(bad, lines, strict=True))
        assert "3 picture(s)" in out and "4 could not be used" in out
        document = found(tmp_path)
        assert [Path(error["file"]).name for error in document["errors"]] == bad
        assert all(Path(error["file"]).name in error["error"] for error in document["errors"])
        # A bad file takes no place in a batch: the others' results are those of the good ones alone.
        expected = detector.detect(good, "cat. dog", batch_size=size)
        assert [entry["detections"] for entry in document["results"]] == [
            one.to_dict()["detections"] for one in expected
        ]
    code, out, err = glip_export("detect", *(f"photos/{name}" for name in bad if "gone" not in name), *asked)
    assert code == 2 and len(err.splitlines()) == 4 and "none of the 3 pictures" in err
    refused(glip_export("detect", "photos", *asked, "--strict"), "0-text.jpg")


def test_many_photos_stop_before_any_work(glip_export, tmp_path: Path, asked) -> None:
    (tmp_path / "empty").mkdir()
    for words, told in ((["empty"], "empty"), ([CAT, "no-such.jpg"], "no-such.jpg"), ([CAT, "gone/"], "gone")):
        refused(glip_export("detect", *words, *asked), told)
    (tmp_path / "file").write_text("")
    refused(glip_export("detect", CAT, *asked, "--output", "file"), "--output", "file")
    refused(glip_export("detect", CAT, *asked, "--output", "file/deeper"), "--output", "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_many_photos_batches_by_default(glip_export, tmp_path: Path, asked, tiny_bundle: Path) -> None:
    pictures = [small(tmp_path / "a" / "a.png", (96, 64)), small(tmp_path / "a" / "b.png", (64, 160), ROCKET)]
    detector = Detector.open(tiny_bundle, "auto", threads=1)
    together = detector.detect(pictures, "cat. dog")
    alone = detector.detect(pictures, "cat. dog", batch_size=1)
    assert not np.array_equal(together[0].boxes, alone[0].boxes)  # padding does change results
    for given, right in ((["a/a.png", "a/b.png"], together), (["a"], alone), (["a/a.png"] * 8 + ["a/b.png"], alone)):
        assert glip_export("detect", *given, *asked, "--no-draw")[0] == 0
        results = found(tmp_path)["results"]
        assert [results[0]["detections"], results[-1]["detections"]] == [one.to_dict()["detections"] for one in right]


def test_many_photos_names_of_a_file(glip_export, tmp_path: Path, tiny_bundle: Path) -> None:
    small(tmp_path / "a.png")
    (tmp_path / "names.txt").write_text("\ufeffSt. Bernard\n\n cat \n", encoding="utf-8")
    asked = ["--bundle", tiny_bundle, "--json", "found.json", "--threads", "1"]
    assert glip_export("detect", "a.png", "--names", "names.txt", *asked)[0] == 0
    assert found(tmp_path)["results"][0]["classes"] == ["St. Bernard", "cat"]
    refused(glip_export("detect", "a.png", "--names", "no-such.txt", *asked), "--names", "no-such.txt")


def test_many_photos_print_a_short_table(glip_export, tmp_path: Path, asked) -> None:
    small(tmp_path / "photos" / "000.jpg", (48, 32))
    for index in range(1, 33):
        shutil.copy(tmp_path / "photos" / "000.jpg", tmp_path / "photos" / f"{index:03}.jpg")
    code, out, _ = glip_export("detect", "photos", *asked, "--no-draw", "--threshold", "1")
    assert code == 0 and "019.jpg" in out and "020.jpg" not in out
    assert "and 13 more pictures" in out and "33 picture(s)" in out and "0 detection(s)" in out


def test_many_photos_take_the_memory_of_a_few(tmp_path: Path, tiny_bundle: Path) -> None:
    """Whatever their number: 8 or 28 pictures of 12 megapixels, 36 MB each once decoded."""
    Image.new("RGB", (4000, 3000), (90, 120, 150)).save(tmp_path / "big.jpg")
    peaks = []
    for count in (8, 28):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        for index in range(count):
            os.symlink(tmp_path / "big.jpg", folder / f"{index:02}.jpg")
        words = ["detect", folder, "--prompt", "cat", "--bundle", tiny_bundle, "--no-draw", "--threads", "1"]
        command = [sys.executable, "-c", PEAK, *map(str, words)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.rsplit("PEAK ", 1)[1]))
    assert peaks[1] - peaks[0] < 2 * 4000 * 3000 * 3
