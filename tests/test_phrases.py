"""A sentence's phrases: noun phrases against the original's demo, with its words and tags; brackets; what cannot be."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from glip_export import phrases
from glip_export.errors import GlipExportWarning, PromptError
from glip_export.phrases import ground, noun_phrases
from glip_export.prompt import Prompt, TokenizedChunk

CASES = json.loads((Path(__file__).parent / "data" / "oracle" / "noun_phrases" / "phrases.json").read_text())
SENTENCES = CASES["free_sentences"]


def said(*words: str) -> phrases.Tagger:
    """A tagger that says "word/TAG" whatever it is asked."""
    pairs = [tuple(word.rsplit("/", 1)) for word in words]
    return lambda text: pairs  # type: ignore[return-value]


def classes(chunk: TokenizedChunk) -> dict[str, list[int]]:
    """The original's positive map."""
    return {str(label): list(tokens) for label, tokens in enumerate(chunk.class_tokens, start=1)}


@pytest.mark.parametrize("case", SENTENCES, ids=lambda case: case["caption"][:24])
def test_a_sentence_equals_the_original(case) -> None:  # type: ignore[no-untyped-def]
    asked_of = []

    def tagger(text: str) -> list[tuple[str, str]]:
        asked_of.append(text)
        return [(word, tag) for word, tag in case["pos_tags"]]

    assert noun_phrases(tagger("")) == case["entities"]
    prompt = Prompt.from_sentence(case["caption"], tagger)
    assert asked_of[1:] == [case["caption"].lower()] == [prompt.caption]
    assert [[list(span) for span in spans] for spans in prompt.spans or ()] == case["tokens_positive_chars"]
    (chunk,) = prompt.chunks()
    assert classes(chunk) == case["positive_map"]
    assert chunk.input_ids.tolist() == case["input_ids"]
    # The original shows others where a phrase has several matches: `name_shown_for_label`.
    assert list(prompt.names) == list(case["text_at_span"].values())


@pytest.mark.parametrize("case", CASES["category_lists"], ids=lambda case: case["words"][0])
def test_the_demos_list_of_names_as_words(case) -> None:  # type: ignore[no-untyped-def]
    (chunk,) = Prompt.of([{"name": word, "suffix": " . "} for word in case["words"]]).chunks(separator="")
    assert chunk.caption == case["caption"]
    assert chunk.input_ids.tolist() == case["input_ids"] and classes(chunk) == case["positive_map"]


@pytest.mark.parametrize("case", CASES["custom_entities"], ids=lambda case: case["caption"][:24])
def test_the_demos_own_entities_as_spans(case) -> None:  # type: ignore[no-untyped-def]
    spans = []
    for entity in case["custom_entity"]:
        found = re.search(entity["span"], case["caption"]) if "span" in entity else None
        spans.append(found.span() if found else tuple(entity["char_bounds"]))
    (chunk,) = Prompt.from_spans(case["caption"], spans).chunks()
    assert chunk.input_ids.tolist() == case["input_ids"] and classes(chunk) == case["positive_map"]


def test_a_phrase_that_stands_there_twice_is_asked_for_at_each_place_for_each_time() -> None:
    words = said("a/DT", "cat/NN", "and/CC", "a/DT", "cat/NN")
    prompt = Prompt.from_sentence("A cat and a cat", words)
    assert prompt.names == ("a cat",) * 4
    assert prompt.spans == (((0, 5),), ((10, 15),)) * 2


def test_a_phrase_that_the_clean_up_changed_is_lost_and_told() -> None:
    words = said("mr./NN", "smith/NN", "near/IN", "a/DT", "cat/NN")
    assert ground("mr. smith near a cat", words) == ("mr. smith near a cat", ((15, 20),), ("mr smith",))
    with pytest.warns(GlipExportWarning, match="'mr smith' is not looked for"):
        assert Prompt.from_sentence("mr. smith near a cat", words).names == ("a cat",)
    with pytest.raises(PromptError, match="'mr smith' is not looked for: the sentence does not hold it"):
        ground("mr. smith", said("mr./NN", "smith/NN"))


@pytest.mark.parametrize(
    ("sentence", "word", "spans"),
    [
        (
            r"a \w and 12",
            r"\w",
            ((0, 1), (3, 4), (5, 6), (6, 7), (7, 8), (9, 10), (10, 11)),
        ),  # as the original: any word
        (r"the c:\q drive", r"\q", ((6, 8),)),  # no regular expression: the original fails
        ("the end\\", "end\\", ((4, 8),)),
        (r"group \1 here", r"\1", ((6, 8),)),
        ("<a> -> b=c", "<a>", ((0, 3),)),
    ],
)
def test_a_phrase_with_signs_is_searched_for_without_harm(
    sentence: str, word: str, spans: tuple[tuple[int, int], ...]
) -> None:
    assert ground(sentence, said(f"{word}/NN")).spans == spans


def test_an_empty_match_is_none() -> None:
    with pytest.raises(PromptError, match="is not looked for"):
        ground(r"a \b b", said(r"\b/NN"))


def test_most_phrases_and_characters() -> None:
    with pytest.raises(PromptError, match="more than 10000 phrases"):
        ground("a" * 10_000, lambda text: [("a", "NN"), ("of", "IN")] * 5000)
    with pytest.raises(PromptError, match="10001 characters; at most 10000"):
        ground("a" * 10_001, said("a/NN"))


@pytest.mark.parametrize(
    ("text", "caption", "names"),
    [
        (
            "[a cat] beside [a red remote control]",
            "a cat beside a red remote control",
            ["a cat", "a red remote control"],
        ),
        ("A [Cat] near a caterpillar, [ cat ]!", "A Cat near a caterpillar,  cat !", ["Cat", "cat"]),
        (r"the sign \[exit\] over [the door \[3\]]", "the sign [exit] over the door [3]", ["the door [3]"]),
        ("[mr. smith]\n[é + 🐈]", "mr. smith\né + 🐈", ["mr. smith", "é + 🐈"]),
    ],
)
def test_brackets(text: str, caption: str, names: list[str]) -> None:
    prompt = Prompt.from_sentence(text)
    assert (prompt.caption, list(prompt.names)) == (caption, names)
    assert prompt == Prompt.from_spans(caption, [span for spans in prompt.spans or () for span in spans])


def test_escaped_brackets_alone_leave_the_noun_phrases() -> None:
    assert ground(r"a \[red\] cat", said("red/JJ", "cat/NN", "a/DT", "[/(", "red/NN")).caption == "a [red] cat"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a [red] cat]", r"'[' at character 4 opens inside another: phrases do not nest; write \["),
        ("a cat] here", r"']' at character 6 closes none; write \]"),
        ("[a cat] on [a mat", r"'[' at character 12 is not closed; write \["),
        ("[a cat] on [ ]", "']' at character 14 closes a phrase without a word"),
        ("[]", "']' at character 2 closes a phrase without a word"),
    ],
)
def test_brackets_that_do_not_pair(text: str, told: str) -> None:
    with pytest.raises(PromptError) as caught:
        Prompt.from_sentence(text)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_sentence() -> None:
    for value in (None, 3, ["a cat"], b"a cat", "a \ud800 cat"):
        with pytest.raises(PromptError):
            Prompt.from_sentence(value)  # type: ignore[arg-type]
    for text in ("", " \n", "running quickly"):
        with pytest.raises(PromptError, match=r'no noun phrase is found .* mark the phrases in brackets: "') as caught:
            Prompt.from_sentence(text, said("running/VBG", "quickly/RB"))
        assert "\n" not in str(caught.value)


@pytest.fixture
def fresh_tagger() -> Iterator[None]:
    """The next sentence looks for NLTK anew."""
    phrases._nltk_tagger.cache_clear()
    yield
    phrases._nltk_tagger.cache_clear()


def test_without_nltk(fresh_tagger: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "nltk"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(PromptError, match=r"pip install 'glip-export\[phrases\]', or mark the phrases in brackets"):
        Prompt.from_sentence("a cat")
    assert Prompt.from_sentence("[a cat]").names == ("a cat",)


def test_without_nltks_data(fresh_tagger: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(PromptError) as caught:
        Prompt.from_sentence("a cat")
    assert "python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng, or mark" in str(caught.value)
    assert "\n" not in str(caught.value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Prompt.from_sentence("[a cat]").names == ("a cat",)


@pytest.fixture(scope="module")
def data_of_the_stored_sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NLTK's data as its downloader lays it out: a tagger of the stored sentences, no abbreviations."""
    pytest.importorskip("nltk")
    from nltk.tag import PerceptronTagger

    folder = tmp_path_factory.mktemp("nltk_data")
    tagger = PerceptronTagger(load=False)
    before = random.getstate()
    random.seed(0)  # in whose order it learns: not every order ends with all of them right
    tagger.train([[(word, tag) for word, tag in case["pos_tags"]] for case in SENTENCES], nr_iter=20)
    random.setstate(before)
    files = folder / "taggers" / "averaged_perceptron_tagger_eng"
    files.mkdir(parents=True)
    for kind, value in (("weights", tagger.model.weights), ("tagdict", tagger.tagdict), ("classes", tagger.classes)):
        text = json.dumps(sorted(value) if kind == "classes" else value)
        (files / f"averaged_perceptron_tagger_eng.{kind}.json").write_text(text)
    punkt = folder / "tokenizers" / "punkt_tab" / "english"
    punkt.mkdir(parents=True)
    for file in ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"):
        (punkt / file).write_text("")
    return folder


def test_through_nltk(fresh_tagger: None, data_of_the_stored_sentences: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(data_of_the_stored_sentences)])
    for case in SENTENCES:
        prompt = Prompt.from_sentence(case["caption"])
        assert [[list(span) for span in spans] for spans in prompt.spans or ()] == case["tokens_positive_chars"]
        assert list(prompt.names) == list(case["text_at_span"].values())


def test_broken_data(
    fresh_tagger: None, data_of_the_stored_sentences: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import nltk

    shutil.copytree(data_of_the_stored_sentences, tmp_path / "data")
    (weights,) = (tmp_path / "data").rglob("*.weights.json")
    weights.write_text(weights.read_text()[:100])
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "data")])
    with pytest.raises(PromptError, match=r"data cannot be read .*: install it anew, or mark the phrases") as caught:
        Prompt.from_sentence("a cat")
    assert "\n" not in str(caught.value)
