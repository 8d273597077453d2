"""A free sentence's phrases: marked in brackets, or the noun phrases that the original's demo finds with NLTK."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from threading import Lock
from typing import Any, NamedTuple

from glip_export.errors import PromptError, quoted

MAX_SENTENCE = 10_000  # characters; a caption of 256 tokens, the most that GLIP holds, has some 1500
MAX_PHRASES = 10_000

NLTK_DATA = ("punkt_tab", "averaged_perceptron_tagger_eng")

Tagger = Callable[[str], Sequence[tuple[str, str]]]  # a text to its words with their Penn Treebank tags

_BY_HAND = 'or mark the phrases in brackets: "[a cat] beside [a red remote control]"'
_BRACKET = re.compile(r"\\?[\[\]]")
# GLIPDemo's grammar {<DT>?<JJ.*>*<NN.*>+}, over one letter a tag.
_NOUN_PHRASE = re.compile("D?J*N+")
# GLIPDemo deletes these from a phrase, and thereby all that repeats, groups or offers a choice in a regular expression.
_DELETED = str.maketrans("", "", "|:;@()[]{}^'\"’`?$%#!&*+,.")
_tagger_lock = Lock()


class Grounding(NamedTuple):
    """A sentence as it is asked about."""

    caption: str
    spans: tuple[tuple[int, int], ...]  # characters of each phrase, end exclusive; they may overlap
    lost: tuple[str, ...] = ()  # noun phrases that do not stand in the caption in the words that are looked for


def ground(text: str, tagger: Tagger | None = None) -> Grounding:
    r"""The caption and phrases of "[a cat] beside [a red remote control]", or of a sentence without brackets.

    With brackets the caption is the text without them, and the phrases are what stood in them. Without, the caption is
    the text in lower case and the phrases are its noun phrases as GLIPDemo finds them, by `tagger`, NLTK's by default;
    each is looked for in the whole caption, and every match is a phrase. `\[` and `\]` are brackets of the text itself.
    Raises PromptError for a text too long, brackets that do not pair, no phrase at all, and where NLTK is missing.
    """
    if len(text) > MAX_SENTENCE:
        raise PromptError(f"the sentence has {len(text)} characters; at most {MAX_SENTENCE} are accepted")
    if any(len(match.group()) == 1 for match in _BRACKET.finditer(text)):
        return _bracketed(text)
    caption = _BRACKET.sub(lambda match: match.group()[-1], text).lower()
    entities = noun_phrases((tagger or _nltk_tagger())(caption))
    spans: list[tuple[int, int]] = []
    lost = []
    for entity in entities:
        found = list(islice(_matches(entity, caption), MAX_PHRASES - len(spans) + 1))
        spans += found
        if not found:
            lost.append(entity)
        if len(spans) > MAX_PHRASES:
            raise PromptError(f"the sentence has more than {MAX_PHRASES} phrases, one for each match of a noun phrase")
    if lost and not spans:
        raise PromptError(lost_phrase(lost[0]))
    if not spans:
        raise PromptError(f"no noun phrase is found in {quoted(text)}: name a thing in it, {_BY_HAND}")
    return Grounding(caption, tuple(spans), tuple(dict.fromkeys(lost)))


def lost_phrase(phrase: str) -> str:
    """What to tell a person of one that is lost."""
    return f"{quoted(phrase)} is not looked for: the sentence does not hold it in these words; mark it in brackets"


def noun_phrases(tagged: Sequence[tuple[str, str]]) -> list[str]:
    """An optional determiner, adjectives and nouns, as often as they stand there, in the words that are looked for."""
    letters = "".join(_letter(tag) for _, tag in tagged)
    phrases = (" ".join(word for word, _ in tagged[slice(*match.span())]) for match in _NOUN_PHRASE.finditer(letters))
    cleaned = (phrase.translate(_DELETED).strip() for phrase in phrases)
    return [phrase for phrase in cleaned if phrase]


def _letter(tag: str) -> str:
    if tag == "DT":
        return "D"
    return {"JJ": "J", "NN": "N"}.get(tag[:2], "x")


def _matches(entity: str, caption: str) -> Iterator[tuple[int, int]]:
    """Where the phrase stands, as a regular expression, as in the original.

    The only character left with a meaning there is the backslash, which cannot repeat anything: a search takes at most
    the caption's length times the phrase's. What is no regular expression, where the original fails, is a plain text.
    """
    try:
        pattern = re.compile(entity)
    except (re.error, OverflowError):
        pattern = re.compile(re.escape(entity))
    return (match.span() for match in pattern.finditer(caption) if match.group())


def _bracketed(text: str) -> Grounding:
    caption, spans = "", []
    opened, bracket, copied = -1, 0, 0  # the open phrase in the caption, its bracket in the text; what is copied of it
    for match in _BRACKET.finditer(text):
        caption += text[copied : match.start()]
        copied = match.end()
        sign = match.group()
        if len(sign) == 2:
            caption += sign[1]
        elif sign == "[":
            if opened >= 0:
                raise _unpaired(text, match.start(), "opens inside another: phrases do not nest")
            opened, bracket = len(caption), match.start()
        else:
            if opened < 0:
                raise _unpaired(text, match.start(), "closes none")
            phrase = caption[opened:]
            begin = opened + len(phrase) - len(phrase.lstrip())
            end = opened + len(phrase.rstrip())
            if begin >= end:
                raise _unpaired(text, match.start(), "closes a phrase without a word")
            spans.append((begin, end))
            opened = -1
    if opened >= 0:
        raise _unpaired(text, bracket, "is not closed")
    return Grounding(caption + text[copied:], tuple(spans))


def _unpaired(text: str, place: int, what: str) -> PromptError:
    sign = text[place]
    return PromptError(
        f"the sentence {quoted(text)}: the {sign!r} at character {place + 1} {what}; "
        f"write \\{sign} for one that is text"
    )


@lru_cache(maxsize=1)
def _nltk_tagger() -> Tagger:
    """NLTK's word_tokenize and pos_tag, English, with the tagger loaded once."""
    try:
        from nltk.tag import PerceptronTagger
        from nltk.tokenize import word_tokenize
    except ImportError as error:
        raise PromptError(
            f"finding the noun phrases of a sentence needs NLTK ({error}): "
            f"pip install 'glip-export[phrases]', {_BY_HAND}"
        ) from None
    tagger: Any = None

    def tag(text: str) -> Sequence[tuple[str, str]]:
        nonlocal tagger
        try:
            with _tagger_lock:  # NLTK's loading is not made for threads
                if tagger is None:
                    tagger = PerceptronTagger()
                return tagger.tag(word_tokenize(text))
        except LookupError as error:
            if isinstance(error, (IndexError, KeyError)):
                raise
            raise PromptError(
                "finding the noun phrases of a sentence needs NLTK's data, which is not installed: "
                f"python -m nltk.downloader {' '.join(NLTK_DATA)}, {_BY_HAND}"
            ) from None
        except (OSError, ValueError) as error:
            why = " ".join(str(error).split())[:200]
            raise PromptError(f"NLTK's data cannot be read ({why}): install it anew, {_BY_HAND}") from None

    return tag
