"""The machines of a cluster: whether each of them can do what is asked, told before anything runs."""

from __future__ import annotations

import json
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from glip_export.errors import BackendError, GlipExportWarning
from glip_export.labelling.cluster import probe
from glip_export.labelling.cluster.settings import LOCAL, Cluster

PROBE_SECONDS = 60.0
WAIT_SECONDS = 30.0


def alive_nodes() -> list[dict[str, Any]]:
    """What Ray knows of each machine that lives: NodeID, NodeManagerAddress, Resources ..."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def on_node(node_id: str) -> Any:
    """A scheduling strategy: on that machine and no other."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def here() -> str:
    """The id of the machine that this process runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def beside_us() -> dict[str, Any]:
    """Options of an actor that lives on this machine, uses nothing that workers want, and is started again."""
    return {"num_cpus": 0, "scheduling_strategy": on_node(here()), "max_restarts": -1, "max_task_retries": -1}


def address_here() -> str:
    """What people call the machine that this process runs on, for words."""
    import ray

    return str(ray.util.get_node_ip_address())


def room(cluster: Cluster) -> int:
    """How many workers the machines that live hold at once; a cluster that grows may hold more later."""
    return sum(_room(cluster, node["Resources"]) for node in alive_nodes())


def never_grows() -> bool:
    """Whether Ray's monitor says that it only looks on; False where it does not say, as just after the start.

    It then gives each machine a type of its own, named by the machine's id.
    """
    import ray
    from ray._private import ray_constants
    from ray.experimental.internal_kv import _internal_kv_get

    status = json.loads(_internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS) or b"{}")
    types = (status.get("autoscaler_report") or {}).get("active_nodes") or {}
    return bool(types) and types.keys() <= {f"node_{node['NodeID']}" for node in ray.nodes()}


def check_room(cluster: Cluster) -> None:
    """Raises BackendError where no machine can ever hold a worker; warns where the cluster may grow."""
    if room(cluster):
        return
    most = {kind: max((node["Resources"].get(kind, 0) for node in alive_nodes()), default=0) for kind in ("CPU", "GPU")}
    words = (
        f"no machine of the cluster has room for a worker, which takes {_asked(cluster)}: "
        f"the most that one has are {most['CPU']:g} CPU and {most['GPU']:g} GPU"
    )
    if cluster.address == LOCAL or never_grows():
        raise BackendError(f"{words}; take fewer --threads-per-worker or --gpus-per-worker, or add a machine")
    warnings.warn(f"{words}; waiting until the cluster grows", GlipExportWarning, stacklevel=2)


@contextmanager
def waiting_told(cluster: Cluster, started: Callable[[], bool]) -> Iterator[None]:
    """Warns once where no worker has started after a while and there is no room for one: other work has it."""
    over = threading.Event()

    def tell() -> None:
        from ray._private.state import available_resources_per_node

        with suppress(Exception):  # of a cluster that is ending
            if over.wait(WAIT_SECONDS) or started():
                return
            free = available_resources_per_node().values()
            if any(_room(cluster, each) for each in free):
                return  # one is starting, slowly
            cpus, gpus = (sum(each.get(kind, 0) for each in free) for kind in ("CPU", "GPU"))
            warnings.warn(
                f"no worker has started within {WAIT_SECONDS:g} s: each takes {_asked(cluster)} of one machine, and "
                f"free in the whole cluster are {cpus:g} CPU and {gpus:g} GPU; waiting",
                GlipExportWarning,
                stacklevel=2,
            )

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def check_package() -> None:
    """Raises BackendError where a machine lacks this very glip_export: it would find other things, or nothing."""
    import ray

    ours = probe.installed_package()
    ray.cloudpickle.register_pickle_by_value(probe)
    try:
        look = ray.remote(num_cpus=0, max_retries=0)(probe.installed_package)
        nodes = alive_nodes()
        asked = [look.options(scheduling_strategy=on_node(node["NodeID"])).remote() for node in nodes]
    finally:
        ray.cloudpickle.unregister_pickle_by_value(probe)
    for node, answer in zip(nodes, asked, strict=True):
        name = f"the machine {node['NodeManagerAddress']} of the cluster"
        try:
            theirs = ray.get(answer, timeout=PROBE_SECONDS)
        except ray.exceptions.NodeDiedError:  # it left meanwhile
            continue
        except ray.exceptions.RayError as error:
            raise BackendError(f"{name} does not answer ({type(error).__name__}): is its Ray in order?") from error
        if differs := difference(theirs, ours):
            raise BackendError(f"{name} {differs}")


def difference(theirs: str, ours: str) -> str:
    """What is wrong with a machine's package, and what to do; of what `installed_package` says there and here."""
    if not theirs:
        return "has no glip_export for its Python: pip install 'glip-export[ray]' there"
    return "" if theirs == ours else "has another version of glip_export: install the same on all machines"


def _asked(cluster: Cluster) -> str:
    gpus = f" and {cluster.gpus_per_worker:g} GPU" if cluster.gpus_per_worker else ""
    return f"{cluster.threads_per_worker} CPU{gpus}"


def _room(cluster: Cluster, resources: dict[str, float]) -> int:
    threads = resources.get("CPU", 0) // cluster.threads_per_worker
    if not cluster.gpus_per_worker:
        return int(threads)
    gpus = resources.get("GPU", 0)
    if cluster.gpus_per_worker < 1:  # a worker's part is of one GPU
        return int(min(threads, gpus * math.floor(1 / cluster.gpus_per_worker + 1e-6)))
    return int(min(threads, gpus // cluster.gpus_per_worker))
