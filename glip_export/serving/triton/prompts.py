"""A prompt as the one text of Triton's input `prompt`: names with stops between, or JSON (`serving.prompts`)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from glip_export.errors import PromptError
from glip_export.names import Name
from glip_export.prompt import MAX_CHARACTERS, Prompt
from glip_export.serving.prompts import prompt_from_json, prompt_to_json

_JSON = re.compile(r'\s*(\[|[{]\s*")')


def read_prompt(data: bytes | str, max_names: int) -> Prompt:
    """UTF-8 text as a prompt, or JSON: a list, which begins with "[", or a caption and spans; raises PromptError."""
    try:
        text = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError:
        raise PromptError("the prompt is not UTF-8") from None
    if len(text) > MAX_CHARACTERS:
        raise PromptError(f"the prompt has {len(text)} characters; at most {MAX_CHARACTERS} are accepted")
    return prompt_from_json(_parsed(text) if _JSON.match(text) else text, max_names, MAX_CHARACTERS)


def write_prompt(prompt: str | Sequence[Name] | Prompt) -> str:
    """What `read_prompt` reads as the same prompt; raises PromptError for one that it cannot read."""
    if isinstance(prompt, str) and not _JSON.match(prompt):
        return prompt
    return json.dumps(prompt_to_json(Prompt.of(prompt)))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise PromptError(
            'a prompt that begins with "[" is a JSON list of names, one with {" a JSON object; this is no valid JSON'
        ) from None
