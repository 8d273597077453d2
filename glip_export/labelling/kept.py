"""A few things that are slow to open, kept open."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The last few things asked for, by key. Thread-safe; a forked child opens its own.

    What goes is not closed here, as another thread may be reading from it: it ends with its last user.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._things: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing of that key; made where it is not there, one at a time."""
        with self._lock:
            if key not in self._things:
                self._things[key] = make()
            self._things.move_to_end(key)
            while len(self._things) > self._most:
                self._things.popitem(last=False)
            return self._things[key]

    def drop(self, key: Hashable) -> None:
        """Forgets what is broken, so that it is opened again."""
        with self._lock:
            self._things.pop(key, None)

    def _forget(self) -> None:
        self._things = OrderedDict()
        self._lock = threading.Lock()
