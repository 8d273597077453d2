"""What a person should know of a prompt that can be used, and is perhaps not what was meant: a line each."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache

from glip_export.errors import GlipExportWarning, quoted
from glip_export.prompt import Prompt, tokenizer

UNKNOWN = "[UNK]"
MOST_SHOWN = 8
MOST_REMEMBERED = 64  # prompts

_OTHER_SEPARATORS = re.compile(r"[,;|\n\u3001\uff0c\u3002]")


class Hinter:
    """Warns of each prompt's hints, once while it is among those last used."""

    def __init__(self, more: Callable[[Prompt], Sequence[str]] = lambda prompt: ()) -> None:
        """more: hints beside those of `hints`."""
        self._more = more
        self._told: OrderedDict[Prompt, None] = OrderedDict()

    def tell(self, prompt: Prompt, stacklevel: int = 1) -> None:
        """Gives the hints as GlipExportWarning, said to come from this method's caller, or `stacklevel - 1` above."""
        new = prompt not in self._told
        self._told[prompt] = None
        self._told.move_to_end(prompt)
        if len(self._told) > MOST_REMEMBERED:
            self._told.popitem(last=False)
        if new:
            for hint in (*hints(prompt), *self._more(prompt)):
                warnings.warn(hint, GlipExportWarning, stacklevel=stacklevel + 1)


@lru_cache(maxsize=16)
def hints(prompt: Prompt) -> tuple[str, ...]:
    """Words that the model's vocabulary lacks; names that are perhaps several, with commas between."""
    found = []
    unknown = unknown_words(prompt)
    if unknown:
        shown = ", ".join(quoted(word) for word in unknown[:MOST_SHOWN])
        more = f" and {len(unknown) - MOST_SHOWN} more" if len(unknown) > MOST_SHOWN else ""
        found.append(
            f"the model's vocabulary has no word for {shown}{more}: read as {UNKNOWN}, so that names with nothing else "
            "in them all get the same boxes"
        )
    if prompt.caption is None and prompt.words is None and len(prompt.names) == 1:
        parts = [part.strip() for part in _OTHER_SEPARATORS.split(prompt.names[0]) if part.strip()]
        if len(parts) > 1:
            found.append(
                f"{quoted(prompt.names[0])} is one name; names are separated by stops: {quoted('. '.join(parts))}"
            )
    return tuple(found)


def unknown_words(prompt: Prompt) -> tuple[str, ...]:
    """The words, as they were given, that the tokenizer reads as [UNK], each once in their order."""
    texts = [prompt.caption or "", *prompt.unscored]
    if prompt.caption is None:
        texts = [*("".join(entry) for entry in prompt.words or ()), *prompt.unscored]
        texts += [] if prompt.words is not None else prompt.names
    found: dict[str, None] = {}
    for text in texts:
        encoding = tokenizer().encode(text, add_special_tokens=False)
        for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
            # The user's own "[UNK]" is three tokens or one, by release; it is no word that the vocabulary lacks.
            if token == UNKNOWN and text[start:end] != UNKNOWN:
                found[text[start:end]] = None
    return tuple(found)
