"""Dataclasses of plain values, from JSON and back, with every field checked on the way in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from glip_export.config.yacs import literal, show
from glip_export.errors import ConfigError

T = TypeVar("T")
ADDED = MappingProxyType(
    {"added": True}
)  # metadata of a field that earlier versions lacked: its default is what they did

DROPPED = frozenset({"batch_size"})  # fields of earlier versions, which nothing read


def restore(cls: type[T], data: Any, source: str, prefix: str) -> T:
    """The dataclass `cls` of plain values such as JSON gives, every field of its type and there, but for those ADDED.

    Raises ConfigError, beginning with `source` and naming the field (behind `prefix`), where one is not.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}{prefix.rstrip('.') or 'it'} is not a mapping")
    types, known = get_type_hints(cls), {item.name: item for item in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(map(str, data.keys() - types.keys() - DROPPED)):
        raise ConfigError(f"{source}unknown field {prefix}{unknown[0]}")
    if missing := [name for name in types if name not in data and "added" not in known[name].metadata]:
        raise ConfigError(f"{source}missing field {prefix}{missing[0]}")
    restored: dict[str, Any] = {}
    for name, kind in types.items():
        if name not in data:
            continue
        value, where = data[name], f"{prefix}{name}"
        if isinstance(kind, type) and is_dataclass(kind):
            restored[name] = restore(kind, value, source, f"{where}.")
            continue
        value = literal(value) if isinstance(value, list) else value
        item = _item_class(kind)
        if item is not None and isinstance(value, tuple):
            restored[name] = tuple(restore(item, entry, source, f"{where}.{n}.") for n, entry in enumerate(value))
            continue
        if not _is_a(value, kind) and not value == known[name].default == ():
            words = getattr(kind, "__name__", "tuple") if get_origin(kind) is None else str(kind)
            raise ConfigError(f"{source}{where} {show(value)}: expected {words}")
        restored[name] = value
    return cls(**restored)


def _item_class(kind: Any) -> Any:
    """The dataclass that a tuple's items are of, if they are of one."""
    items = get_args(kind) if get_origin(kind) is tuple else ()
    return items[0] if items and is_dataclass(items[0]) else None


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a plain value has a field's type: bool, int, float (finite, an int may stand for it), str or a tuple."""
    if get_origin(kind) is tuple:
        items = get_args(kind)
        length = len(value) if isinstance(value, tuple) and items[-1] is ... else len(items)
        return isinstance(value, tuple) and len(value) == length > 0 and all(_is_a(item, items[0]) for item in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind
