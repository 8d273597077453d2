"""Whether the cluster's head lives: told before Ray's C++ library ends this process, which it does without a word."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from glip_export.errors import visible
from glip_export.labelling.cluster.nodes import alive_nodes, here

EVERY_SECONDS = 5.0
# Ray itself gives up after a minute without its head, or what the variable says; what comes back before goes on.
GIVE_UP = "RAY_gcs_rpc_server_reconnect_timeout_s"
PART = 0.75

Address = tuple[str, int]


@contextmanager
def head_watched() -> Iterator[None]:
    """As long as the block runs: where the head, or Ray on this machine, is gone for good, says so and ends us.

    The process has to end: no call of Ray's returns then, and its workers end with the cluster.
    """
    over = threading.Event()
    seconds = PART * float(os.environ.get(GIVE_UP, "60"))
    thread = threading.Thread(target=watch, args=(_addresses(), seconds, over, _leave), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def watch(addresses: Sequence[Address], seconds: float, over: threading.Event, gone: Callable[[Address], None]) -> None:
    """Calls gone where nothing has listened at an address for so long, at each try. Returns then, or once over is set.

    That a process listens the kernel says, however busy the process is.
    """
    heard = dict.fromkeys(addresses, time.monotonic())
    while not over.wait(min(EVERY_SECONDS, seconds / 4)):
        for address in addresses:
            if _listens(address):
                heard[address] = time.monotonic()
            elif time.monotonic() - heard[address] >= seconds and not over.is_set():
                gone(address)
                return


def _addresses() -> list[Address]:
    """Of the head's store, and of the raylet of this machine."""
    import ray

    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    ours = [(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in alive_nodes() if node["NodeID"] == here()]
    return [(host.strip("[]"), int(port)), *ours]


def _listens(address: Address) -> bool:
    try:
        socket.create_connection(address, EVERY_SECONDS).close()
    except OSError:
        return False
    return True


def _leave(address: Address) -> None:
    host, port = address
    words = f"the Ray cluster is gone: nothing answers at {host}:{port}; start it, and the same command goes on"
    cursor = "\x1b[?25h" if os.isatty(2) else ""  # which a bar hides
    os.write(2, f"{cursor}\nglip-export: {visible(words)}\n".encode())
    os._exit(2)
