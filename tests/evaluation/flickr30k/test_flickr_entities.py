"""The folder of Flickr30k Entities, as it should be and broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_flickr import BOXES, PEOPLE, write_entities, xml_of

from glip_export.errors import GlipExportError
from glip_export.evaluation.flickr30k.entities import Entities, subset_of
from glip_export.evaluation.flickr30k.entity_files import MOST_BYTES, read_boxes, read_sentences
from glip_export.evaluation.problems import BrokenEntryError, counts

BOMB = '<!DOCTYPE a [<!ENTITY b "cccccccccc"><!ENTITY d "&b;&b;&b;&b;&b;&b;">]><annotation>&d;</annotation>'


def test_sentences(tmp_path: Path) -> None:
    text = (
        "[/EN#1/people/other A tall man] near [/EN#2/scene the sea] .\r\n\r\n"
        "No phrase here .\n[/EN#1/people He] and [/EN#1/people himself]\n \n[/EN#0/notvisual a day without end"
    )
    (tmp_path / "1.txt").write_bytes(text.encode())
    first, second, third, blank, last = read_sentences(tmp_path / "1.txt")
    assert [tuple(each) for each in first] == [
        ("1", "A tall man", ("people", "other")),
        ("2", "the sea", ("scene",)),
    ]
    assert second == blank == last == ()
    assert [(each.id, each.text) for each in third] == [("1", "He"), ("1", "himself")]


def test_boxes_of_several_names_and_of_none(tmp_path: Path) -> None:
    (tmp_path / "1.xml").write_text(xml_of([(("1", "2"), (1, 2, 3, 4)), ("2", (5, 6, 7, 8)), ("3", None)]))
    found = read_boxes(tmp_path / "1.xml")
    assert {name: boxes.tolist() for name, boxes in found.items()} == {
        "1": [[1, 2, 3, 4]],
        "2": [[1, 2, 3, 4], [5, 6, 7, 8]],
    }


def test_objects_without_a_name_are_no_phrases(tmp_path: Path) -> None:
    objects = [("", (1, 2, 3, 4)), ([], (1, 2, 3, 4)), (["", "1"], (5, 6, 7, 8)), ("2", (9, 9, 10, 10))]
    (tmp_path / "1.xml").write_text(xml_of(objects).replace("<name></name>", "<name/>", 1))
    found = read_boxes(tmp_path / "1.xml")
    assert {name: boxes.tolist() for name, boxes in found.items()} == {"1": [[5, 6, 7, 8]], "2": [[9, 9, 10, 10]]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "has a DOCTYPE"),
        ('<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><annotation/>', "has a DOCTYPE"),
        ("<annotation><object>", "is no XML"),
        ("", "is no XML"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "is no XML"),
        ("<annotation><object><name>1</name><bndbox/></object></annotation>", "object 1: xmin is None"),
        ("<annotation><object><name>1</name></object></annotation>", "neither bndbox nor nobndbox"),
        (xml_of([("1", (1, 2, 3, 4))]).replace("<xmax>3", "<xmax>wide"), "xmax is 'wide'"),
        (xml_of([("1", (1, 2, 3, 4))]).replace("<ymin>2</ymin>", ""), "ymin is None"),
        (xml_of([("1", (1, 2, 3, 4))]).replace("<xmax>3", f"<xmax>{'9' * 5000}"), "xmax is "),
        ("<annotation>" + " " * MOST_BYTES + "</annotation>", "more than 1 MB"),
    ],
)
def test_broken_xml(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "1.xml"
    path.write_text(text)
    with pytest.raises(BrokenEntryError, match=words) as caught:
        read_boxes(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("token", ["[a", "[/EN#/people", "[/11/people", "["])
def test_broken_sentences(token: str, tmp_path: Path) -> None:
    path = tmp_path / "1.txt"
    path.write_text(f"Fine .\n{token} word] .")
    with pytest.raises(BrokenEntryError, match=r"line 2: .* begins no phrase"):
        read_sentences(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BrokenEntryError, match="UTF-8"):
        read_sentences(path)


def test_what_is_scored(tmp_path: Path) -> None:
    again = "[/EN#2/animals/other They] meet [/EN#3/other nobody] and [/EN#2/animals they] ."
    text = f"{PEOPLE}\n[/EN#9/scene A field] .\n\n{again}"
    folder = write_entities(tmp_path, {"100": text}, [*BOXES, ("3", None)])
    truth = Entities.read(folder, "test").truth
    assert {key: [target.types for target in targets] for key, targets in truth.items()} == {
        "100_0": [("people",), ("animals",)],
        "100_2": [("animals", "other"), ("animals",)],
    }
    assert truth["100_0"][1].boxes.tolist() == [[50, 20, 150, 80], [160, 20, 190, 80]]
    merged = Entities.read(folder, "test", merged=True).truth
    assert merged["100_0"][1].boxes.tolist() == [[50, 20, 190, 80]]
    assert merged["100_0"][0].boxes.tolist() == [[10, 10, 60, 90]]


def test_broken_pictures_are_left_out_and_told(tmp_path: Path) -> None:
    folder = write_entities(tmp_path, dict.fromkeys(["100", "200", "300", "400"], PEOPLE))
    (folder / "Annotations" / "200.xml").write_text(BOMB)
    (folder / "Sentences" / "300.txt").unlink()
    (folder / "test.txt").write_text("100\n200\n300\n400\n100\n../400\n\n")
    found = Entities.read(folder, "test")
    assert list(found.truth) == ["100_0", "400_0"]
    assert counts(found.problems) == {
        "entities: broken entry": 2,
        "entities: missing file": 1,
        "entities: id used twice": 1,
    }


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(GlipExportError, match="--entities is the folder"):
        Entities.read(tmp_path, "test")
    with pytest.raises(GlipExportError, match="no sentence of subset test"):
        Entities.read(write_entities(tmp_path, {"100": "Nothing ."}), "test")
    (tmp_path / "val.txt").write_text("100\n")
    with pytest.raises(GlipExportError, match="give --subset"):
        subset_of(tmp_path, Path("annotations.json"))
    with pytest.raises(GlipExportError, match="--subset is test or val"):
        subset_of(tmp_path, Path("annotations.json"), "train")
