"""Names to look for, as a person writes them: in one line with stops between, or in a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from glip_export.errors import ConfigError, PromptError, quoted

MAX_FILE_BYTES = 4_000_000  # what the longest prompt takes in UTF-8

MAX_YAML_BYTES = 1_000_000  # it is read slowly

Name = str | Mapping[str, str]  # or {prefix, name, suffix}


class Words(NamedTuple):
    """How a name stands in the caption: only the tokens of `name` are its class's."""

    prefix: str
    name: str
    suffix: str


# A stop after these is part of the name, if the name goes on: titles and the like, which stand before a word.
_BEFORE_A_WORD = (
    "st|ste|mt|ft|mr|mrs|ms|messrs|dr|prof|rev|hon|gen|col|maj|capt|cpt|lt|sgt|gov|sen|rep|pres|vs|u.s|u.k|u.n"
)
_GOES_ON = re.compile(rf"(?<![^\W_])(?:{_BEFORE_A_WORD.replace('.', '[.]')})$", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![^\W_])nos?$", re.IGNORECASE)  # "No. 5"
_INITIAL = re.compile(r"(?<![^\W_])[A-Z]$")  # "U.S", "J.P. Morgan" keeps its inner stop
_FILE = re.compile(r"[.](txt|names?|list?|lst|md|csv|tsv|json|ya?ml|text|labels?|classes)$", re.IGNORECASE)


def split_names(text: str) -> list[str]:
    """ "cat. remote control" at each stop that ends a name, spaces around stripped; empty parts are left out.

    A stop does not end a name between two digits ("3.5 mm jack"), between two capital initials ("U.S"), or where the
    name goes on after an abbreviation that stands before a word: "St. Bernard", "Mt. Fuji", "No. 5", "cat vs. dog".
    """
    names, start = [], 0
    for stop in re.finditer(r"[.]", text):
        if not _is_inside(text, start, stop.start()):
            names.append(text[start : stop.start()])
            start = stop.end()
    return [name.strip() for name in (*names, text[start:]) if name.strip()]


def words_of(entry: object, place: int) -> Words | None:
    """The words of {prefix, name, suffix}, as they are; without prefix or suffix it has none. None for a plain name.

    Raises PromptError, naming the entry by its place from 1, for what is neither.
    """
    if isinstance(entry, str):
        return None
    if isinstance(entry, Mapping) and "name" in entry and entry.keys() <= set(Words._fields):
        words = Words(*(entry.get(field, "") for field in Words._fields))
        if all(isinstance(word, str) for word in words):
            return words
    raise PromptError(
        f"name {place} of the prompt is {quoted(entry)}: it is a text, or {{prefix, name, suffix}} of texts"
    )


def read_names(words: str, option: str = "--names") -> tuple[Name, ...]:
    """What was given to an option: a file as `read_names_file` reads it, else names with stops between.

    Raises PromptError as `read_names_file`; also for what can only be meant as a file and does not exist.
    """
    path = Path(words)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # too long for a file's name, or with a NUL
        is_file = False
    if is_file or _looks_like_a_file(words):
        return read_names_file(path, option)
    names = tuple(split_names(words))
    if not names:
        raise PromptError(
            f'{option}: the prompt is empty: give names, such as "cat. remote control", or a file of them'
        )
    return names


def read_names_file(path: Path, option: str = "--names") -> tuple[Name, ...]:
    """A name a line, or in a .json, .yaml or .yml file a list of names and {prefix, name, suffix}.

    The text is UTF-8 with or without its mark; of lines, blank ones are left out and spaces around are stripped, and a
    stop in a name is part of it; in a list all is kept as written. YAML may also be as ODinW has it: the list a Python
    literal in a string, alone or as a task's DATASETS.CAPTION_PROMPT. Raises PromptError, naming the option and the
    file, if it cannot be read, is too large, holds no name, or an entry is neither.
    """
    text = _read_text(path, option)
    suffix = path.suffix.lower()
    if suffix in (".json", ".yaml", ".yml"):
        return _checked_list(
            _read_json(text, path, option) if suffix == ".json" else _read_yaml(text, path, option), f"{option} {path}"
        )
    # Not splitlines(), which also cuts at characters that may stand in a name.
    names = tuple(line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip())
    if not names:
        raise PromptError(f"{option} {path} holds no name: it takes a name a line")
    return names


def _read_text(path: Path, option: str) -> str:
    try:
        if path.is_dir():
            raise PromptError(f"{option} {path} is a folder: give a text file with a name a line")
        if path.exists() and not path.is_file():
            raise PromptError(f"{option} {path} is no regular file")
        if path.exists() and path.stat().st_size > MAX_FILE_BYTES:
            raise PromptError(f"{option} {path} is too large for a list of names: more than {MAX_FILE_BYTES} bytes")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise PromptError(f"{option} {path} does not exist: give a text file with a name a line") from None
    except UnicodeDecodeError:
        raise PromptError(f"{option} {path} is not UTF-8: save it as such, a name a line") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise PromptError(f"cannot read {option} {path}: {getattr(error, 'strerror', None) or error}") from None


def _read_json(text: str, path: Path, option: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{option} {path} is not valid JSON: {error}") from None


def _read_yaml(text: str, path: Path, option: str) -> Any:
    """The list, out of ODinW's wrappings."""
    from glip_export.config.yacs import literal, parse_small_yaml

    if len(text) > MAX_YAML_BYTES:
        raise PromptError(f"{option} {path} is too large for YAML: over {MAX_YAML_BYTES} characters; write it as JSON")
    try:
        document = parse_small_yaml(text, path)
    except ConfigError as error:
        raise PromptError(f"{option} {error}") from None
    if isinstance(document, Mapping) and isinstance(document.get("DATASETS"), Mapping):
        document = document["DATASETS"].get("CAPTION_PROMPT")
        if document is None:
            raise PromptError(f"{option} {path} has no DATASETS.CAPTION_PROMPT: it is a task without words of its own")
    return literal(document)


def _checked_list(entries: Any, where: str) -> tuple[Name, ...]:
    if not isinstance(entries, (list, tuple)) or not entries:
        raise PromptError(f"{where} holds {quoted(entries)}: it takes a list of names and {{prefix, name, suffix}}")
    checked: list[Name] = []
    for place, entry in enumerate(entries, start=1):
        try:
            words = words_of(entry, place)
        except PromptError as error:
            raise PromptError(f"{where}: {error}") from None
        if not (entry if words is None else words.name).strip(". \t\r\n"):
            raise PromptError(f"{where}: name {place} is empty: {quoted(entry)} holds no word")
        checked.append(entry if words is None else words._asdict())
    return tuple(checked)


def _is_inside(text: str, start: int, stop: int) -> bool:
    """Whether the name that begins at `start` goes on after the stop."""
    before, after = text[start:stop], text[stop + 1 :]
    if before[-1:].isdigit() and after[:1].isdigit():
        return True
    if _INITIAL.search(before) and re.match(r"[A-Z](?![^\W_])", after):
        return True
    if not re.match(r"\s*[^\W_]", after):  # the text ends, or another stop
        return False
    if _NUMBER.search(before):
        return re.match(r"\s*\d", after) is not None
    return _GOES_ON.search(before) is not None


def _looks_like_a_file(words: str) -> bool:
    """ "class_names.txt", "names/coco": not "cat. dog", nor "black/white cat"."""
    words = words.strip()
    if re.search(r"[.]\s", words):  # names with stops between
        return False
    return _FILE.search(words) is not None or (re.search(r"[/\\]", words) is not None and " " not in words)
