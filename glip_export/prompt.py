"""A prompt: names to look for, or a caption with phrases, and its tokens as GLIP sees them."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from numbers import Integral

import numpy as np
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer, Encoding

from glip_export.errors import ConfigError, GlipExportWarning, PromptError, quoted
from glip_export.names import Name, Words, split_names, words_of
from glip_export.phrases import Tagger, ground, lost_phrase

MAX_NAMES = 20_000
MAX_CHARACTERS = 1_000_000
SPECIAL_TOKENS = 2  # [CLS] and [SEP]

Span = tuple[int, int]  # characters of the caption, end exclusive


@dataclass(frozen=True, eq=False)
class TokenizedChunk:
    """One caption of a prompt, as many as the text encoder holds at once; T tokens."""

    caption: str
    input_ids: NDArray[np.int64]  # (T,), [CLS] first and [SEP] last, not padded
    class_tokens: tuple[tuple[int, ...], ...]  # of each name, its tokens' places in input_ids, rising
    first: int  # index in Prompt.names of the chunk's first name


@dataclass(frozen=True)
class Prompt:
    """What to detect: the names in order (their index is the label), or the phrases of one caption.

    `caption` and `spans` are set for phrase grounding only, `words` where a name is asked for by other words than its
    own, and `unscored` for words at the end of every caption that are no name's. `wordless`: phrases without a token
    are allowed, and found nowhere, as in the original. Equal prompts are equal keys; `key` is
    stable across processes. Raises PromptError where the prompt cannot be used with any model.
    """

    names: tuple[str, ...]
    caption: str | None = None
    spans: tuple[tuple[Span, ...], ...] | None = None
    words: tuple[Words, ...] | None = None
    unscored: tuple[str, ...] = ()
    wordless: bool = False

    @classmethod
    def of(cls, value: str | Sequence[Name] | Prompt) -> Prompt:
        """A prompt of names: "cat. remote control" or ["cat", "remote control"].

        A text is split at each stop that ends a name; "St. Bernard" and "3.5 mm jack" stay whole (`split_names`), and a
        name with any other stop in it needs the list form. Names go through `clean_name` as in the original; in the
        list {"prefix": "a ", "name": "hole", "suffix": " in the road"} is taken as it is, see `from_words`.
        """
        if isinstance(value, Prompt):
            return value
        if isinstance(value, str):
            _check_length(len(value))
            return cls(tuple(clean_name(part).strip() for part in split_names(value)))
        if not isinstance(value, Sequence) or isinstance(value, (bytes, bytearray)):
            raise PromptError(f"a prompt is a text or a list of names, not {type(value).__name__}")
        words = tuple(_entry_words(entry, place) for place, entry in enumerate(value, start=1))
        plain = all(isinstance(entry, str) for entry in value)
        return cls(tuple(entry.name for entry in words), words=None if plain else words)

    @classmethod
    def from_sentence(cls, text: str, tagger: Tagger | None = None) -> Prompt:
        r"""The phrases of "[a cat] beside [a red remote control]", or the noun phrases of a sentence without brackets.

        Those are found by `tagger`, by default NLTK's, as the original's demo does (`glip_export.phrases.ground`); they
        are called by the text that is scored. A noun phrase that is not found again in the sentence is warned of.
        Raises PromptError, also for a sentence without a phrase, and where NLTK or its data is not installed.
        """
        caption, spans, lost = ground(checked_text(text), tagger)
        for phrase in lost:
            warnings.warn(lost_phrase(phrase), GlipExportWarning, stacklevel=2)
        return cls.from_spans(caption, spans)

    @classmethod
    def from_spans(cls, caption: str, spans: Sequence[Span | Sequence[Span]], wordless: bool = False) -> Prompt:
        """A caption and the characters of each phrase: (start, end), or a list of them; end exclusive.

        wordless: a phrase may have no span or hold nothing that the tokenizer can read; then nothing is found for it.
        """
        caption = checked_text(caption)
        if not isinstance(spans, Sequence):
            raise PromptError(f"the spans are a list of (start, end), not {type(spans).__name__}")
        parsed = tuple(() if wordless and entry in ((), []) else _parse_spans(entry, caption) for entry in spans)
        _check_length(sum(end - start for entry in parsed for start, end in entry))  # before they are copied
        names = tuple(" ".join(caption[start:end] for start, end in entry) for entry in parsed)
        return cls(names, caption, parsed, wordless=wordless)

    @classmethod
    def from_words(
        cls,
        words: Sequence[tuple[str, str, str]],
        names: Sequence[str] | None = None,
        unscored: Sequence[str] = (),
    ) -> Prompt:
        """(prefix, name, suffix) of each class: ("there are some ", "holes", " on the road"), scored on the name alone.

        names: what the classes are called in the results, by default the names that are asked for. Nothing is cleaned:
        the caption is the words as they are, the separator between (GLIP: DATASETS.CAPTION_PROMPT).
        """
        parsed = tuple(_checked_words(entry) for entry in words)
        return cls(tuple(names or (entry.name for entry in parsed)), words=parsed, unscored=tuple(unscored))

    def __post_init__(self) -> None:
        if (self.caption is None) != (self.spans is None):
            raise PromptError("a prompt with a caption needs the spans of its phrases, and the other way round")
        if self.spans is not None and len(self.spans) != len(self.names):
            raise PromptError(f"the prompt has {len(self.names)} names but {len(self.spans)} spans")
        if not self.names:
            raise PromptError('the prompt is empty: give names, such as "cat. remote control"')
        if len(self.names) > MAX_NAMES:
            raise PromptError(f"the prompt has {len(self.names)} names; at most {MAX_NAMES} are accepted")
        if self.caption is not None and (self.words is not None or self.unscored):
            raise PromptError("a prompt with a caption has its words there; it takes no others")
        if self.words is not None and len(self.words) != len(self.names):
            raise PromptError(f"the prompt has {len(self.names)} names but words for {len(self.words)}")
        texts = [*self.names, *(text for entry in self.words or () for text in entry), *self.unscored]
        _check_length(sum(len(checked_text(text)) for text in texts) + len(self.caption or ""))
        for index, name in enumerate(self.asked):
            if not self.wordless and not name.strip(". \t\r\n"):
                raise PromptError(f"name {index + 1} of the prompt is empty: {quoted(name)} holds no word")

    @property
    def asked(self) -> tuple[str, ...]:
        """The words that each name is scored on."""
        return self.names if self.words is None else tuple(entry.name for entry in self.words)

    @property
    def key(self) -> str:
        """SHA-256 of the prompt, the same in every process."""
        parts: list[object] = [self.names, self.caption, self.spans]
        if self.words is not None or self.unscored:
            parts += [self.words, self.unscored]
        if self.wordless:
            parts.append("wordless")
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def chunks(self, max_query_len: int = 256, separator: str = ". ", chunk: int = -1) -> tuple[TokenizedChunk, ...]:
        """The prompt as captions of at most `max_query_len` tokens, [CLS] and [SEP] included.

        chunk > 0 gives that many names a caption (GLIP: TEST.CHUNKED_EVALUATION), else all names go in one. A caption
        that is still too long, where the original fails, is split into as few as hold whole names in order. A
        grounding caption is never split. Raises PromptError for a name or caption too long, or without any token.
        """
        if self.caption is not None and self.spans is not None:
            return (_tokenize(self.caption, self.spans, self.names, 0, max_query_len, self.wordless),)
        words = self.words or tuple(Words("", name, "") for name in self.names)
        tail = "".join(separator + text for text in self.unscored)
        size = chunk if chunk > 0 else len(words)
        blocks = ((first, words[first : first + size]) for first in range(0, len(words), size))
        return tuple(
            part for first, block in blocks for part in _split_to_fit(block, first, max_query_len, separator, tail)
        )


def clean_name(name: str) -> str:
    """The original's clean_name: no "(...)", "_" as a space, one pass over double spaces."""
    name = re.sub(r"\(.*\)", "", name)
    return name.replace("_", " ").replace("  ", " ")


def class_map(chunk: TokenizedChunk, score_agg: str, length: int | None = None) -> NDArray[np.float32]:
    """(T, K): 1/n on each of a class's n tokens (MEAN, POWER) or 1 (MAX); `length` pads T with zeros.

    Raises ConfigError for another MODEL.DYHEAD.SCORE_AGG.
    """
    if score_agg not in ("MEAN", "MAX", "POWER"):
        raise ConfigError(f"MODEL.DYHEAD.SCORE_AGG is {score_agg!r}; MEAN, MAX and POWER are known")
    weights = np.zeros((length or len(chunk.input_ids), len(chunk.class_tokens)), np.float32)
    for label, tokens in enumerate(chunk.class_tokens):
        weights[list(tokens), label] = 1 if score_agg == "MAX" else 1 / max(len(tokens), 1)
    return weights


@lru_cache(maxsize=1)
def tokenizer() -> BertWordPieceTokenizer:
    """bert-base-uncased's WordPiece tokenizer, lower case, from the packaged vocabulary."""
    text = (files("glip_export") / "data" / "bert_base_uncased_vocab.txt").read_text(encoding="utf-8")
    # Not splitlines(): the vocabulary may hold characters that Python takes for line ends.
    words = text.removesuffix("\n").split("\n")
    return BertWordPieceTokenizer({word: index for index, word in enumerate(words)}, lowercase=True)


def _split_to_fit(
    words: tuple[Words, ...], first: int, max_query_len: int, separator: str, tail: str
) -> Iterator[TokenizedChunk]:
    """Chunks that take names in order while their caption fits; `tail` ends every caption."""
    # A stop ends a word for WordPiece, so a caption's length is the sum of its parts' and one pass over the names is
    # enough to find where to cut.
    lengths = [_count_tokens("".join(entry)) for entry in words]
    gap = _count_tokens(separator)
    ends = SPECIAL_TOKENS + _count_tokens(tail)
    start = 0
    while start < len(words):
        stop, total = start + 1, ends + lengths[start]
        while stop < len(words) and total + gap + lengths[stop] <= max_query_len:
            total += gap + lengths[stop]
            stop += 1
        part = words[start:stop]
        caption = separator.join("".join(entry) for entry in part) + tail
        names = [entry.name for entry in part]
        yield _tokenize(caption, _name_spans(part, separator), names, first + start, max_query_len)
        start = stop


def _name_spans(words: Sequence[Words], separator: str) -> Iterator[tuple[Span]]:
    """The characters of each name in the joined caption."""
    start = 0
    for prefix, name, suffix in words:
        start += len(prefix)
        yield ((start, start + len(name)),)
        start += len(name) + len(suffix) + len(separator)


def _tokenize(
    caption: str,
    spans: Iterator[tuple[Span]] | Sequence[Sequence[Span]],
    names: Sequence[str],
    first: int,
    limit: int,
    wordless: bool = False,
) -> TokenizedChunk:
    encoding = tokenizer().encode(caption)
    if len(encoding.ids) > limit:
        raise PromptError(f"{quoted(caption)} takes {len(encoding.ids)} tokens; the model holds {limit} at once")
    class_tokens = []
    for name, entry in zip(names, spans, strict=True):
        tokens = sorted({token for span in entry for token in _span_tokens(encoding, span, len(caption))})
        if not tokens and not wordless:
            raise PromptError(f"{quoted(name)} holds nothing that the tokenizer can read; give it a word")
        class_tokens.append(tuple(tokens))
    return TokenizedChunk(caption, np.array(encoding.ids, np.int64), tuple(class_tokens), first)


def _span_tokens(encoding: Encoding, span: Span, length: int) -> range:
    """All tokens from the span's first character that has one to its last that has one.

    The original tries begin, begin + 1, begin + 2 and end - 1, end - 2, end - 3, even beyond a short span. Ours goes
    on inside a longer span, where the original would lose the class.
    """
    begin, end = span
    ahead = range(begin, min(max(end, begin + 3), length))
    behind = range(end - 1, max(min(begin, end - 3), 0) - 1, -1)
    first = next((token for char in ahead if (token := encoding.char_to_token(char)) is not None), None)
    last = next((token for char in behind if (token := encoding.char_to_token(char)) is not None), None)
    return range(0) if first is None or last is None else range(first, last + 1)


def _count_tokens(text: str) -> int:
    # One text at a time: encode_batch starts threads, which tokenizers warns about in every process forked later.
    return len(tokenizer().encode(text, add_special_tokens=False).ids)


def _parse_spans(entry: Span | Sequence[Span], caption: str) -> tuple[Span, ...]:
    """(start, end) or a list of them, checked against the caption."""
    pairs = [entry] if _is_pair(entry) else entry
    if not isinstance(pairs, Sequence) or not pairs or not all(_is_pair(pair) for pair in pairs):
        raise PromptError(f"a span is (start, end) or a list of them, not {quoted(entry)}")
    spans = tuple((int(start), int(end)) for start, end in pairs)  # type: ignore[misc,arg-type]
    for start, end in spans:
        if not 0 <= start < end <= len(caption):
            raise PromptError(
                f"the span ({start}, {end}) is empty or outside the caption, which has {len(caption)} characters"
            )
    return spans


def _is_pair(entry: object) -> bool:
    return isinstance(entry, Sequence) and len(entry) == 2 and all(isinstance(place, Integral) for place in entry)


def _entry_words(entry: object, place: int) -> Words:
    words = words_of(entry, place)
    return Words("", clean_name(checked_text(entry)), "") if words is None else words


def _checked_words(entry: Sequence[str]) -> Words:
    if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != len(Words._fields):
        raise PromptError(f"the words of a class are (prefix, name, suffix), not {quoted(entry)}")
    return Words(*entry)


def checked_text(text: object) -> str:
    """The text, if it is one and can be written as UTF-8 (the tokenizer takes nothing else)."""
    if not isinstance(text, str):
        raise PromptError(f"a name in a prompt is a text, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PromptError(f"{quoted(text)} is not valid Unicode: it holds half of a surrogate pair") from None
    return str(text)


def _check_length(characters: int) -> None:
    if characters > MAX_CHARACTERS:
        raise PromptError(f"the prompt has {characters} characters; at most {MAX_CHARACTERS} are accepted")
