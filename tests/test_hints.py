"""What is said of a prompt that is perhaps not what was meant."""

from __future__ import annotations

import warnings

import pytest

from glip_export.errors import GlipExportWarning
from glip_export.hints import Hinter, hints, unknown_words
from glip_export.prompt import Prompt


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (Prompt.of("\u732b. \u72d7. cat. \u732b"), ("\u732b", "\u72d7")),
        (
            Prompt.of("caf\u00e9. na\u00efve \u00dcnicode. \u65e5\u672c"),
            (),
        ),  # accents are dropped, some signs are known
        (Prompt.of(["a \U0001f431\U0001f436 toy", "Cat\U0001f600"]), ("\U0001f431\U0001f436", "Cat\U0001f600")),
        (Prompt.of("x" * 101), ("x" * 101,)),  # longer than WordPiece looks at
        (Prompt.of("[UNK]"), ()),
        (Prompt.from_spans("a \u732b on a sofa", [(7, 13)]), ("\u732b",)),
        (Prompt.from_words([("some ", "holes", " on the \u732b")], unscored=["\u72d7"]), ("\u732b", "\u72d7")),
    ],
)
def test_unk_prompt_words_that_the_vocabulary_lacks(prompt: Prompt, words: tuple[str, ...]) -> None:
    assert unknown_words(prompt) == words
    ids = [token for chunk in prompt.chunks() for token in chunk.input_ids.tolist()]
    assert (100 in ids) == bool(words or "[UNK]" in prompt.names)


def test_unk_prompt_is_one_line_that_names_them() -> None:
    (hint,) = hints(Prompt.of(["\u732b", "a\n\U0001f600\nb", *[f"\u72d7\U0001f600{n}" for n in range(20)]]))
    assert "'\u732b'" in hint and "'\U0001f600'" in hint and "the same boxes" in hint
    assert " more: read as [UNK]" in hint and "\n" not in hint and len(hint) < 400


@pytest.mark.parametrize(
    "prompt", ["cat, dog, bird", "cat,dog,bird.", "cat; dog; bird", "cat | dog|bird", "cat\ndog\nbird"]
)
def test_a_comma_separated_prompt_is_one_name(prompt: str) -> None:
    (hint,) = hints(Prompt.of(prompt))
    assert "is one name; names are separated by stops: 'cat. dog. bird'" in hint


def test_nothing_to_say() -> None:
    for prompt in ("cat", "cat. dog", "cat,", "a big, black cat. dog", ["cat, tabby", "dog"]):
        assert hints(Prompt.of(prompt)) == ()
    assert hints(Prompt.from_spans("a cat, a dog", [(0, 12)])) == ()


def test_a_prompt_is_told_once() -> None:
    hinter, other = Hinter(), Prompt.of("\u72d7")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for prompt in (Prompt.of("\u732b"), Prompt.of(["\u732b"]), other, Prompt.of("\u732b")):
            hinter.tell(prompt)
    assert [warning.category for warning in caught] == [GlipExportWarning] * 2
    assert "\u732b" in str(caught[0].message) and "\u72d7" in str(caught[1].message)
    assert caught[0].filename == __file__
