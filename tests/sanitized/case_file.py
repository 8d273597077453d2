"""Writes what the programs of this folder read: records of words, numbers and arrays, each after its length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np


class CaseFile:
    """A file of cases, to be written from first to last."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")

    def __enter__(self) -> CaseFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def word(self, text: str) -> None:
        """A word, as bytes."""
        self.values(np.frombuffer(text.encode(), np.uint8))

    def integers(self, *values: int) -> None:
        """Numbers of 64 bits."""
        self.values(np.array(values, "<i8"))

    def values(self, array: np.ndarray) -> None:
        """An array's values as they are, after their number."""
        self._file.write(np.array([array.size], "<i8").tobytes())
        self._file.write(np.ascontiguousarray(array).tobytes())

    def floats(self, arrays: Sequence[np.ndarray]) -> None:
        """How many arrays, and each."""
        self.integers(len(arrays))
        for array in arrays:
            self.values(np.asarray(array, "<f4"))
