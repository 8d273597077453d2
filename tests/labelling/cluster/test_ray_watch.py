"""A head that is gone is told from one that is busy."""

from __future__ import annotations

import socket
import threading

from waiting import wait_until

from glip_export.labelling.cluster.watch import watch


def test_gone_is_what_nothing_listens_at() -> None:
    """A head that accepts nothing is busy, and its kernel answers for it."""
    gone: list[tuple[str, int]] = []
    with socket.create_server(("127.0.0.1", 0), backlog=100) as busy:
        head = busy.getsockname()
        over = threading.Event()
        thread = threading.Thread(target=watch, args=([head], 0.1, over, gone.append))
        thread.start()
        with socket.create_server(("127.0.0.1", 0)) as closed:
            other = closed.getsockname()
        watch([head, other], 0.1, threading.Event(), gone.append)
        assert gone == [other] and thread.is_alive()
    wait_until(lambda: gone == [other, head])
    thread.join()
