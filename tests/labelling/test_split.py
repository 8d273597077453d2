"""Train or val by what a picture is called."""

from __future__ import annotations

from glip_export.labelling.split import split_of

SOURCES = [f"folder/{number}.jpg" for number in range(4000)]


def test_about_the_share_validates() -> None:
    val = sum(split_of(source, 0.1) == "val" for source in SOURCES)
    assert 320 <= val <= 480  # 400, four standard deviations
    assert {split_of(source, 0) for source in SOURCES} == {"train"}


def test_a_larger_share_takes_no_picture_back() -> None:
    small = {source for source in SOURCES if split_of(source, 0.1) == "val"}
    large = {source for source in SOURCES if split_of(source, 0.2) == "val"}
    assert small < large


def test_it_is_the_same_on_every_machine() -> None:
    # sha256sum of these begins with ca, 54, dc, 21, c3, f7: below 80 validates
    assert [split_of(source, 0.5) for source in SOURCES[:6]] == ["train", "val", "train", "val", "train", "train"]
