"""When a run becomes a CUDA graph, and how long it stays one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

REMEMBERED = 4  # keys seen once that are remembered, for each graph that may be kept


@dataclass(frozen=True)
class Captured:
    """A run as a graph: `launch` runs it again, `free` drops it."""

    launch: Callable[[], None]
    free: Callable[[], None]


class GraphCache:
    """One graph a key, which holds every shape and address: another of either is another run.

    The first run of a key is plain, the second is captured after it (its warm-up), from the third on the graph is
    launched. So shapes that come once cost nothing. The `limit` keys last used are kept; 0 turns graphs off.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.trouble = ""  # why no more is captured, if a capture failed
        self._captured: OrderedDict[Hashable, Captured] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._captured)

    def run(self, key: Hashable, plain: Callable[[], None], capture: Callable[[], tuple[Captured | None, str]]) -> None:
        """Runs once, whichever way.

        plain: runs. capture: runs too, and gives the graph of it, or None and why there is none; then the next runs
        are plain.
        """
        if key in self._captured:
            self._captured.move_to_end(key)
            self._captured[key].launch()
        elif key in self._seen and not self.trouble:
            captured, self.trouble = capture()
            if captured is not None:
                del self._seen[key]
                self._captured[key] = captured
                while len(self._captured) > self.limit:
                    self._captured.popitem(last=False)[1].free()
        else:
            plain()
            self._note(key)

    def clear(self) -> None:
        """Drops every graph."""
        while self._captured:
            self._captured.popitem()[1].free()
        self._seen.clear()

    def _note(self, key: Hashable) -> None:
        if not self.limit:
            return
        self._seen[key] = None
        self._seen.move_to_end(key)
        while len(self._seen) > REMEMBERED * self.limit:
            self._seen.popitem(last=False)
