"""glip-export serve: a bundle behind HTTP, with a live page."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from glip_export.commands.console import console
from glip_export.errors import BackendError
from glip_export.runtime.detector import Detector
from glip_export.runtime.request_batch import BatchDetector
from glip_export.serving.access_token import TOKEN_VARIABLE, read_token
from glip_export.serving.settings import Settings


def run(
    bundle: Path,
    backend: str,
    host: str,
    port: int,
    threads: int | None,
    weights: str | None,
    token_file: Path | None,
    settings: Settings,
) -> None:
    """Loads and warms up the model, prints the address, and serves until it is told to stop."""
    try:
        from glip_export.serving.app import make_app
        from glip_export.serving.metrics import Metrics
        from glip_export.serving.scheduler import Scheduler
        from glip_export.serving.server import address, listen, serve
    except ImportError as error:
        raise BackendError(f"serving cannot be imported ({error}): pip install 'glip-export[serve]'") from None
    token = read_token(token_file)
    with listen(host, port) as listening:  # before the model is loaded: a port in use is told at once
        detector = Detector.open(bundle, backend, threads, weights)
        batch = BatchDetector(detector, settings.max_batch, settings.cache_bytes, settings.max_pixels)
        scheduler = Scheduler(batch, settings, Metrics())
        scheduler.start()
        app = make_app(scheduler, settings, token)
        # soft_wrap: the address stays whole for whoever reads it from a pipe.
        console.print(
            f"Serving {bundle} ({detector.session.name}) at {address(listening)}; Ctrl+C ends it.", soft_wrap=True
        )
        if token is None and not _is_loopback(host):
            console.print(f"Whoever reaches {host} may use it: set a token with --token-file or {TOKEN_VARIABLE}.")
        serve(app, scheduler, settings, listening)
    console.print("Stopped; all that was accepted is answered.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
