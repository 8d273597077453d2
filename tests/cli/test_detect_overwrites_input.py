"""An input is never written to, whatever the options name, and no two results fall into one file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from command_line import CAT, refused
from PIL import Image

from glip_export.cli.outputs import Files, check_outputs
from glip_export.errors import GlipExportError
from glip_export.results.annotated import is_annotated


@pytest.fixture
def asked(tiny_bundle: Path) -> list[object]:
    return ["--prompt", "cat", "--bundle", tiny_bundle, "--threads", "1"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.open(CAT).resize((96, 64)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def annotated(tmp_path: Path) -> list[str]:
    return [entry["annotated"] for entry in json.loads((tmp_path / "found.json").read_text())["results"]]


def test_overwrites_input_by_the_folder(glip_export, tmp_path: Path, photo: Path, asked) -> None:
    Image.open(CAT).resize((96, 64)).save(tmp_path / "other.jpg")
    (tmp_path / "link.png").symlink_to("photo.png")
    os.link(photo, tmp_path / "hard.png")
    before = digests(tmp_path)
    for _ in range(2):  # the second time our own files are replaced
        given = ("photo.png", "other.jpg", "link.png", "hard.png")
        assert glip_export("detect", *given, *asked, "--output", ".", "--json", "found.json")[0] == 0
        names = ["photo-detections.png", "other-detections.jpg", "link-detections.png", "hard-detections.png"]
        assert annotated(tmp_path) == names
        assert {name: digest for name, digest in digests(tmp_path).items() if name in before} == before
        assert (tmp_path / "link.png").is_symlink() and all(is_annotated(tmp_path / name) for name in names)


def test_overwrites_input_nor_any_other_file_of_the_users(glip_export, tmp_path: Path, photo: Path, asked) -> None:
    (tmp_path / "out").mkdir()
    shutil.copy(CAT, tmp_path / "out" / "photo.png")  # of the same name, and no annotated picture
    (tmp_path / "out" / "photo-detections.png").symlink_to(photo)
    before = digests(tmp_path / "out") | digests(tmp_path)
    assert glip_export("detect", photo, *asked, "--output", "out", "--json", "found.json")[0] == 0
    assert annotated(tmp_path) == ["out/photo-detections-2.png"]
    after = digests(tmp_path / "out") | digests(tmp_path)
    assert {name: after[name] for name in before} == before


def test_overwrites_input_or_another_result(glip_export, tmp_path: Path, asked) -> None:
    names = ["a/x.jpg", "b/x.jpg", "c/x-2.jpg", "a/x.png", "d/X.jpg", "a/y.png", "a/y.bmp"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.open(CAT).resize((48, 32)).save(tmp_path / name)
    assert glip_export("detect", *names, "a/x.jpg", *asked, "--json", "found.json", "--output", "out")[0] == 0
    written = [Path(name).name for name in annotated(tmp_path)]
    assert written == ["x.jpg", "x-3.jpg", "x-2.jpg", "x.png", "X-4.jpg", "y.png", "y-2.png", "x-5.jpg"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(written)


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_overwrites_input_by_a_report(glip_export, tmp_path: Path, photo: Path, tiny_bundle: Path, option: str) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (tmp_path / "names.txt").write_text("cat\n")
    (tmp_path / "link").symlink_to("photo.png")
    os.link(photo, tmp_path / "hard")
    (tmp_path / "folder").symlink_to(".")
    before = digests(tmp_path) | digests(tmp_path / "bundle")
    asked = ["--names", "names.txt", "--bundle", "bundle"]
    for target in ("photo.png", "link", "hard", "folder/photo.png", "names.txt", "bundle/manifest.json"):
        refused(glip_export("detect", "photo.png", *asked, option, target), option, target)
    refused(glip_export("detect", ".", *asked, option, "bundle/fusion_head.onnx"), option)
    assert digests(tmp_path) | digests(tmp_path / "bundle") == before
    assert not (tmp_path / "detections").exists()


def test_overwrites_input_or_one_report_the_other(glip_export, tmp_path: Path, photo: Path, asked) -> None:
    refused(glip_export("detect", photo, *asked, "--json", "x", "--html", "./x"), "--json", "--html")
    code, _, err = glip_export("detect", photo, *asked, "--json", os.devnull, "--html", os.devnull, "--no-draw")
    assert code == 0, err
    # Nor does an annotated picture fall on a report.
    words = ["--json", "out/photo.png", "--output", "out"]
    assert glip_export("detect", photo, *asked, *words)[0] == 0
    (entry,) = json.loads((tmp_path / "out" / "photo.png").read_text())["results"]
    assert entry["annotated"] == "out/photo-detections.png"


def test_overwrites_input_of_any_command(tmp_path: Path) -> None:
    weights = tmp_path / "model" / "weights.pth"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    (tmp_path / "link").symlink_to(weights)
    check_outputs({"--json": tmp_path / "new.json", "--html": None}, [weights, None])
    with pytest.raises(GlipExportError, match=r"--json .*link"):
        check_outputs({"--json": tmp_path / "link"}, [weights])
    with pytest.raises(GlipExportError, match=r"--plot .*--json"):
        check_outputs({"--json": tmp_path / "a", "--plot": tmp_path / "model" / ".." / "a"}, [])
    with pytest.raises(GlipExportError, match=r"--output .*link is in it"):
        check_outputs({}, [tmp_path / "link"], replaced={"--output": tmp_path / "model"})
    assert weights in Files([tmp_path / "link"]) and tmp_path / "other" not in Files([weights])
