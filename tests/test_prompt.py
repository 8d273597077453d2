"""Prompts against the original's captions and token maps, and against any text a person may type."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from compact_oracle import OracleCase
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import least, own_cpu_seconds

from glip_export.errors import ConfigError, PromptError
from glip_export.prompt import MAX_CHARACTERS, MAX_NAMES, Prompt, class_map, clean_name, tokenizer

ORACLE = Path(__file__).parent / "data" / "oracle"
CAPTIONS = json.loads((ORACLE / "small" / "captions.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CAPTIONS)
def test_chunks_equal_the_original(name: str) -> None:
    case = CAPTIONS[name]
    chunks = Prompt.of(case["names"]).chunks(chunk=case["chunk"])
    assert [chunk.caption for chunk in chunks] == case["captions"]
    assert [chunk.input_ids.tolist() for chunk in chunks] == case["input_ids"]
    assert [len(chunk.input_ids) for chunk in chunks] == case["n_tokens"]
    maps = [
        {str(chunk.first + index + 1): list(tokens) for index, tokens in enumerate(chunk.class_tokens)}
        for chunk in chunks
    ]
    assert maps == case["positive_maps"]


def test_small_oracle_prompt() -> None:
    case = OracleCase("tiny").prompt
    (chunk,) = Prompt.of(case["caption"]).chunks(max_query_len=64)
    assert Prompt.of(case["caption"]) == Prompt.of(case["names"])
    assert chunk.caption == case["caption"]
    assert {str(i + 1): list(tokens) for i, tokens in enumerate(chunk.class_tokens)} == case["positive_map"]
    ids = OracleCase("tiny").stored["input_ids"][0]
    assert chunk.input_ids.dtype == np.int64
    np.testing.assert_array_equal(chunk.input_ids, ids[ids != 0])


def test_text_splits_at_stops() -> None:
    expected = ("cat", "remote control")
    for text in ("cat. remote control", "cat. remote control.", " cat .remote_control . ", "cat.. remote control (tv)"):
        assert Prompt.of(text).names == expected
    assert Prompt.of(["St. Bernard", "cat"]).names == ("St. Bernard", "cat")


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [("bow_(decorative_ribbons)", "bow "), ("a (b) c (d) e", "a e"), ("x___y", "x  y"), ("tow_truck", "tow truck")],
)
def test_clean_name(name: str, cleaned: str) -> None:
    assert clean_name(name) == cleaned


def test_a_long_prompt_takes_as_long_as_its_parts() -> None:
    names = [f"kind {index} of thing" for index in range(1200)]

    def chunks(count: int) -> float:
        return own_cpu_seconds(lambda: Prompt.of(names[:count]).chunks())

    assert least(lambda: chunks(1200), lambda: chunks(200)) < 18  # 6; squared it would be 36


def test_long_prompt_is_split_in_order() -> None:
    names = [f"kind {index} of thing" for index in range(1203)]
    chunks = Prompt.of(names).chunks()
    assert max(len(chunk.input_ids) for chunk in chunks) <= 256
    # Greedy: the first name of a chunk did not fit into the one before.
    for before, after in pairwise(chunks):
        longer = f"{before.caption}. {names[after.first]}"
        assert len(tokenizer().encode(longer).ids) > 256
    assert ". ".join(chunk.caption for chunk in chunks) == ". ".join(names)


def test_chunk_that_is_too_long_is_split_further() -> None:
    names = CAPTIONS["coco80"]["names"]
    chunks = Prompt.of(names).chunks(max_query_len=64, chunk=40)
    assert [chunk.first for chunk in chunks if chunk.first in (0, 40)] == [0, 40]
    assert max(len(chunk.input_ids) for chunk in chunks) <= 64
    assert sum(len(chunk.class_tokens) for chunk in chunks) == 80


def test_tokens_behind_spaces_are_found() -> None:
    (chunk,) = Prompt.of(["     cat", "dog\u200b\u200b\u200b\u200b"]).chunks()
    assert chunk.class_tokens == ((1,), (3,))


def test_spans_of_a_caption() -> None:
    caption = "A cat beside two remote controls on the cat's sofa."
    prompt = Prompt.from_spans(caption, [(2, 5), [(17, 32), (40, 45)], [(46, 50)]])
    assert prompt.names == ("cat", "remote controls cat's", "sofa")
    (chunk,) = prompt.chunks(chunk=1)
    words = tokenizer().encode(caption).tokens
    assert chunk.caption == caption
    assert [[words[token] for token in tokens] for tokens in chunk.class_tokens] == [
        ["cat"],
        ["remote", "controls", "cat", "'", "s"],
        ["sofa"],
    ]


def test_a_phrase_without_a_token_is_found_nowhere_where_that_is_asked_for() -> None:
    caption, spans = "a cat \u200b\u200b\u200b\u200b\u200b .", [(0, 5), (7, 8), [], (12, 13)]
    prompt = Prompt.from_spans(caption, spans, wordless=True)
    (chunk,) = prompt.chunks()
    assert chunk.class_tokens == ((1, 2), (), (), (3,))
    assert class_map(chunk, "MEAN").sum(0).tolist() == [1, 0, 0, 1]
    assert class_map(chunk, "MAX").sum(0).tolist() == [2, 0, 0, 1]
    with pytest.raises(PromptError, match="holds nothing"):
        Prompt.from_spans(caption, spans[:2]).chunks()
    with pytest.raises(PromptError, match="outside the caption"):
        Prompt.from_spans(caption, [(0, 99)], wordless=True)
    one, other = (Prompt.from_spans("a cat", [(0, 5)], wordless=wordless) for wordless in (False, True))
    assert one.key != other.key and one != other


def test_class_map() -> None:
    (chunk,) = Prompt.of("cat. remote control").chunks()  # [CLS] cat . remote control [SEP]
    mean = class_map(chunk, "MEAN")
    assert mean.shape == (6, 2)
    assert mean.dtype == np.float32
    assert mean.tolist() == [[0, 0], [1, 0], [0, 0], [0, 0.5], [0, 0.5], [0, 0]]
    np.testing.assert_array_equal(class_map(chunk, "POWER"), mean)
    np.testing.assert_array_equal(class_map(chunk, "MAX", length=8), np.pad(mean > 0, ((0, 2), (0, 0))))
    with pytest.raises(ConfigError, match="SCORE_AGG"):
        class_map(chunk, "MEDIAN")


def test_equal_prompts_are_one_key() -> None:
    one, two = Prompt.of("cat. dog"), Prompt.of(["cat", "dog"])
    assert {one: 1}[two] == 1
    assert one.key == two.key
    assert Prompt.of("dog. cat").key != one.key
    assert Prompt.from_spans("cat. dog", [(0, 3), (5, 8)]) != one
    assert Prompt.of(one) is one


@pytest.mark.parametrize(
    "make",
    [
        lambda: Prompt.of(""),
        lambda: Prompt.of("..."),
        lambda: Prompt.of(" . "),
        lambda: Prompt.of([]),
        lambda: Prompt.of(["..."]),
        lambda: Prompt.of(["cat", ""]),
        lambda: Prompt.of(["cat", "(all of it)"]),
        lambda: Prompt.of("cat. (all of it)"),
        lambda: Prompt.of(["cat", 3]),  # type: ignore[list-item]
        lambda: Prompt.of(b"cat"),  # type: ignore[arg-type]
        lambda: Prompt.of(None),  # type: ignore[arg-type]
        lambda: Prompt.of({"cat": 1}),  # type: ignore[arg-type]
        lambda: Prompt.of("cat\ud800"),
        lambda: Prompt.of("x" * (MAX_CHARACTERS + 1)),
        lambda: Prompt.of(["x"] * (MAX_NAMES + 1)),
        lambda: Prompt.of("\x00").chunks(),
        lambda: Prompt.of(["\u200b\u200b", "cat"]).chunks(),
        lambda: Prompt.of("word " * 300).chunks(),
        lambda: Prompt.of("cat").chunks(max_query_len=2),
        lambda: Prompt.from_spans("a cat", []),
        lambda: Prompt.from_spans("a cat", [(2, 6)]),
        lambda: Prompt.from_spans("a cat", [(-1, 3)]),
        lambda: Prompt.from_spans("a cat", [(3, 3)]),
        lambda: Prompt.from_spans("a cat", [(1, 2)]),
        lambda: Prompt.from_spans("a cat", [[]]),
        lambda: Prompt.from_spans("a cat", [(0, 1, 2)]),  # type: ignore[list-item]
        lambda: Prompt.from_spans("a cat", 3),  # type: ignore[arg-type]
        lambda: Prompt.from_spans("word " * 300, [(0, 4)]).chunks(),
        lambda: Prompt(("cat",), caption="a cat"),
    ],
)
def test_bad_prompt_is_one_line(make: Callable[[], object]) -> None:
    with pytest.raises(PromptError) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


TEXTS = st.text(st.characters(exclude_categories=()), max_size=30)


@settings(max_examples=300, deadline=None)
@given(st.one_of(TEXTS, st.lists(TEXTS, max_size=60)), st.integers(8, 64), st.integers(-1, 9))
def test_any_text_gives_whole_chunks_or_a_prompt_error(value: str | list[str], limit: int, chunk: int) -> None:
    try:
        prompt = Prompt.of(value)
        chunks = prompt.chunks(max_query_len=limit, chunk=chunk)
    except PromptError as error:
        assert "\n" not in str(error)
        return
    following = 0
    for part in chunks:
        assert part.first == following
        names = prompt.names[part.first : part.first + len(part.class_tokens)]
        following += len(names)
        assert part.caption == ". ".join(names)
        assert len(part.input_ids) <= limit
        assert chunk <= 0 or len(names) <= chunk
        tokens = [token for entry in part.class_tokens for token in entry]
        assert all(part.class_tokens)
        assert tokens == sorted(set(tokens))
        assert tokens[0] > 0
        assert tokens[-1] < len(part.input_ids) - 1
    assert following == len(prompt.names)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.lists(st.tuples(st.integers(-2, 32), st.integers(-2, 32)), max_size=4))
def test_any_spans_give_tokens_or_a_prompt_error(caption: str, spans: list[tuple[int, int]]) -> None:
    try:
        (chunk,) = Prompt.from_spans(caption, spans).chunks(max_query_len=64)
    except PromptError:
        return
    assert len(chunk.class_tokens) == len(spans)
    assert all(0 < token < len(chunk.input_ids) - 1 for tokens in chunk.class_tokens for token in tokens)


def test_spans_are_counted_before_they_are_copied() -> None:
    """Of a small request: 10 000 spans of a caption of 50 000 characters would be half a gigabyte of names."""
    tracemalloc.start()
    with pytest.raises(PromptError, match="the prompt has 500000000 characters"):
        Prompt.from_spans("x" * 50_000, [(0, 50_000)] * 10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
