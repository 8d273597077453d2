"""A prompt as JSON, as the servers take it: a text, a list of names, or a caption with its phrases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glip_export.errors import PromptError, quoted
from glip_export.prompt import Prompt

MAX_SPANS = 10_000  # of all phrases together
FORMS = (
    'a text, "cat. remote control", a list of names and {"prefix", "name", "suffix"}, or {"caption", "spans"}, '
    "the spans being the characters of each phrase"
)


def prompt_from_json(value: Any, max_names: int, max_characters: int) -> Prompt:
    """ "cat. dog", ["cat", {"prefix": "a ", "name": "dog", "suffix": ""}] or {"caption": "a cat", "spans": [[0, 5]]}.

    A phrase's span may be a list of them. Raises PromptError, also for what is over the limits.
    """
    if not isinstance(value, (str, list, dict)):
        raise PromptError(f"say what to look for: the prompt is {FORMS}")
    names = value.get("spans") if isinstance(value, dict) else value
    if isinstance(names, list) and len(names) > max_names:
        raise PromptError(f"{len(names)} names; at most {max_names} are accepted")
    characters = sum(map(len, _texts(value)))
    if characters > max_characters:
        raise PromptError(f"the prompt has {characters} characters; at most {max_characters} are accepted")
    prompt = _from_caption(value) if isinstance(value, dict) else Prompt.of(value)
    if len(prompt.names) > max_names:
        raise PromptError(f"{len(prompt.names)} names; at most {max_names} are accepted")
    return prompt


def prompt_to_json(prompt: Prompt) -> list[Any] | dict[str, Any]:
    """What `prompt_from_json` reads as the same prompt; raises PromptError for one that has no such form."""
    if prompt.unscored:
        raise PromptError("a server takes no words that are no name's (unscored)")
    if prompt.caption is not None:
        return {"caption": prompt.caption, "spans": [[list(span) for span in spans] for spans in prompt.spans or ()]}
    if prompt.words is None:
        return list(prompt.names)
    if prompt.names != prompt.asked:
        raise PromptError("a server calls names as they are asked for: leave out the names of Prompt.from_words")
    return [entry._asdict() for entry in prompt.words]


def phrases_of(prompt: Prompt) -> list[dict[str, Any]]:
    """The phrases of a caption: [{"name", "spans"}], the spans [start, end) in characters."""
    pairs = zip(prompt.names, prompt.spans or (), strict=True)
    return [{"name": name, "spans": [list(span) for span in spans]} for name, spans in pairs]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, dict):
            yield from (text for text in entry.values() if isinstance(text, str))
        elif isinstance(entry, str) and entry is not value:
            yield entry


def _from_caption(value: dict[str, Any]) -> Prompt:
    caption, spans = value.get("caption"), value.get("spans")
    if value.keys() != {"caption", "spans"} or not isinstance(caption, str) or not isinstance(spans, list):
        raise PromptError(f"the prompt is {FORMS}, not {quoted(value)}")
    if sum(len(entry) for entry in spans if isinstance(entry, list)) > 2 * MAX_SPANS:
        raise PromptError(f"the phrases have more than {MAX_SPANS} spans")
    return Prompt.from_spans(caption, spans)
