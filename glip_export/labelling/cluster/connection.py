"""The connection to a Ray cluster, with Ray's own words off."""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from glip_export.errors import BackendError, visible
from glip_export.labelling.cluster.nodes import check_package
from glip_export.labelling.cluster.settings import AUTO, LOCAL, Cluster
from glip_export.labelling.cluster.watch import head_watched

# Of Ray's C++ libraries, which warn of each pool of actors; and its default to be, without which it warns.
QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
REACH_SECONDS = 20.0


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """Ray, as long as the block runs; what was started in it ends with it, however it ends.

    Within a block that is connected already it does nothing. Raises BackendError where ray is missing, no cluster
    answers, or a machine of it has another Ray, Python or glip_export, or none.
    """
    try:
        import ray
    except ImportError as error:
        raise BackendError("ray is not installed: pip install 'glip-export[ray]'") from error
    if ray.is_initialized():
        yield
        return
    _reach(cluster.address)
    with ExitStack() as watched:  # Ray's shutdown too
        try:
            _connect(cluster)
            watched.enter_context(head_watched())
            check_package()
            yield
        finally:
            ray.shutdown()


def _reach(address: str) -> None:
    """Raises BackendError where nothing listens: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise BackendError(
            f"no Ray cluster answers at {address} ({getattr(error, 'strerror', None) or error}): --ray takes the "
            "address that `ray start --head` told"
        ) from error


def _connect(cluster: Cluster) -> None:
    import ray

    from glip_export.processes import usable_cores

    options: dict[str, Any] = {}
    if cluster.address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = {"num_cpus": usable_cores(), "include_dashboard": False}
    with warnings.catch_warnings(), _environment(QUIET), _no_stderr(), _sigterm_kept():
        warnings.simplefilter("ignore")
        try:
            ray.init(
                address=cluster.address,
                logging_level=logging.ERROR,
                log_to_driver=False,  # what actors print is in Ray's logs
                namespace="glip-export",
                **options,
            )
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            raise BackendError(_told(cluster, error)) from error
    _silence()
    _keep_no_statistics()


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """What this process does at SIGTERM; Ray puts its own there, which prints a C++ stack."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(ours) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Variables that Ray reads as it starts, where the user has not set them."""
    added = [name for name in more if name not in os.environ]
    os.environ.update({name: more[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Ray's C++ library says there that it was told to be quiet; what goes wrong is raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _told(cluster: Cluster, error: Exception) -> str:
    """What hindered connecting, on one line."""
    words = str(error)
    if "Version mismatch" in words:
        theirs = re.findall(r"(Ray|Python): (\S+)", words)[:2]
        what = " and ".join(f"{name} {version}" for name, version in theirs)
        return (
            f"the cluster at {cluster.address} runs {what}, this is Ray {_ray_version()} and Python "
            f"{platform.python_version()}: they have to be the same on all machines"
        )
    if "Could not find any running Ray instance" in words:
        return "no Ray cluster runs on this machine: start one with: ray start --head, or take --ray local"
    first = visible(words.strip().partition("\n")[0]) or type(error).__name__
    if cluster.address == LOCAL:
        return f"Ray does not start on this machine: {first}"
    token = "" if "RAY_AUTH_MODE" in os.environ else "; if the cluster has a token, set RAY_AUTH_MODE=token"
    if cluster.address == AUTO:
        return f"the Ray cluster of this machine cannot be used ({first}): see `ray status`{token}"
    return (
        f"this machine cannot use the Ray cluster at {cluster.address} ({first}): make it one of the cluster's with: "
        f"ray start --address={cluster.address}{token}"
    )


def _ray_version() -> str:
    import ray

    return str(ray.__version__)


def _silence() -> None:
    """Ray's own words and bars off: the run has its own, and what befalls workers is in Ray's logs."""
    import ray._private.worker
    from ray.data import DataContext

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if hasattr(ray._private.worker, "print_to_stdstream"):  # by which it prints the end of each worker, unasked
        ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _keep_no_statistics() -> None:
    """Ray Data keeps some kB of each block that a step gave, until the end and for its log alone: it is kept none."""
    from ray.data._internal.execution.operators import map_operator

    if hasattr(map_operator, "to_stats"):
        map_operator.to_stats = lambda metas: []
