"""Tasks through the workers of a cluster, each answered once, in whatever order they end."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, TypeVar

from glip_export.errors import BackendError, GlipExportWarning, visible
from glip_export.labelling.cluster.bundles import Shipped, shipped
from glip_export.labelling.cluster.connection import connected
from glip_export.labelling.cluster.job import Job
from glip_export.labelling.cluster.ledger import Ledger
from glip_export.labelling.cluster.nodes import beside_us, check_room, here, room, waiting_told
from glip_export.labelling.cluster.settings import Cluster
from glip_export.labelling.cluster.worker import ANSWER, FAILED, LAST, TASK, Row, Worker, failed, rows, table

T = TypeVar("T")
A = TypeVar("A")

_CAUSE = re.compile(r"[\w.]+(Error|Exception): ")
NODE_LABEL = "ray.io/node-id"  # that Ray gives each machine


def answers(cluster: Cluster, tasks: Callable[[], Iterator[T]], job: Job[T, A]) -> Iterator[tuple[int, A]]:
    """(index, answer) of every task, each exactly once, as soon as it is there. index: the task's, from 0.

    tasks: called in a process beside this one, on this machine; it can be pickled, and gives the same tasks whenever
    it is called. Only some are held at a time. A worker that is killed, or whose machine is, is replaced, and its
    tasks are done again; a task over which two processes ended is the job's to set aside. Warnings in workers are
    given here, each once. Raises the job's GlipExportErrors as they are; BackendError for what befalls the cluster.
    """
    with connected(cluster), closing(_rows(cluster, tasks, job)) as found:
        yield from _each_once(found)


def _rows(cluster: Cluster, tasks: Callable[[], Iterator[T]], job: Job[T, A]) -> Generator[Row]:
    import ray
    from ray.data.exceptions import UserCodeException

    check_room(cluster)
    bundle = shipped(job.bundle)
    ledger: Any = ray.remote(Ledger).options(**beside_us()).remote()
    stream = _stream(cluster, tasks, job, ledger, bundle)
    try:
        with waiting_told(cluster, lambda: ray.get(ledger.any_worker.remote())):
            for block in stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                yield from rows(block, ANSWER)
    except (ray.exceptions.RayError, UserCodeException, RuntimeError, TimeoutError) as error:
        raise BackendError(_told(error)) from error
    finally:
        for actor in (ledger, bundle.library):
            ray.kill(actor)


def _each_once(found: Iterator[Row]) -> Iterator[tuple[int, Any]]:
    """Answers once each; raises what failed, and BackendError where one is missing."""
    below, beyond = 0, set[int]()  # all below are answered, and these
    last: int | None = None
    told: set[str] = set()
    for row in found:
        if row.index == FAILED:
            raise row.payload
        if row.index == LAST:
            last = row.payload
            continue
        for hint in row.hints:
            if hint not in told:
                told.add(hint)
                warnings.warn(hint, GlipExportWarning, stacklevel=2)
        if row.index < below or row.index in beyond:
            continue
        beyond.add(row.index)
        while below in beyond:
            beyond.remove(below)
            below += 1
        yield row.index, row.payload
    if last is None or below != last:
        raise BackendError(f"the cluster answered {below + len(beyond)} of {last} tasks: start again, and it goes on")


def _stream(cluster: Cluster, tasks: Callable[[], Iterator[T]], job: Job[T, A], ledger: Any, bundle: Shipped) -> Any:
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.target_max_block_size = 1  # bytes: no two tasks come into one block
    context.target_min_block_size = 0
    # Tasks under way over those in work, from which on workers are added where there is room; at most 1 + 1/at_once.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1 + 0.5 / job.at_once
    context.max_consecutive_actor_init_deaths = 3  # machines may leave while a worker starts there
    initial = max(1, min(room(cluster), cluster.workers or room(cluster)))
    read = ray.data.read_datasource(
        _source(tasks, os.getcwd()), override_num_blocks=1, num_cpus=0, label_selector={NODE_LABEL: here()}
    )
    return read.map_batches(
        Worker,
        fn_constructor_args=(job, ledger, bundle),
        batch_size=1,  # a block is one row; with GPUs Ray Data wants a number
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            min_size=1,
            max_size=cluster.workers,
            initial_size=initial,
            max_tasks_in_flight_per_actor=job.at_once + 1,  # one waits, at its machine
            max_concurrent_calls_per_actor=job.at_once,
            enable_true_multi_threading=True,
        ),
        num_cpus=cluster.threads_per_worker,
        num_gpus=cluster.gpus_per_worker or None,
    )


def _source(tasks: Callable[[], Iterator[Any]], cwd: str) -> Any:
    """What Ray Data reads tasks from: one generator, a block a task, and at the end how many there were."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    def read() -> Iterator[Any]:
        os.chdir(cwd)  # relative paths are the driver's
        count = 0
        try:
            for task in tasks():
                yield table(TASK, Row(count, task))
                count += 1
        except Exception as error:
            yield table(TASK, failed(error))
            return
        yield table(TASK, Row(LAST, count))

    class Tasks(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_name(self) -> str:
            return "glip-export"

        def get_read_tasks(self, parallelism: int, *args: object, **options: object) -> list[Any]:
            return [ReadTask(read, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))]

    return Tasks()


def _told(error: Exception) -> str:
    """What befell the cluster, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("No module named 'glip_export" in line for line in lines):
        return "a machine that joined the cluster has no glip_export: pip install 'glip-export[ray]' there"
    causes = [line for line in lines if _CAUSE.match(line)]  # of Ray's pages the last one is where it began
    said = (causes[-1:] or lines[:1] or [type(error).__name__])[0]
    return f"the Ray cluster failed ({visible(said)[:300]}): start again, and it goes on"
