"""The prompts of a batch's pictures, as captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glip_export.errors import PromptError
from glip_export.names import Name
from glip_export.prompt import Prompt, TokenizedChunk


@dataclass(frozen=True)
class Tokenized:
    """A prompt with its captions."""

    prompt: Prompt
    chunks: tuple[TokenizedChunk, ...]

    def names(self, chunk: TokenizedChunk) -> tuple[str, ...]:
        """Those that a caption asks for."""
        return self.prompt.names[chunk.first : chunk.first + len(chunk.class_tokens)]


def of_each(
    prompt: str | Sequence[Name] | Prompt | Sequence[Prompt], pictures: int, tokenize: Callable[[Prompt], Tokenized]
) -> list[Tokenized]:
    """The prompt of each picture, equal ones tokenized once."""
    if not isinstance(prompt, Sequence) or not prompt or not all(isinstance(one, Prompt) for one in prompt):
        return [tokenize(Prompt.of(prompt))] * pictures  # type: ignore[arg-type]
    if len(prompt) != pictures:
        raise PromptError(
            f"{len(prompt)} prompts are given for {pictures} picture(s): give one for each, or one Prompt"
        )
    known: dict[Prompt, Tokenized] = {}
    for one in prompt:
        assert isinstance(one, Prompt)
        if one not in known:
            known[one] = tokenize(one)
    return [known[one] for one in prompt]  # type: ignore[index]


def sharing(prompts: Sequence[Tokenized]) -> list[list[int]]:
    """The places of the pictures that share a prompt, which can be run together."""
    places: dict[Prompt, list[int]] = {}
    for index, one in enumerate(prompts):
        places.setdefault(one.prompt, []).append(index)
    return list(places.values())
