"""The formula: from seconds a picture to nodes, shards, a restart's cost and money. No file is read and nothing is run.

Of a node: workers answer pictures one after the other, decoding goes on beside them. A node's rate is the least of
    workers / (inference + overhead)     cores / (decode + overhead + inference x threads)     bandwidth / bytes
Of all nodes together: the storage's requests and bandwidth, and the one driver of a run, which hands out blocks and
commits shards. Where a driver is too slow the source is split, and each part is a run of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

HOUR, DAY = 3600.0, 86400.0
SHARD_SIZES = tuple(2**power for power in range(10, 18))  # pictures
SHARD_BYTES = 256e6  # at most in one file: it is held in the driver's memory until it is whole


def _known(meaning: str, origin: str, default: Any = None) -> Any:
    """A field of the figures below: what it means with its unit, and where its default comes from."""
    words = {"help": meaning, "origin": origin}
    return field(metadata=words) if default is None else field(default=default, metadata=words)


@dataclass(frozen=True)
class Costs:
    """What a picture costs, as benchmarks/labelling/costs.py measures it."""

    inference_seconds: float = _known("s a picture of one worker, batched as it will be", "measured")
    decode_seconds: float = _known("s of one core a picture: read, decode, turn upright", "measured")
    overhead_seconds: float = _known("s of one core a picture: a worker's machinery", "measured")
    driver_seconds: float = _known("s of the driver a picture: blocks out, answers in, shards written", "measured")
    enumerate_seconds: float = _known("s of the driver a picture: reading the source again", "measured")
    footer_seconds: float = _known("s a shard: whether it is there and whole, after a restart", "measured")
    open_seconds: float = _known("s from a worker's start to its first answer", "measured")
    picture_bytes: float = _known("bytes a picture, as stored", "measured")
    row_bytes: float = _known("bytes a picture in a shard", "measured")


@dataclass(frozen=True)
class Node:
    """A machine of the cluster and its price."""

    cores: int = _known("cores a node", "assumed", 32)
    gpus: int = _known("GPUs a node; then say --inference-seconds, as measured on that GPU", "assumed", 0)
    workers: int = _known("workers a node; 0 is one a GPU, else cores / threads", "assumed", 0)
    threads: int = _known("cores that a worker's inference keeps busy; unused with GPUs", "assumed", 2)
    gbit: float = _known("Gbit/s of a node's network", "assumed", 10.0)
    price: float = _known("a node's hour, in your currency", "assumed", 1.4)
    interruptions: float = _known("spot interruptions a node and hour", "assumed", 0.0)
    replace_seconds: float = _known("s until an interrupted node is replaced", "assumed", 180.0)


@dataclass(frozen=True)
class Store:
    """Where the pictures and the answers are, and its prices."""

    requests: float = _known("requests/s of the storage; 0 for no limit (S3: 5500 a prefix)", "assumed", 5500.0)
    requests_a_picture: float = _known("requests a picture: 1 a file, 0.01 in tar shards of 100", "assumed", 1.0)
    store_gbit: float = _known("Gbit/s of the storage in all; 0 for no limit", "assumed", 0.0)
    request_price: float = _known("1000 requests", "assumed", 0.0004)
    egress_price: float = _known("a GB out of the storage; 0 within a region", "assumed", 0.0)
    month_price: float = _known("a GB of answers kept for a month", "assumed", 0.023)


@dataclass(frozen=True)
class Task:
    """What is to be done by when."""

    pictures: float = _known("pictures", "assumed", 1e9)
    days: float = _known("days it may take", "assumed", 30.0)
    block: int = _known("pictures that a worker takes at once", "assumed", 16)
    waiting: int = _known("blocks a worker has, the one in work included", "assumed", 2)
    shard: int = _known("pictures a shard; 0 for the size that a restart is shortest with", "assumed", 0)
    runs: int = _known("runs that the source is split in; 0 for as few as their drivers keep up with", "assumed", 0)
    driver_price: float = _known("an hour of the driver's machine", "assumed", 0.4)


def figures() -> dict[str, tuple[type, Any]]:
    """All figures by name: the class that holds it and its field."""
    return {each.name: (kind, each) for kind in (Costs, Node, Store, Task) for each in fields(kind)}


def plan(task: Task, costs: Costs, node: Node, store: Store) -> dict[str, Any]:
    """What the task takes, as JSON. Raises ValueError for figures of which no plan follows."""
    _check(task, costs, node, store)
    workers = node.workers or node.gpus or max(1, node.cores // node.threads)
    of_node = node_limits(costs, node, workers)
    of_all = {name: limit for name, limit in shared_limits(costs, store).items() if math.isfinite(limit)}
    lost = node.replace_seconds + costs.open_seconds + task.waiting * task.block * costs.inference_seconds
    at_work = 1 - node.interruptions * lost / HOUR
    if at_work <= 0:
        raise ValueError(
            f"a node is interrupted {node.interruptions:g} times an hour and loses {lost:.0f} s each time: nothing "
            "would be left of its hour"
        )
    a_node = min(of_node.values()) * at_work  # pictures/s
    needed = task.pictures / (task.days * DAY)
    nodes = math.ceil(needed / a_node)
    rate = nodes * a_node
    driver = 1 / costs.driver_seconds
    runs = task.runs or math.ceil(needed / driver)
    shard = task.shard or shard_size(task.pictures / runs, rate / runs, costs)
    shards = math.ceil(task.pictures / runs / shard) * runs
    seconds = task.pictures / rate
    return {
        "rates": {
            "needed": needed,
            "node": a_node,
            "cluster": rate,
            "node_limits": of_node,
            "shared_limits": of_all,
            "at_work": at_work,
        },
        "first": first_limit(of_node),
        "busy": {
            **{name: rate / at_work / nodes / limit for name, limit in of_node.items()},
            **{name: rate / limit for name, limit in of_all.items()},
            "driver": rate / runs / driver,
        },
        "nodes_until": {name: limit / a_node for name, limit in {**of_all, "driver": driver * runs}.items()},
        "nodes": nodes,
        "workers": nodes * workers,
        "runs": runs,
        "days": seconds / DAY,
        "interruptions": node.interruptions * nodes * seconds / HOUR,
        "shard": shard,
        "shards": shards,
        "shard_mb": shard * costs.row_bytes / 1e6,
        "answers_gb": task.pictures * costs.row_bytes / 1e9,
        "pictures_gb": task.pictures * costs.picture_bytes / 1e9,
        "restart": restart(task, costs, task.pictures / runs, rate / runs, shard, nodes * workers / runs),
        "money": money(task, costs, node, store, nodes * seconds / HOUR, runs * seconds / HOUR),
    }


def node_limits(costs: Costs, node: Node, workers: int) -> dict[str, float]:
    """Pictures a second that each part of a node allows."""
    core = costs.decode_seconds + costs.overhead_seconds
    if not node.gpus:
        core += costs.inference_seconds * node.threads
    return {
        "GPUs" if node.gpus else "workers": workers / (costs.inference_seconds + costs.overhead_seconds),
        "cores": node.cores / core,
        "network": node.gbit * 1e9 / 8 / costs.picture_bytes,
    }


def shared_limits(costs: Costs, store: Store) -> dict[str, float]:
    """Pictures a second that the storage allows all nodes together; infinite without a limit."""
    asked = store.requests_a_picture
    return {
        "storage requests": store.requests / asked if store.requests and asked else math.inf,
        "storage bandwidth": store.store_gbit * 1e9 / 8 / costs.picture_bytes if store.store_gbit else math.inf,
    }


def first_limit(of_node: dict[str, float]) -> str:
    """What of a node is used up first."""
    return min(of_node, key=lambda name: of_node[name])


def shard_size(pictures: float, rate: float, costs: Costs) -> int:
    """Pictures a shard that make a run's restart shortest: n / S footers, and up to S pictures to be done again.

    d/dS (n / S x footer + S / rate) = 0 at S = sqrt(n x footer x rate); the power of two next to it, whose file is not
    too large.
    """
    best = math.sqrt(pictures * costs.footer_seconds * rate)
    allowed = [size for size in SHARD_SIZES if size * costs.row_bytes <= SHARD_BYTES] or [SHARD_SIZES[0]]
    return min(allowed, key=lambda size: abs(math.log(size / best)))


def restart(task: Task, costs: Costs, pictures: float, rate: float, shard: int, workers: float) -> dict[str, float]:
    """Seconds until a run whose driver was killed near its end is where it was; what has no shard is done again."""
    again = min(pictures, shard + workers * task.waiting * task.block)
    parts = {
        "enumerate": pictures * costs.enumerate_seconds,
        "footers": math.ceil(pictures / shard) * costs.footer_seconds,
        "open": costs.open_seconds,
        "again": again / rate,
    }
    return {**parts, "seconds": sum(parts.values()), "pictures_again": again}


def money(
    task: Task, costs: Costs, node: Node, store: Store, node_hours: float, driver_hours: float
) -> dict[str, float]:
    """What it costs, in the currency of the prices; answers are kept for one month."""
    parts = {
        "nodes": node_hours * node.price,
        "drivers": driver_hours * task.driver_price,
        "requests": task.pictures * store.requests_a_picture / 1000 * store.request_price,
        "egress": task.pictures * costs.picture_bytes / 1e9 * store.egress_price,
        "answers": task.pictures * costs.row_bytes / 1e9 * store.month_price,
    }
    return {**parts, "all": sum(parts.values()), "a_million": sum(parts.values()) / task.pictures * 1e6}


def _check(task: Task, costs: Costs, node: Node, store: Store) -> None:
    free = {
        "gpus",
        "workers",
        "interruptions",
        "replace_seconds",
        "shard",
        "runs",
        "overhead_seconds",
        "enumerate_seconds",
    }
    free |= {"open_seconds", "price", "driver_price", *(each.name for each in fields(store))}
    for given in (task, costs, node, store):
        for each in fields(given):
            value = getattr(given, each.name)
            if not math.isfinite(value) or value < 0 or (value == 0 and each.name not in free):
                least = "0 or more" if each.name in free else "more than 0"
                raise ValueError(f"{each.name} is {value:g}: a number, {least}")
