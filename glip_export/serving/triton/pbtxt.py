"""Protobuf's text format, as much of it as Triton's config.pbtxt needs, without protobuf."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


class Word(str):
    """The name of an enum's value, written without quotes."""


def to_pbtxt(message: Mapping[str, Any]) -> str:
    """A message: field -> text (ASCII), number, bool, Word, another message, or a list of these."""
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, value in message.items():
        if isinstance(value, Mapping):
            lines += _block(name, value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if value and isinstance(value[0], Mapping):
                for one in value:
                    lines += _block(name, one)
            else:
                lines.append(f"{name}: [{', '.join(map(_scalar, value))}]")
        else:
            lines.append(f"{name}: {_scalar(value)}")
    return lines


def _block(name: str, message: Mapping[str, Any]) -> list[str]:
    return [f"{name} {{", *(f"  {line}" for line in _lines(message)), "}"]


def _scalar(value: object) -> str:
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and not value.isascii():
        raise ValueError(f"{value!r} is not ASCII")
    return json.dumps(value)
