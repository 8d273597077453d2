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
    ("data", "words"),
    [
        (b"\xff\xfe", "UTF-8"),
        (b"", "empty"),
        (b"[]", "empty"),
        (b"[1]", "list of texts"),
        (b'["a"', "no valid JSON"),
        (b"[" * 200_000, "no valid JSON"),
        (b'["a", [".",', "no valid JSON"),
        (b"a. b. c. d", "has 4 names; this server accepts 3"),
        (b"x" * 1_000_001, "at most 1000000"),
        (b'["\\ud800"]', "surrogate"),
    ],
)
def test_what_cannot_be_used(data: bytes, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        read_prompt(data, 3)
