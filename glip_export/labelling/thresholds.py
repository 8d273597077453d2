"""From which score on a detection counts: one for all names, or one of each name's own from a file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glip_export.config.yacs import parse_small_yaml, read_small_text
from glip_export.errors import GlipExportError, quoted
from glip_export.labelling.items import Answer

DEFAULT = 0.5
_MOST_SHOWN = 5  # unknown names in a message


@dataclass(frozen=True)
class Thresholds:
    """The least score of each of a prompt's names, 0 to 1."""

    values: tuple[float, ...]  # by label

    @classmethod
    def same(cls, threshold: float, names: Sequence[str]) -> Thresholds:
        """One for all names. Raises GlipExportError where it is not from 0 to 1."""
        return cls((_checked(threshold, "the threshold"),) * len(names))

    @classmethod
    def from_file(cls, path: Path, names: Sequence[str], threshold: float = DEFAULT) -> Thresholds:
        """Those of a JSON or YAML file {name: threshold}; names that it does not hold have `threshold`.

        Raises GlipExportError for a file that cannot be read or that names what the prompt does not (the closest names
        are told), and for what is no threshold.
        """
        default = _checked(threshold, "the threshold")
        given = _read(path)
        unknown = [name for name in given if name not in names]
        if unknown:
            told = "; ".join(_unknown(name, names) for name in unknown[:_MOST_SHOWN])
            more = f"; and {len(unknown) - _MOST_SHOWN} more" if len(unknown) > _MOST_SHOWN else ""
            raise GlipExportError(f"{path}: {told}{more}")
        checked = {name: _checked(value, f"{path}: the threshold of {quoted(name)}") for name, value in given.items()}
        return cls(tuple(checked.get(name, default) for name in names))

    @property
    def floor(self) -> float:
        """The least of all: what scores less never counts."""
        return min(self.values)

    def of(self, labels: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """The thresholds (N,) of labels (N,)."""
        return self._array[labels]

    @cached_property
    def _array(self) -> NDArray[np.float32]:
        # float32, as the scores are: 0.7 as a float64 is more than the score 0.7 in float32.
        return np.array(self.values, np.float32)

    def kept(self, answer: Answer) -> Answer:
        """The answer with the detections that reach their names' thresholds."""
        keep = answer.scores >= self.of(answer.labels)
        if keep.all():
            return answer
        return replace(answer, labels=answer.labels[keep], scores=answer.scores[keep], boxes=answer.boxes[keep])


def _read(path: Path) -> Mapping[str, Any]:
    text = read_small_text(path, "file of thresholds")
    if path.suffix.lower() in (".yaml", ".yml"):
        document = parse_small_yaml(text, path)
    else:
        try:
            document = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, path))
        except (ValueError, RecursionError) as error:
            problem = " ".join(str(error).split())
            raise GlipExportError(f"{path}: not valid JSON: {problem} (YAML is read from a .yaml file)") from error
    if not isinstance(document, dict) or not document:
        raise GlipExportError(f'{path}: give thresholds by name, as {{"cat": 0.4, "dog": 0.6}}')
    for name in document:
        if name is None or isinstance(name, bool):
            raise GlipExportError(f"{path}: YAML reads no, yes, on, off and null as {name}: put the name in quotes")
    return {str(name): value for name, value in document.items()}


def _once(pairs: Sequence[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """A JSON object, of which Python takes the last of two values without a word."""
    names = [name for name, _ in pairs]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise GlipExportError(f"{path}: the threshold of {quoted(twice)} stands twice: remove one")
    return dict(pairs)


def _unknown(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"{quoted(name)} is none of the names: did you mean {' or '.join(map(quoted, close))}?"
    return f"{quoted(name)} is none of the {len(names)} names"


def _checked(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:  # nor NaN
        raise GlipExportError(f"{what} is a number from 0 to 1, not {quoted(value)}")
    return float(value)
