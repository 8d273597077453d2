"""Folders of pictures: order, links, hidden files, odd names, and what cannot be listed."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from glip_export.errors import GlipExportError, GlipExportWarning, ImageError
from glip_export.image import load_image
from glip_export.labelling.items import Answer
from glip_export.labelling.reading import read_picture
from glip_export.labelling.shards import read_shard, write_shard
from glip_export.labelling.sources import open_source, walk


def picture(path: Path | bytes, width: int = 8) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        Image.new("RGB", (width, 4)).save(file, "PNG")


def test_pictures_below_a_folder_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.png", "a/2.JPG", "a/10.jpeg", "a/deep/er/x.webp", "ü ?%#.png"):
        picture(tmp_path / name)
    for name in ("notes.txt", ".hidden.png", ".cache/x.png", "png", ".png"):
        picture(tmp_path / name)
    source = open_source(str(tmp_path))
    items = list(source.items())
    assert [item.source for item in items] == ["a/10.jpeg", "a/2.JPG", "a/deep/er/x.webp", "b.png", "ü ?%#.png"]
    assert items == list(pickle.loads(pickle.dumps(source)).items())
    assert items[0].where.path == str(tmp_path / "a/10.jpeg")
    assert all(load_image(read_picture(item.where, item.source)).shape == (4, 8, 3) for item in items)
    assert source.carried is None and source.count() == len(list(source.items()))
    assert source.describe() == {"kind": "folder", "path": str(tmp_path)}


def test_paths_are_absolute_so_that_workers_elsewhere_find_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "in/a.png")
    monkeypatch.chdir(tmp_path)
    source = open_source("in")
    monkeypatch.chdir("/")
    assert [item.where.path for item in source.items()] == [str(tmp_path / "in/a.png")]


def test_each_folder_is_entered_once_through_links_in_circles(tmp_path: Path) -> None:
    picture(tmp_path / "a/x.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    (tmp_path / "linked.png").symlink_to(tmp_path / "a/x.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "outside").symlink_to(tmp_path.parent / f"{tmp_path.name}-outside")
    picture(tmp_path.parent / f"{tmp_path.name}-outside" / "y.png")
    names = [item.source for item in open_source(str(tmp_path)).items()]
    assert names == ["a/x.png", "linked.png", "nowhere.png", "outside/y.png", "self.png"]


def test_the_output_folder_is_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    source = open_source(str(tmp_path), left_out=tmp_path / "out")
    picture(tmp_path / "out/gallery/b.png")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert [item.source for item in source.items()] == ["a.png"]


def labelled_run(folder: Path) -> None:
    """What a run leaves: a question, shards, and a data set with pictures."""
    (folder / "shards").mkdir(parents=True)
    (folder / "run.json").write_text('{"floor": 0.5}')
    picture(folder / "yolo/images/train/a.png")


def test_folders_of_other_runs_are_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "deep/a.png")
    labelled_run(tmp_path / "deep/labels")
    picture(tmp_path / "mine/shards/b.png")
    (tmp_path / "mine/run.json").write_text('{"speed": 3}')  # a person's own
    assert [item.source for item in open_source(str(tmp_path)).items()] == ["deep/a.png", "mine/shards/b.png"]
    named = open_source(str(tmp_path / "deep/labels"))
    assert [item.source for item in named.items()] == ["yolo/images/train/a.png"]


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("pattern", ["pn/**/*.tar", "pn/*/*.tar"])
def test_patterns_leave_out_runs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, run: bool) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pn/a/1.tar", "pn/out/2.tar"):
        Path(name).parent.mkdir(parents=True)
        with tarfile.open(name, "w") as archive:
            archive.add(__file__, "x.png")
    if run:
        labelled_run(Path("pn/out"))
    source = open_source(pattern, left_out=None if run else Path("pn/out"))
    assert [item.source for item in source.items()] == ["a/1.tar/x.png"]
    inside = open_source("pn/out/*.tar", left_out=Path("pn/out"))
    assert [item.source for item in inside.items()] == ["2.tar/x.png"]


def test_files_beside_pictures_that_are_not_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.parquet", "b.png", "c.tar", "d/e.tar", "f.png"):
        picture(tmp_path / name)
    with pytest.warns(GlipExportWarning, match=r"as pictures: 1 Parquet file\(s\) and 2 tar shard\(s\) beside them"):
        source = open_source(str(tmp_path))
    assert [item.source for item in source.items()] == ["b.png", "f.png"]
    monkeypatch.setattr("glip_export.labelling.sources.opening._LOOKED_AT", 1)
    with pytest.warns(GlipExportWarning, match=r"1 Parquet file\(s\) and 1 tar shard\(s\) beside them are not read"):
        open_source(str(tmp_path))


def test_files_of_another_host_are_refused(tmp_path: Path) -> None:
    for url in (f"file://server{tmp_path}", "file://C:/x"):
        with pytest.raises(GlipExportError, match=r"is of the host '(server|C:)': file:///path is a file here"):
            open_source(url)
    picture(tmp_path / "a b.png")
    for url in (tmp_path.as_uri(), f"file://LOCALHOST{tmp_path}"):
        assert [item.source for item in open_source(url).items()] == ["a b.png"]
    (tmp_path / "list.txt").write_text(f"file://server{tmp_path}/a.png\n{(tmp_path / 'a b.png').as_uri()}\n")
    first, second = open_source(str(tmp_path / "list.txt")).items()
    with pytest.raises(ImageError, match="is of the host 'server'"):
        read_picture(first.where, first.source)
    assert load_image(read_picture(second.where, second.source)).shape == (4, 8, 3)


def test_names_that_are_no_utf8_or_hold_line_ends_can_be_opened_and_kept(tmp_path: Path) -> None:
    names = [b"caf\xe9.png", b"caf\\xe9.png", b"new\nline.png", b"\x1b[2J.png", b"\xc2\x85.png", b"\x85.png"]
    for width, name in enumerate(names, start=3):
        picture(os.fsencode(tmp_path) + b"/" + name, width)
    items = list(open_source(str(tmp_path)).items())
    assert {item.source for item in items} == {
        r"caf\xe9.png",
        r"caf\\xe9.png",
        r"new\nline.png",
        r"\x1b[2J.png",
        r"\u0085.png",
        r"\x85.png",
    }
    widths = {item.source: load_image(read_picture(item.where, item.source)).shape[1] for item in items}
    assert widths[r"caf\xe9.png"] == 3 and widths[r"caf\\xe9.png"] == 4 and widths[r"\x85.png"] == 8
    json.dumps([vars(item.where) for item in items]).encode()
    pytest.importorskip("pyarrow")
    write_shard(tmp_path / "0.parquet", items, [Answer.failed("none") for _ in items])
    kept = list(read_shard(tmp_path / "0.parquet"))
    assert [(row.source, row.where) for row in kept] == [(item.source, item.where) for item in items]


def test_a_folder_that_cannot_be_listed_is_one_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.png", "b/2.png", "c/3.png"):
        picture(tmp_path / name)
    real = os.scandir

    def refusing(folder: str) -> object:
        if str(folder).endswith("/b"):
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr(walk.os, "scandir", refusing)
    items = list(open_source(str(tmp_path)).items())
    assert [item.source for item in items] == ["a/1.png", "b/", "c/3.png"]
    assert [item.problem for item in items] == ["", "the folder cannot be listed: Permission denied", ""]
    with pytest.raises(GlipExportError, match="cannot be listed: Permission denied"):
        open_source(str(tmp_path / "b"))


def test_a_folder_without_pictures_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(GlipExportError, match="holds no picture: give a folder of pictures, a text file"):
        open_source(str(tmp_path))
    with pytest.raises(GlipExportError, match="'nowhere' is not there: give a folder of pictures"):
        open_source("nowhere")
    picture(tmp_path / "one.png")
    with pytest.raises(GlipExportError, match="is one picture: glip-export detect is for that"):
        open_source(str(tmp_path / "one.png"))
    with pytest.raises(GlipExportError, match="names pictures one by one: give their folder, or a list"):
        open_source(str(tmp_path / "*.png"))
