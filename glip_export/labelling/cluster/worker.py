"""A worker: one process on some machine of the cluster, with one open detector, that answers tasks."""

from __future__ import annotations

import os
import pickle
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from glip_export.errors import BackendError, BundleError, GlipExportError, GlipExportWarning
from glip_export.labelling.cluster.job import Job
from glip_export.labelling.cluster.ledger import ALL_FAIL, SET_ASIDE
from glip_export.labelling.cluster.nodes import address_here, here
from glip_export.processes import share_cores

if TYPE_CHECKING:
    import pyarrow

    from glip_export.labelling.cluster.bundles import Shipped

T = TypeVar("T")
A = TypeVar("A")

TASK, ANSWER = "task", "answer"  # the columns
_REASON = "two worker processes ended while they had it"
_FEW = 1 << 30  # more processes than ever end over one task


class Row(NamedTuple):
    """A task or an answer on its way. index: of the task, from 0; LAST: payload is how many there are."""

    index: int  # type: ignore[assignment]  # no one asks a row where a value is
    payload: Any
    hints: tuple[str, ...] = ()


LAST, FAILED = -1, -2  # indices: how many tasks there are; an error, which ends all


def table(column: str, row: Row) -> pyarrow.Table:
    """One row in a block of its own."""
    import pyarrow as pa

    return pa.table({column: pa.array([pickle.dumps(tuple(row), pickle.HIGHEST_PROTOCOL)], pa.large_binary())})


def rows(block: pyarrow.Table, column: str) -> list[Row]:
    """What `table` was made of, of one block or several that were joined."""
    return [Row(*pickle.loads(value.as_buffer())) for value in block[column]]


def failed(error: Exception) -> Row:
    """An error as a row: what crosses machines as an exception comes back in Ray's own."""
    if not isinstance(error, GlipExportError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        words = f"{type(error).__name__}: {error}"
        return Row(FAILED, GlipExportError(words) if isinstance(error, GlipExportError) else RuntimeError(words))
    return Row(FAILED, error)


class Worker(Generic[T, A]):
    """What Ray Data makes an actor of."""

    def __init__(self, job: Job[T, A], ledger: Any, shipped: Shipped) -> None:
        """Opens the detector; what hinders that is the answer to each task then."""
        share_cores()
        with suppress(OSError):  # relative paths are the driver's; a machine without the folder has only addresses
            os.chdir(shipped.cwd)
        self._job = job
        self._ledger = ledger
        self._machine = here()
        self._one_apart = OneApart()
        self._hints = note_warnings()
        self._error: Row | None = None
        try:
            self._answer = self._open(shipped)
        except GlipExportError as error:
            error.args = (f"{error} (on {address_here()})", *error.args[1:])
            self._error = failed(error)
        except Exception as error:
            self._error = failed(error)

    def __call__(self, block: pyarrow.Table) -> pyarrow.Table:
        """Tasks to answers; Ray Data calls it with a block, which is one task."""
        import pyarrow as pa

        return pa.concat_tables([table(ANSWER, self._row(row)) for row in rows(block, TASK)])

    def _row(self, row: Row) -> Row:
        if row.index < 0:
            return row
        if self._error is not None:
            return self._error
        try:
            answer = self._task(row.index, row.payload)
        except Exception as error:
            return failed(error)
        hints = tuple(dict.fromkeys(self._hints.pop(0) for _ in range(len(self._hints))))
        return Row(row.index, answer, hints)

    def _open(self, shipped: Shipped) -> Callable[[T], A]:
        import ray

        worker = ray.get_runtime_context().get_actor_id()
        if not ray.get(self._ledger.opening.remote(worker, self._machine)):
            raise BackendError("a worker's process ended each time that it opened the bundle: too little memory?")
        try:
            answer = self._job.open(shipped.here())
        except BundleError:  # perhaps of a cache that is damaged
            answer = self._job.open(shipped.here(hashed=True))
        self._ledger.opened.remote(worker)
        return answer

    def _task(self, index: int, task: T) -> A:
        parts = self._job.parts(task)
        with self._one_apart.together():
            before = self._begun(self._ledger.begin.remote(index, self._machine, _FEW if parts else 2))
            if not before or (before > 0 and not parts):
                answer = self._answer(task)
        if before == SET_ASIDE:
            answer = self._job.set_aside(task, _REASON)
        elif before and parts:
            answer = self._job.joined(task, [self._part(index, place, part) for place, part in enumerate(parts)])
        self._ledger.ended.remote(index)
        return answer

    def _part(self, index: int, place: int, part: T) -> A:
        with self._one_apart.apart():
            if self._begun(self._ledger.begin_part.remote(index, place, self._machine)) == SET_ASIDE:
                return self._job.set_aside(part, _REASON)
            answer = self._answer(part)
            self._ledger.ended_part.remote(index, place)
            return answer

    def _begun(self, asked: Any) -> int:
        import ray

        found = int(ray.get(asked))
        if found == ALL_FAIL:
            raise BackendError(
                "workers end one after another, whatever they are given: killed, perhaps for memory (each holds the "
                "model), or by a fault of the backend; take fewer --workers, or more --threads-per-worker"
            )
        return found


class OneApart:
    """Many hold it together, or one apart from all others."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Beside others."""
        with self._changed:
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """With no other."""
        with self._changed:
            self._changed.wait_for(lambda: not self._together)
            yield


def note_warnings() -> list[str]:
    """From now on the words of GlipExportWarnings, in place of Python's printing them: this process is all ours."""
    noted: list[str] = []
    show = warnings.showwarning

    def note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, GlipExportWarning):
            noted.append(str(message))
        else:
            show(message, category, *where, **more)

    warnings.simplefilter("always", GlipExportWarning)
    warnings.showwarning = note
    return noted
