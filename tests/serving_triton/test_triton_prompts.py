"""The prompt's one text: names with stops between, or a JSON list."""

from __future__ import annotations

import pytest

from glip_export.errors import PromptError
from glip_export.prompt import Prompt
from glip_export.serving.triton.prompts import read_prompt, write_prompt


@pytest.mark.parametrize(
    "prompt",
    ["cat. remote control", "cat", ["cat"], ["U.S. flag", "dog"], ["[cat", "Füße"], "[cat. dog]", " [", "犬. 猫"],
)
def test_what_is_written_is_read(prompt: str | list[str]) -> None:
    assert read_prompt(write_prompt(prompt).encode(), 10) == Prompt.of(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt.of([{"prefix": "there are some ", "name": "holes", "suffix": " on the road "}, "[cat"]),
        Prompt.from_sentence("[a cat] near [a] caterpillar"),
        Prompt.from_spans("a cat and a dog", [[(0, 1), (10, 11)], (12, 15)]),
        Prompt.of("{cat. dog"),
    ],
)
def test_phrases_and_words_around_names_travel(prompt: Prompt) -> None:
    assert read_prompt(write_prompt(prompt), 10) == prompt


def test_what_has_no_form() -> None:
    for prompt, words in (
        (Prompt(("cat",), unscored=("dog",)), "unscored"),
        (Prompt.from_words([("a ", "hole", "")], names=["pothole"]), "as they are asked for"),
    ):
        with pytest.raises(PromptError, match=words):
            write_prompt(prompt)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfe", "UTF-8"),
        (b"", "empty"),
        (b"[]", "empty"),
        (b"[1]", "name 1 of the prompt is 1"),
        (b'{"caption": "a cat"}', "not {'caption': 'a cat'}"),
        (b'{"caption": "a cat", "spans": [[0, 6]]}', r"the span \(0, 6\) is empty or outside"),
        (b'{"a', "no valid JSON"),
        (b'["a"', "no valid JSON"),
        (b"[" * 200_000, "no valid JSON"),
        (b'["a", [".",', "no valid JSON"),
        (b"a. b. c. d", "4 names; at most 3 are accepted"),
        (b"x" * 1_000_001, "at most 1000000"),
        (b'["\\ud800"]', "surrogate"),
    ],
)
def test_what_cannot_be_used(data: bytes, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        read_prompt(data, 3)
