"""What pictures are called in a data set's own folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_runs import answer, conversion, files_below, item, write_run

from glip_export.labelling.formats.picture_names import PictureNames, safe_stem
from glip_export.labelling.formats.yolo import write_yolo

TEXT = st.text(st.one_of(st.sampled_from('./\\ aA_-:\x00\n\u202eé"'), st.characters(exclude_categories=["Cs"])))


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("a.jpg", "a"),
        ("a/b c/d.JPEG", "a/b c/d"),
        ("a.b.png", "a.b"),
        ("v1.5", "v1.5"),
        ("/etc/../passwd.png", "etc/_/passwd"),
        ("../../a.jpg", "_/_/a"),
        (".hidden/.a.jpg", "hidden/a"),
        ("s3://bucket/a.jpg", "s3_/bucket/a"),
        ("data/images/a.jpg", "data/images_/a"),
        (".images/a.jpg", "images_/a"),
        ("a.jpg/b.png", "a_jpg/b"),
        ("x.txt/b.png", "x_txt/b"),
        ("a\\b\x1b[31m\n.jpg", "a_b_[31m_"),
        ("shard-000.tar/0001.jpg", "shard-000.tar/0001"),
        ("part.parquet/17", "part.parquet/17"),
        ("", "picture"),
        ("a /b .jpg", "a/b"),
        ("con/CON.jpg", "con_/CON_"),
        ("x/Lpt1.a.jpg", "x/Lpt1_.a"),
        ("nul .x/console.jpg", "nul _.x/console"),
        ("COM/com10.jpg", "COM/com10"),
    ],
)
def test_names_are_kept_where_they_are_safe(source: str, stem: str) -> None:
    assert safe_stem(source) == stem
    assert PictureNames([source]).of(source) == stem


def test_equal_stems_get_a_digest_each_whatever_the_order() -> None:
    sources = ["a.jpg", "a.png", "A.jpg", "b.jpg", "caf\u00e9.jpg", "cafe\u0301.jpg"]
    names, turned = PictureNames(sources), PictureNames(reversed(sources))
    found = [names.of(source) for source in sources]
    assert found == [turned.of(source) for source in sources]
    assert len({name.casefold() for name in found}) == len(sources)
    assert found[3] == "b" and found[0].startswith("a-") and len(found[0]) == 14


def test_long_names_are_cut_and_stay_apart() -> None:
    sources = ["ä" * 300 + f"{end}.jpg" for end in "ab"] + ["/".join(["folder"] * 200) + f"/{end}.jpg" for end in "ab"]
    names = PictureNames(sources)
    found = [names.of(source) for source in sources]
    assert len(set(found)) == 4
    assert all(len(part.encode()) <= 200 for name in found for part in name.split("/"))
    assert max(map(len, found)) < 700


@given(st.lists(TEXT, unique=True, max_size=20))
def test_no_name_leaves_the_folder_and_none_is_there_twice(sources: list[str]) -> None:
    names = PictureNames(sources)
    found = [names.of(source) for source in sources]
    assert len({name.casefold() for name in found}) == len(sources)
    for name in found:
        assert name and name.isprintable() and not os.path.isabs(name) and "\\" not in name
        assert all(part and not part.startswith(".") for part in name.split("/"))
        assert not {"images", "labels"} & {part.casefold() for part in name.split("/")[:-1]}
        assert os.path.normpath(name) == name


def test_a_picture_and_its_label_have_the_stem_ultralytics_looks_for(tmp_path: Path) -> None:
    sources = ["a.jpg", "a.png", "x/images/a.jpg", "a/a.jpg", "a.txt/b.jpg", "a.jpg.jpg", "../a.jpg", ".b.jpg"]
    write_run(tmp_path, [(item(source), answer((0, 0.9, (1, 2, 3, 4)))) for source in sources])
    _, listed = write_yolo(conversion(tmp_path, pictures="none"))
    images = [line.split('"image": "')[1].split('"')[0] for line in listed.read_text().splitlines()]
    expected = ["/labels/".join(f"/{image}".rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt" for image in images]
    assert len(set(expected)) == len(sources)
    assert sorted(path[1:] for path in expected) == [f"labels/{path}" for path in files_below(tmp_path / "yolo/labels")]
