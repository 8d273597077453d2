"""glip-export info: what evaluations ask for, where the bundle's configuration is a task's."""

from __future__ import annotations

from glip_export.cli.info import _asked
from glip_export.config import CaptionWords, TaskCategory, TaskConfig


def test_what_an_evaluation_asks_for() -> None:
    words = (CaptionWords("some ", "holes", " on the road"),)
    assert _asked(TaskConfig()) == ""
    assert _asked(TaskConfig(override_category=(TaskCategory(1, "hole"),), caption_prompt=words)) == ""  # not used
    assert _asked(TaskConfig(True, (TaskCategory(1, "hole"),), True, words, True, ("car",))) == (
        "1 categories of its own, by words for 1 categories, such as 'some holes on the road', "
        "with 1 names that count for nothing"
    )
