"""What an evaluation asks for instead of a data set's own names: the settings of a task such as ODinW's.

Task YAMLs hold them as Python literals in strings, trailing commas and all; `yacs.literal` reads those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glip_export.config.yacs import Values, literal, read_small_yaml, show
from glip_export.errors import ConfigError

DATASETS = "DATASETS."


@dataclass(frozen=True)
class TaskCategory:
    """A category that stands in for one of the annotation file's."""

    id: int
    name: str


@dataclass(frozen=True)
class CaptionWords:
    """How a category stands in the caption; its detections are scored on the name alone."""

    prefix: str
    name: str
    suffix: str


@dataclass(frozen=True)
class TaskConfig:
    """What `eval` asks for. `detect` and the service are given a prompt, which none of this changes."""

    use_override_category: bool = False  # DATASETS.USE_OVERRIDE_CATEGORY
    override_category: tuple[TaskCategory, ...] = ()  # DATASETS.OVERRIDE_CATEGORY
    use_caption_prompt: bool = False  # DATASETS.USE_CAPTION_PROMPT
    caption_prompt: tuple[CaptionWords, ...] = ()  # DATASETS.CAPTION_PROMPT, in the order of the asked categories
    use_suppress_query: bool = False  # DATASETS.USE_SUPRESS_QUERY
    suppress_query: tuple[str, ...] = ()  # DATASETS.SUPRESS_QUERY

    @property
    def categories(self) -> tuple[TaskCategory, ...]:
        """What replaces the annotation file's categories, in this order; nothing by default."""
        return self.override_category if self.use_override_category else ()

    @property
    def words(self) -> tuple[CaptionWords, ...]:
        """What the categories are asked for by; their names where there is nothing."""
        return self.caption_prompt if self.use_caption_prompt else ()

    @property
    def unscored(self) -> tuple[str, ...]:
        """Words at the end of every caption that are no category's."""
        return self.suppress_query if self.use_suppress_query else ()


def read_task(values: Values) -> TaskConfig:
    """The task's settings. Raises ConfigError, naming the key and entry, for what is none.

    A CAPTION_PROMPT that is a text is a YAML file's path, from where the command runs, and read only where it is used.
    """
    use_words = values[DATASETS + "USE_CAPTION_PROMPT"]
    return TaskConfig(
        use_override_category=values[DATASETS + "USE_OVERRIDE_CATEGORY"],
        override_category=tuple(_categories(values)),
        use_caption_prompt=use_words,
        caption_prompt=tuple(_caption_words(values, use_words)),
        use_suppress_query=values[DATASETS + "USE_SUPRESS_QUERY"],
        suppress_query=tuple(_suppressed(values)),
    )


def _categories(values: Values) -> Iterator[TaskCategory]:
    key = DATASETS + "OVERRIDE_CATEGORY"
    seen: set[int] = set()
    for place, entry in _entries(values, key, values[key], "a list of {id, name}"):
        number, name = _texts(entry, "id", "name")
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(name, str) or not name.strip():
            raise _refuse(values, key, f"entry {place} is {show(entry)}, not {{id, name}} of a whole number and a text")
        if number in seen:
            raise _refuse(values, key, f"entry {place} has the id {number} of an earlier one")
        seen.add(number)
        yield TaskCategory(number, name)


def _caption_words(values: Values, used: bool) -> Iterator[CaptionWords]:
    key = DATASETS + "CAPTION_PROMPT"
    value = values[key]
    if isinstance(value, str) and value:
        if not used:
            return
        try:
            value = literal(read_small_yaml(Path(value), "caption prompt"))
        except ConfigError as error:
            words = "neither a list of {prefix, name, suffix} nor a YAML file with one"
            raise _refuse(values, key, f"it is {words}: {error}") from error
    for place, entry in _entries(
        values, key, value, "a list of {prefix, name, suffix}, or the path of a YAML with one"
    ):
        prefix, name, suffix = parts = _texts(entry, "prefix", "name", "suffix")
        if not all(isinstance(part, str) for part in parts) or not name.strip(". \t\r\n"):
            raise _refuse(values, key, f"entry {place} is {show(entry)}, not the texts {{prefix, name, suffix}}")
        yield CaptionWords(prefix, name, suffix)


def _suppressed(values: Values) -> Iterator[str]:
    key = DATASETS + "SUPRESS_QUERY"
    for place, entry in _entries(values, key, values[key], "a list of names"):
        if not isinstance(entry, str) or not entry.strip():
            raise _refuse(values, key, f"entry {place} is {show(entry)}, not a name")
        yield entry


def _entries(values: Values, key: str, value: Any, expected: str) -> Iterator[tuple[int, Any]]:
    """(1, first), ...; nothing for None, the default, and for an empty text."""
    if value is None or value == "":
        return
    if not isinstance(value, tuple) or not value:
        raise _refuse(values, key, f"expected {expected}")
    yield from enumerate(value, start=1)


def _texts(entry: Any, *names: str) -> tuple[Any, ...]:
    return tuple(entry.get(name) if isinstance(entry, Mapping) else None for name in names)


def _refuse(values: Values, key: str, why: str) -> ConfigError:
    return ConfigError(f"{values.describe(key)} is not supported: {why}")
