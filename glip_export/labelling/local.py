"""Blocks through worker processes of this machine; a picture that ends its process is set aside, and nothing with it.

Each worker is a pool of one process, so that it is known which block a process had when it ended. The pictures of that
block are then asked one by one: the one at fault ends a process again, alone, and is answered by an error.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.context import SpawnContext
from typing import Any, Protocol

from glip_export.errors import BackendError
from glip_export.labelling.items import Answer, Block, BlockAnswer, Item
from glip_export.processes import end_with_parent, no_interrupt, share_cores

MOST_TRIES = 2  # processes that may end with a picture
MOST_ENDS = 50  # processes in a row, more than a block has pictures: then it is the machine or the backend, not they

_opener: list[Callable[[], Worker]] = []  # in a worker process
_worker: list[Worker] = []  # in a worker process, once it is open


class Worker(Protocol):
    """Answers blocks; `fetch` is told which one comes next."""

    def __call__(self, block: Block) -> BlockAnswer:
        """The block's answers."""
        ...

    def fetch(self, block: Block) -> None:
        """Begins to fetch its pictures."""
        ...


def answers(
    blocks: Iterator[Block], opening: Callable[[], Worker], workers: int
) -> Generator[tuple[Block, BlockAnswer], None, None]:
    """Each block and its answers, as they come; blocks are taken as they are needed, two a worker.

    Blocks without items need no worker, and come last. opening: called in each of the processes; can be pickled, as can
    what it raises. Raises that, what a worker raises, and BackendError where a process ends while it opens, or where
    fifty end in a row. Closed early, it ends the processes at once.
    """
    empty: list[Block] = []

    def with_items() -> Iterator[Block]:
        for block in blocks:
            if block.items:
                yield block
            else:
                empty.append(block)

    pool = _Pool(with_items(), opening, workers)
    try:
        yield from pool.run()
        pool.close()
        yield from ((block, BlockAnswer(block.first, ())) for block in empty)
    except BaseException:
        pool.kill()
        raise


@dataclass(eq=False)
class _Process:
    """A worker process: what it does, and what it will be given then."""

    executor: ProcessPoolExecutor
    context: _Context
    future: Future[Any] | None  # None: it is idle
    current: Block | None = None  # None in a process that is not idle: it opens its worker
    next: Block | None = None


class _Context(SpawnContext):
    """Keeps the process that an executor starts, to know how it ended.

    spawn: a process that was forked has none of the threads that runtimes started before.
    """

    started: Any = None

    def Process(self, *args: Any, **named: Any) -> Any:  # type: ignore[override]  # noqa: N802
        """As the executor calls it."""
        self.started = super().Process(*args, **named)
        return self.started


class _Pool:
    def __init__(self, blocks: Iterator[Block], opening: Callable[[], Worker], workers: int) -> None:
        self._blocks = blocks
        self._opening = opening
        self._workers = workers
        self._processes: list[_Process] = []
        self._again: deque[Block] = deque()  # blocks that a process had, and did not answer
        self._ends: dict[int, int] = {}  # by a picture's place: processes that ended while they had it
        self._ends_in_a_row = 0  # since the last answer

    def run(self) -> Iterator[tuple[Block, BlockAnswer]]:
        """All blocks' answers."""
        self._fill()
        while running := {one.future: one for one in self._processes if one.future is not None}:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                process = running[future]
                block, process.current, process.future = process.current, None, None
                try:
                    answer = future.result()
                except BrokenProcessPool as error:
                    yield from self._ended(process, block, error)
                else:
                    if block is not None:
                        self._fill()  # before the answer is dealt with
                        self._ends_in_a_row = 0
                        self._ends.pop(block.first, None)
                        yield block, answer
            self._fill()

    def close(self) -> None:
        """After the last block."""
        for process in self._processes:
            process.executor.shutdown()

    def kill(self) -> None:
        """At once, in the middle of blocks."""
        for process in self._processes:
            if process.context.started is not None:
                process.context.started.kill()
        for process in self._processes:  # waits: Python's own clean-up would meet pipes that close meanwhile
            process.executor.shutdown(cancel_futures=True)

    def _fill(self) -> None:
        """Gives each process that is idle its next block, and starts processes while there is more to do."""
        for process in list(self._processes):
            if process.future is None and (block := process.next or self._take()) is not None:
                self._give(process, block)
        while len(self._processes) < self._workers and (block := self._new()) is not None:
            self._processes.append(self._start(block))

    def _new(self) -> Block | None:
        return self._again.popleft() if self._again else next(self._blocks, None)

    def _take(self) -> Block | None:
        block = self._new()
        if block is None and (waits := next((one for one in self._processes if one.next is not None), None)):
            block, waits.next = waits.next, None  # at the end, what one would do later another does now
        return block

    def _give(self, process: _Process, block: Block) -> None:
        # The next block is told with this one, so that its pictures come meanwhile. A picture that a process ended with
        # runs with nothing beside it.
        process.next = None if block.first in self._ends else self._new()
        following = None if process.next is None else _bare(process.next)
        try:
            with no_interrupt():
                process.future = process.executor.submit(_answer, _bare(block), following)
        except BrokenProcessPool:  # it ended while it was idle
            self._processes.remove(process)
            self._again.extend(one for one in (block, process.next) if one is not None)
            return
        process.current = block

    def _start(self, block: Block) -> _Process:
        """A new process, which opens a worker; the block is its first."""
        context = _Context()
        executor = ProcessPoolExecutor(1, context, _begin, (self._opening, os.getpid()))
        with no_interrupt():  # which the process inherits: we end it
            return _Process(executor, context, executor.submit(_open), next=block)

    def _ended(
        self, process: _Process, block: Block | None, error: BrokenProcessPool
    ) -> Iterator[tuple[Block, BlockAnswer]]:
        """What becomes of the block that a process had when it ended; `_fill` starts another in its place."""
        process.executor.shutdown()
        how = _how(process)
        self._processes.remove(process)
        if block is None:
            raise BackendError(
                f"a worker process ended while it opened the bundle{how}; each holds the model"
            ) from error
        if process.next is not None:
            self._again.append(process.next)
        self._ends_in_a_row += 1
        if self._ends_in_a_row >= MOST_ENDS:
            raise BackendError(
                f"{MOST_ENDS} worker processes ended one after another{how}, with no picture answered between; each "
                "holds the model: take fewer --workers, or another --backend"
            ) from error
        singles = [replace(block, first=block.first + place, items=(item,)) for place, item in enumerate(block.items)]
        for single in singles:
            ends = self._ends[single.first] = self._ends.get(single.first, 0) + 1
            if ends < MOST_TRIES or len(singles) > 1:
                self._again.append(single)
                continue
            del self._ends[single.first]
            yield single, BlockAnswer(single.first, (Answer.failed(set_aside(single.items[0], how)),))


def set_aside(item: Item, how: str = "") -> str:
    """What is said of a picture that worker processes ended with."""
    return f"{item.source!r} is set aside: two worker processes ended while they had it{how}"


def _bare(block: Block) -> Block:
    """Without what workers need not know."""
    return replace(block, items=tuple(replace(item, carried=()) for item in block.items))


def _how(process: _Process) -> str:
    code = None if process.context.started is None else process.context.started.exitcode
    if code is None:
        return ""
    try:
        return f" ({signal.Signals(-code).name})" if code < 0 else f" (exit code {code})"
    except ValueError:
        return f" (signal {-code})"


def _begin(opening: Callable[[], Worker], parent: int) -> None:
    """Before all else in a worker process; of an error here the pool would not tell the words."""
    end_with_parent(parent)
    share_cores()
    _opener.append(opening)


def _open() -> None:
    _worker.append(_opener[0]())


def _answer(block: Block, following: Block | None) -> BlockAnswer:
    """In a worker process."""
    (worker,) = _worker
    if following is not None:
        worker.fetch(following)
    return worker(block)
