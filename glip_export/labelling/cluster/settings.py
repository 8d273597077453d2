"""Which Ray cluster works, and with what for each worker."""

from __future__ import annotations

import re
from dataclasses import dataclass

from glip_export.errors import GlipExportError, visible

LOCAL = "local"  # a cluster of this machine alone, which ends with the run
AUTO = "auto"  # the one that runs on this machine
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:/\s]+):\d{1,5}")


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster and what it gives to each of our workers: an actor with a Detector of its own.

    address: "auto", "local" or host:port of the cluster's head. workers: at most so many; by default as many as the
    cluster has room for, also when it grows. threads_per_worker: CPUs that Ray counts for one. gpus_per_worker: may be
    a part of one, such as 0.5.
    """

    address: str = AUTO
    workers: int | None = None
    threads_per_worker: int = 1
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        """Raises GlipExportError for what no cluster can give."""
        if self.address.startswith("ray://"):
            raise GlipExportError(
                f"--ray {self.address} is a Ray Client's address, through which Ray Data does not run: start this on a "
                f"machine of the cluster with --ray {AUTO}, or hand it in with: ray job submit -- glip-export ..."
            )
        if self.address not in (AUTO, LOCAL) and not _HOST_AND_PORT.fullmatch(self.address):
            raise GlipExportError(f"--ray is {AUTO}, {LOCAL} or HOST:PORT, not {visible(self.address)!r}")
        if self.workers is not None and self.workers < 1:
            raise GlipExportError(f"workers are a whole number from 1 on, not {self.workers}")
        if self.threads_per_worker < 1:
            raise GlipExportError(f"threads a worker are a whole number from 1 on, not {self.threads_per_worker}")
        if not self.gpus_per_worker >= 0 or (self.gpus_per_worker > 1 and self.gpus_per_worker % 1):
            raise GlipExportError(f"GPUs a worker are 0, a part of 1, or a whole number, not {self.gpus_per_worker:g}")
