"""A JSON document whose results are written as they come, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glip_export.bundle.files import atomic_text


class JsonStream:
    """{..., "results": [...], ...}, as `json.dumps(document, indent=1)` writes it."""

    def __init__(self, write: Callable[[str], None], head: Mapping[str, Any]) -> None:
        """head: what stands before the results; not empty."""
        self._write = write
        self._separator = "\n"
        write(_dumps(head, 0).removesuffix("\n}") + ',\n "results": [')

    def add(self, result: Mapping[str, Any]) -> None:
        """The next result."""
        self._write(f"{self._separator}  {_dumps(result, 2)}")
        self._separator = ",\n"

    def end(self, tail: Mapping[str, Sequence[Any]]) -> None:
        """What stands after the results."""
        self._write("]" if self._separator == "\n" else "\n ]")
        for key, value in tail.items():
            self._write(f",\n {json.dumps(key)}: {_dumps(value, 1)}")
        self._write("\n}\n")


@contextmanager
def json_stream(target: Path, head: Mapping[str, Any]) -> Iterator[JsonStream]:
    """Takes its place at `target` when the block ends well. Raises GlipExportError where it cannot be written."""
    with atomic_text(target) as write:
        yield JsonStream(write, head)


def _dumps(value: Any, spaces: int) -> str:
    """JSON inside a document, so many spaces from its left side."""
    # JSON texts hold no line ends of their own: those of strings are escaped.
    return json.dumps(value, indent=1).replace("\n", "\n" + " " * spaces)
