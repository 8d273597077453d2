"""What `glip-export detect` looks for: names in one line, names of a file, or the phrases of a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glip_export.errors import GlipExportError, PromptError
from glip_export.names import read_names_file, words_of
from glip_export.prompt import Prompt
from glip_export.serving.prompts import phrases_of


@dataclass(frozen=True)
class Asked:
    """A prompt, and what it was made of."""

    prompt: Prompt
    words: str  # for a person
    described: dict[str, Any]  # for JSON


def read_prompt(prompt: str | None = None, names: Path | None = None, sentence: str | None = None) -> Asked:
    """The one of them that is given; raises GlipExportError, PromptError where it cannot be used."""
    if (prompt is not None) + (names is not None) + (sentence is not None) != 1:
        raise GlipExportError("give what to look for: one of --prompt, --names and --sentence")
    if sentence is not None:
        return of_sentence(sentence)
    if prompt is not None:
        return Asked(Prompt.of(prompt), prompt, {"prompt": prompt})
    assert names is not None
    entries = list(read_names_file(names))
    asked = Prompt.of(entries)
    texts = ("".join(words_of(entry, place) or str(entry)) for place, entry in enumerate(entries, start=1))
    return Asked(asked, ". ".join(texts), {"prompt": entries})


def baked_prompt(bundle: Path, *given: object) -> Asked | None:
    """The names that a baked model holds; None for a bundle. Raises PromptError where something else is asked."""
    from glip_export.bundle.baked_file import BakedFile, is_baked

    if not is_baked(bundle):
        return None
    if any(one is not None for one in given):
        raise PromptError(f"{bundle} is a baked model, which holds its vocabulary: leave what to look for out")
    names = BakedFile.open(bundle, verify=False).names  # which Detector.open does
    return Asked(Prompt(names, wordless=True), ". ".join(names), {"prompt": list(names)})


def of_sentence(sentence: str) -> Asked:
    """The phrases of a sentence; in JSON the caption that is asked, and each phrase with its characters there."""
    asked = Prompt.from_sentence(sentence)
    return Asked(asked, sentence, {"sentence": sentence, "caption": asked.caption, "phrases": phrases_of(asked)})
