"""What a cluster is asked to do: tasks of any kind, and what a worker does with one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")
A = TypeVar("A")


class Job(Protocol[T, A]):
    """Workers are sent it: it can be pickled, and is small. Tasks and answers can be pickled too."""

    @property
    def bundle(self) -> Path:
        """What the driver calls the bundle that workers open."""
        ...

    @property
    def at_once(self) -> int:
        """Tasks that a worker is given at once, in a thread each."""
        ...

    def open(self, bundle: Path) -> Callable[[T], A]:
        """Once in a worker's process: what answers tasks. bundle: where it is on the worker's machine."""
        ...

    def parts(self, task: T) -> Sequence[T]:
        """Into what a task is taken apart that ended a worker's process; nothing: it is tried once more as it is."""
        ...

    def joined(self, task: T, answers: Sequence[A]) -> A:
        """The task's answer, of those to its parts."""
        ...

    def set_aside(self, task: T, reason: str) -> A:
        """The answer to a task, or to a part of one, that ended two processes. May raise: then all ends."""
        ...
