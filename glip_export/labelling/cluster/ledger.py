"""What was begun and has not ended: a task that is begun again ended the process that had it before."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from glip_export.labelling.cluster.nodes import alive_nodes
from glip_export.labelling.local import MOST_ENDS

MOST_IN_A_ROW = MOST_ENDS - 1  # set aside with nothing answered between: the first was one of a block's end too
SET_ASIDE, ALL_FAIL = -1, -2
_MOST_OPENINGS = 2


@dataclass
class _Task:
    whole: list[str] = field(default_factory=list)  # the machines where it was begun
    parts: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    set_aside: set[int] = field(default_factory=set)


class Ledger:
    """An actor on the driver's machine, asked before anything is begun and told when it has ended.

    It holds what is under way only. A machine that itself ended takes its attempts with it: they say nothing.
    """

    def __init__(self) -> None:
        self._tasks: dict[int, _Task] = defaultdict(_Task)
        self._openings: dict[str, list[str]] = defaultdict(list)
        self._in_a_row = 0
        self._any_worker = False

    def any_worker(self) -> bool:
        """Whether one has started; it need not be open yet."""
        return self._any_worker

    def begin(self, index: int, machine: str, most: int) -> int:
        """How many processes ended with this task, or SET_ASIDE or ALL_FAIL if these are `most` already."""
        return self._begin(self._tasks[index].whole, machine, most)

    def begin_part(self, index: int, part: int, machine: str) -> int:
        """0, or SET_ASIDE or ALL_FAIL where a process ended that had this part of the task and nothing else."""
        task = self._tasks[index]
        if part in task.set_aside:
            return SET_ASIDE
        found = self._begin(task.parts[part], machine, 1)
        if found < 0:
            task.set_aside.add(part)
        return found

    def ended_part(self, index: int, part: int) -> None:
        """The part was answered."""
        self._tasks[index].parts.pop(part, None)
        self._in_a_row = 0

    def ended(self, index: int) -> None:
        """The task is through, with all its parts."""
        task = self._tasks.pop(index, None)
        if task is not None and not task.set_aside:
            self._in_a_row = 0

    def opening(self, worker: str, machine: str) -> bool:
        """Whether the worker may open its detector: False where several of its processes ended over that."""
        self._any_worker = True
        return self._begin(self._openings[worker], machine, _MOST_OPENINGS) >= 0

    def opened(self, worker: str) -> None:
        """It is open."""
        self._openings.pop(worker, None)

    def _begin(self, attempts: list[str], machine: str, most: int) -> int:
        if attempts:
            alive = {node["NodeID"] for node in alive_nodes()}
            attempts[:] = [earlier for earlier in attempts if earlier in alive]
        if len(attempts) >= most:
            self._in_a_row += 1
            return ALL_FAIL if self._in_a_row >= MOST_IN_A_ROW else SET_ASIDE
        attempts.append(machine)
        return len(attempts) - 1
