"""glip-export serve: a bundle behind HTTP, with a live page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glip_export.cli.console import console
from glip_export.cli.options import (
    AUTO_HELP,
    BACKEND_WORDS,
    BundleArgument,
    GpuPreprocess,
    Threads,
    WeightsAgain,
    bundle_or_newest,
)
from glip_export.errors import BackendError

if TYPE_CHECKING:
    from glip_export.serving.settings import Settings


def serve(
    bundle: BundleArgument = None,
    backend: Annotated[str, typer.Option(help=f"{BACKEND_WORDS}, {AUTO_HELP}.")] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    threads: Threads = None,
    weights: WeightsAgain = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the token that clients must bear; by default the variable GLIP_EXPORT_TOKEN, if set.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A further host name by which clients call this server (repeatable); * for any. By default localhost "
            "and loopback addresses; with another --host all IP addresses and this machine's name.",
            show_default=False,
        ),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(min=1, help="Pictures that share a run; 1 where a backend for CPUs runs them in turn anyway.")
    ] = 8,
    max_wait_ms: Annotated[float, typer.Option(min=0, help="That a picture waits for others to share its run.")] = 5.0,
    deadline_ms: Annotated[int, typer.Option(min=1, help="The longest that a request may take, and the default.")] = (
        10_000
    ),
    max_queue: Annotated[int, typer.Option(min=1, help="Pictures accepted and not yet answered.")] = 64,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of a request's body.")] = 32_000_000,
    max_held_bytes: Annotated[int, typer.Option(min=1, help="Of all bodies that are being received.")] = 256_000_000,
    max_pixels: Annotated[int, typer.Option(min=1000, help="Of a picture.")] = 25_000_000,
    max_pictures: Annotated[int, typer.Option(min=1, help="Of a request.")] = 16,
    max_names: Annotated[int, typer.Option(min=1, help="Of a prompt.")] = 1500,
    max_characters: Annotated[int, typer.Option(min=1, help="Of a prompt.")] = 50_000,
    max_header_bytes: Annotated[int, typer.Option(min=1024, help="Of a request.")] = 32_768,
    upload_seconds: Annotated[float, typer.Option(min=0.1, help="For a request to arrive.")] = 30.0,
    gpu_preprocess: GpuPreprocess = False,
    image_cache_mb: Annotated[
        int,
        typer.Option(
            "--image-cache",
            min=0,
            help="MB kept of pictures' features, on a GPU in its memory; 21 each for GLIP-T at 800x1216.",
        ),
    ] = 256,
) -> None:
    """Serve a bundle over HTTP, with a live page at the address that it prints.

    POST /v1/detect takes pictures and a prompt; see /openapi.json. SIGTERM and Ctrl+C end it once all that was
    accepted is answered. Example: glip-export serve engines/glip_tiny --port 8000
    """
    from glip_export.serving.settings import Settings

    settings = Settings(
        max_bytes=max_bytes,
        max_held_bytes=max_held_bytes,
        max_pixels=max_pixels,
        max_pictures=max_pictures,
        max_names=max_names,
        max_characters=max_characters,
        max_header_bytes=max_header_bytes,
        max_queue=max_queue,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        deadline_ms=deadline_ms,
        upload_seconds=upload_seconds,
        cache_bytes=image_cache_mb * 1_000_000,
    )
    run(
        *(bundle_or_newest(bundle), backend, host, port, threads, weights, token_file, settings, allow_host or ()),
        gpu_preprocess=gpu_preprocess,
    )


def run(
    bundle: Path,
    backend: str,
    host: str,
    port: int,
    threads: int | None,
    weights: str | None,
    token_file: Path | None,
    settings: Settings,
    allow_host: Sequence[str] = (),
    *,
    gpu_preprocess: bool = False,
) -> None:
    """Loads and warms up the model, prints the address, and serves until it is told to stop."""
    from glip_export.runtime.detector import Detector
    from glip_export.runtime.request_batch import BatchDetector
    from glip_export.serving.access_token import TOKEN_VARIABLE, read_token

    try:
        from glip_export.serving.app import make_app
        from glip_export.serving.hosts import Hosts, is_loopback
        from glip_export.serving.metrics import Metrics
        from glip_export.serving.scheduler import Scheduler
        from glip_export.serving.server import address, listen, serve
    except ImportError as error:
        raise BackendError(f"serving cannot be imported ({error}): pip install 'glip-export[serve]'") from None
    token = read_token(token_file)
    with listen(host, port) as listening:  # before the model is loaded: a port in use is told at once
        hosts = Hosts(listening.getsockname()[0], [*allow_host, *([host] if host else [])])
        detector = Detector.open(bundle, backend, threads, weights, gpu_preprocess=gpu_preprocess)
        batch = BatchDetector(detector, settings.max_batch, settings.cache_bytes, settings.max_pixels)
        scheduler = Scheduler(batch, settings, Metrics())
        scheduler.start()
        app = make_app(scheduler, settings, token, hosts)
        # soft_wrap: the address stays whole for whoever reads it from a pipe.
        console.print(
            f"Serving {bundle} ({detector.session.name}) at {address(listening)}; Ctrl+C ends it.", soft_wrap=True
        )
        if token is None and not is_loopback(host):
            console.print(f"Whoever reaches {host} may use it: set a token with --token-file or {TOKEN_VARIABLE}.")
        serve(app, scheduler, settings, listening)
    console.print("Stopped; all that was accepted is answered.")
