"""The official configuration's format: dotted keys with types, a YAML over defaults, KEY VALUE overrides.

Follows yacs (github.com/rbgirshick/yacs): strings are read as Python literals where they are one, a value keeps its
key's type, lists and tuples are the same. Nothing here knows what a key means.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from glip_export.errors import ConfigError, brief

MAX_BYTES = 1 << 20  # the longest official YAML has 12 kB; more is another kind of file, such as weights


@dataclass(frozen=True)
class Values:
    """What inference reads: every key that has a default, layered; sequences are tuples."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]  # key -> where it was given: a file name or "override"; absent for defaults

    def __getitem__(self, key: str) -> Any:
        """The value of a key that inference reads."""
        return self.values[key]

    def describe(self, key: str) -> str:
        """`KEY VALUE (where it comes from)`."""
        return f"{key} {show(self.values[key])} ({self.origins.get(key, 'the official default')})"


def layer(*layers: tuple[str, Mapping[str, Any]]) -> Values:
    """Layers of (origin, {key: value}) over the official defaults, the last one on top.

    Raises ConfigError where the type of a key that inference reads is not the key's.
    """
    keys = {name: key for name, key in official_keys().items() if key.used}
    values: dict[str, Any] = {name: key.default for name, key in keys.items()}
    origins: dict[str, str] = {}
    for origin, given in layers:
        for name, value in given.items():
            if name in keys:
                check_type(keys[name], value, origin)
                values[name], origins[name] = value, origin
    return Values(values, origins)


def read_yaml(path: Path) -> dict[str, Any]:
    """{dotted key: value} of an official YAML or a full dump; keys that nobody knows are kept.

    Raises ConfigError, naming the file, if it is missing, not text, not YAML, or has no sections.
    """
    document = read_small_yaml(path, "configuration")
    if not isinstance(document, dict):
        what = "is empty" if document is None else f"holds a {type(document).__name__}, not sections"
        raise ConfigError(f"{path}: {what}; give an official YAML such as glip_Swin_T_O365_GoldG.yaml")
    return dict(_flatten(document, "", path))


def read_small_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds. Raises ConfigError, naming the file, if it is missing, not text or not YAML."""
    return parse_small_yaml(read_small_text(path, what), path)


def parse_small_yaml(text: str, path: Path) -> Any:
    """The text of a YAML file. Raises ConfigError, naming the file, if it is none, or if PyYAML is missing."""
    try:
        import yaml  # in the extra `export`: the runtime does without
    except ImportError as error:
        raise ConfigError(f"{path}: reading YAML needs PyYAML: pip install 'glip-export[export]'") from error
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {_yaml_problem(error)}") from error


def read_small_text(path: Path, what: str) -> str:
    """The text of a configuration file. Raises ConfigError, naming the file, for anything else."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file, so not a {what}") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise ConfigError(f"{path}: cannot read the {what}: {getattr(error, 'strerror', error)}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than 1 MB, so not a {what} (weights go to --weights)")
    return text


def _yaml_problem(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    text = problem or " ".join(str(error).split())[:200] or type(error).__name__
    return f"{text}, line {mark.line + 1}" if mark else text


def _flatten(section: Mapping[Any, Any], prefix: str, path: Path) -> Any:
    """Yields (dotted key, value). Only official sections are walked, which bounds what YAML aliases can blow up."""
    for name, value in section.items():
        key = f"{prefix}{name}"
        if key not in _sections():
            yield key, literal(value)
        elif isinstance(value, dict):
            yield from _flatten(value, f"{key}.", path)
        elif value is not None:
            raise ConfigError(f"{path}: {key} is a section of keys, but holds {show(value)}")


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`KEY VALUE KEY VALUE ...` as {key: value}.

    Raises ConfigError for a key without a value, an unknown key (naming the closest known ones) or a value whose type
    is not the key's.
    """
    if len(overrides) % 2:
        raise ConfigError(f"overrides are KEY VALUE pairs, but {overrides[-1]} has no value")
    given = {}
    for name, text in zip(overrides[::2], overrides[1::2], strict=True):
        given[name] = literal(text)
        check_key(name, given[name], "override")
    return given


def check_key(name: str, value: Any, origin: str) -> None:
    """Raises ConfigError for a key that nobody knows (naming the closest known ones) or a value of another type."""
    key = official_keys().get(name)
    if key is None:
        where = "" if origin == "override" else f"{origin}: "
        raise ConfigError(f"{where}{name} is not a key of the official configuration{_suggest(name)}")
    if key.used or value is not None:  # yacs lets None stand for anything
        check_type(key, value, origin)


def _suggest(name: str) -> str:
    """Close keys by their whole name, else by their last part (SCORE_AGG for MODEL.DYHEAD.SCORE_AGG)."""
    wanted, keys = name.partition("=")[0].upper(), official_keys()
    close = difflib.get_close_matches(wanted, keys, n=3, cutoff=0.75)
    if not close:
        last: dict[str, list[str]] = {}
        for key in keys:
            last.setdefault(key.rpartition(".")[2], []).append(key)
        parts = difflib.get_close_matches(wanted.rpartition(".")[2], last, n=3, cutoff=0.75)
        # Many models share a key's name; those that inference reads are the likelier ones.
        close = sorted((key for part in parts for key in last[part]), key=lambda key: not keys[key].used)[:3]
    pair = "; write KEY VALUE, without =" if "=" in name else ""
    return f"; did you mean {' or '.join(close)}{pair}?" if close else ""


@dataclass(frozen=True)
class OfficialKey:
    """A key of the official configuration; `default` counts only where inference reads the key (`used`)."""

    name: str
    type: str
    used: bool = False
    default: Any = None


@cache
def official_keys() -> dict[str, OfficialKey]:
    """Every key of the official configuration by its dotted name (data/official_keys.txt)."""
    text = resources.files("glip_export").joinpath("data/official_keys.txt").read_text(encoding="utf-8")
    keys = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, kind, *default = line.split(" ", 2)
            keys[name] = OfficialKey(name, kind, bool(default), literal(default[0]) if default else None)
    return keys


@cache
def _sections() -> frozenset[str]:
    """MODEL, MODEL.DYHEAD, ...: what has keys below it."""
    parts = (name.split(".") for name in official_keys())
    return frozenset(".".join(part[:depth]) for part in parts for depth in range(1, len(part)))


TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "True or False"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a name"),
    "list": ((tuple,), "a list such as (1, 2)"),
    "dict": ((dict,), "a section"),
    "any": ((object,), "anything"),
}


def check_type(key: OfficialKey, value: Any, origin: str) -> None:
    """Raises ConfigError if the value's type is not the key's; a whole number may stand for a float, no bool may."""
    accepted, words = TYPES[key.type]
    if not isinstance(value, accepted) or (isinstance(value, bool) and key.type in ("int", "float")):
        if key.type == "list" and isinstance(value, str) and value.isidentifier():  # ("val") is a text
            words += f'; with one name it is ("{value}",)'
        raise ConfigError(f"{key.name} {show(value)} ({origin}): expected {words}")


def literal(value: Any) -> Any:
    """A string read as the Python literal it holds, if it holds one; lists become tuples."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return value
    return tuple(value) if isinstance(value, list) else value


def show(value: Any) -> str:
    """A value as a person would type it, on one short line."""
    text = value if isinstance(value, str) and value.strip() == value != "" else brief(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."
