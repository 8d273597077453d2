"""Prompts whose classes are asked for by prefix, name and suffix, against the original's captions and token maps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glip_export.errors import PromptError
from glip_export.prompt import Prompt, TokenizedChunk

CASES = json.loads((Path(__file__).parent / "data" / "oracle" / "odinw_prompts" / "prompts.json").read_text())
HOLES = ("there are some ", "holes", " on the road")


def tokens(chunks: tuple[TokenizedChunk, ...]) -> list[dict[str, list[int]]]:
    """The original's positive maps: {1-based class: tokens} of each caption."""
    return [
        {str(chunk.first + index + 1): list(found) for index, found in enumerate(chunk.class_tokens)}
        for chunk in chunks
    ]


# Chunks of words are asked for wrongly in the original: tests/evaluation/test_task_prompts.py has those.
WORDED = [case for case in CASES if case["caption_prompt"] and case["use_caption_prompt"]]


@pytest.mark.parametrize(
    "case", [case for case in WORDED if case["chunked_evaluation"] == -1], ids=lambda case: case["config"]
)
def test_one_caption_equals_the_original(case) -> None:  # type: ignore[no-untyped-def]
    words = [(entry["prefix"], entry["name"], entry["suffix"]) for entry in case["caption_prompt"]]
    chunks = Prompt.from_words(words).chunks(separator=case["separation_tokens"])
    assert [chunk.caption for chunk in chunks] == case["captions"]
    assert [chunk.input_ids.tolist() for chunk in chunks] == case["input_ids"]
    assert tokens(chunks) == case["positive_maps"]


def test_only_the_name_is_scored() -> None:
    prompt = Prompt.from_words([HOLES, ("a ", "traffic light", ". red, green")], names=["pothole", "light"])
    (chunk,) = prompt.chunks()
    assert prompt.names == ("pothole", "light") and prompt.asked == ("holes", "traffic light")
    assert chunk.caption == "there are some holes on the road. a traffic light. red, green"
    assert chunk.class_tokens == ((4,), (10, 11))


def test_chunks_keep_each_name_with_its_own_words() -> None:
    words = [(f"the {index} ", f"kind{index}", " of thing") for index in range(7)]
    chunks = Prompt.from_words(words).chunks(chunk=3)
    assert [chunk.caption for chunk in chunks] == [
        ". ".join("".join(entry) for entry in words[first : first + 3]) for first in (0, 3, 6)
    ]
    narrow = Prompt.from_words(words).chunks(max_query_len=20)
    assert ". ".join(chunk.caption for chunk in narrow) == ". ".join("".join(entry) for entry in words)
    assert max(len(chunk.input_ids) for chunk in narrow) <= 20


def test_unscored_words_end_every_caption() -> None:
    chunks = Prompt(("cat", "dog", "owl"), unscored=("a sofa", "a car")).chunks(chunk=2)
    assert [chunk.caption for chunk in chunks] == ["cat. dog. a sofa. a car", "owl. a sofa. a car"]
    assert [chunk.class_tokens for chunk in chunks] == [((1,), (3,)), ((1,),)]
    with pytest.raises(PromptError, match="takes 9 tokens"):
        Prompt(("cat",), unscored=("a sofa", "a car")).chunks(max_query_len=8)


def test_words_are_part_of_the_key() -> None:
    plain = Prompt(("holes",))
    assert len({plain.key, Prompt.from_words([HOLES]).key, Prompt(("holes",), unscored=("a car",)).key}) == 3
    assert Prompt.from_words([HOLES]) == Prompt.from_words([list(HOLES)]) != plain


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prompt.from_words([("a ", " ", "b")]), "name 1 of the prompt is empty"),
        (lambda: Prompt.from_words([("a ", "b")]), r"\(prefix, name, suffix\), not \('a ', 'b'\)"),
        (lambda: Prompt.from_words(["abc"]), r"\(prefix, name, suffix\), not 'abc'"),
        (lambda: Prompt.from_words([("a", 1, "c")]), "a text, not int"),
        (lambda: Prompt.from_words([HOLES], names=["a", "b"]), "2 names but words for 1"),
        (lambda: Prompt.from_words([]), "the prompt is empty"),
        (lambda: Prompt(("cat",), "a cat", (((2, 5),),), unscored=("dog",)), "takes no others"),
    ],
)
def test_words_that_are_none(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PromptError, match=message):
        make()
