"""Dataclasses of plain values, from JSON and back, with every field checked on the way in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from glip_export.config.yacs import literal, show
from glip_export.errors import ConfigError

T = TypeVar("T")


def restore(cls: type[T], data: Any, source: str, prefix: str) -> T:
    """The dataclass `cls` of plain values such as JSON gives, every field there and of its type.

    Raises ConfigError, beginning with `source` and naming the field (behind `prefix`), where one is not.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}{prefix.rstrip('.') or 'it'} is not a mapping")
    types = get_type_hints(cls)
    if unknown := sorted(map(str, data.keys() - types.keys())):
        raise ConfigError(f"{source}unknown field {prefix}{unknown[0]}")
    if missing := [name for name in types if name not in data]:
        raise ConfigError(f"{source}missing field {prefix}{missing[0]}")
    restored = {}
    for name, kind in types.items():
        if isinstance(kind, type) and is_dataclass(kind):
            restored[name] = restore(kind, data[name], source, f"{prefix}{name}.")
        else:
            value = literal(data[name]) if isinstance(data[name], list) else data[name]
            if not _is_a(value, kind):
                words = getattr(kind, "__name__", "tuple") if get_origin(kind) is None else str(kind)
                raise ConfigError(f"{source}{prefix}{name} {show(value)}: expected {words}")
            restored[name] = value
    return cls(**restored)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a plain value has a field's type: bool, int, float (finite, an int may stand for it), str or a tuple."""
    if get_origin(kind) is tuple:
        items = get_args(kind)
        length = len(value) if isinstance(value, tuple) and items[-1] is ... else len(items)
        return isinstance(value, tuple) and len(value) == length > 0 and all(_is_a(item, items[0]) for item in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind
