"""A prompt as the one text of Triton's input `prompt`: names with stops between, or a JSON list of names."""

from __future__ import annotations

import json
from collections.abc import Sequence

from glip_export.errors import PromptError
from glip_export.prompt import MAX_CHARACTERS, Prompt


def read_prompt(data: bytes | str, max_names: int) -> Prompt:
    """UTF-8 text as a prompt, or a JSON list of names, which begins with "["; raises PromptError."""
    try:
        text = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError:
        raise PromptError("the prompt is not UTF-8") from None
    if len(text) > MAX_CHARACTERS:
        raise PromptError(f"the prompt has {len(text)} characters; at most {MAX_CHARACTERS} are accepted")
    prompt = Prompt.of(_names(text) if text.lstrip().startswith("[") else text)
    if len(prompt.names) > max_names:
        raise PromptError(f"the prompt has {len(prompt.names)} names; this server accepts {max_names}")
    return prompt


def write_prompt(prompt: str | Sequence[str]) -> str:
    """What `read_prompt` reads as the same prompt."""
    if isinstance(prompt, str) and not prompt.lstrip().startswith("["):
        return prompt
    return json.dumps(list(Prompt.of(prompt).names) if isinstance(prompt, str) else list(prompt))


def _names(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        raise PromptError('a prompt that begins with "[" is a JSON list of names, and this is no valid JSON') from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise PromptError("a prompt in JSON is a list of texts")
    return names
