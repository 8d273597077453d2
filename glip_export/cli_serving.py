"""The commands that serve a bundle: glip-export serve and triton, with their many limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glip_export.cli_options import BACKEND_WORDS, BundleArgument, Threads, WeightsAgain
from glip_export.command_line import bundle_or_newest


def triton(
    bundle: BundleArgument = None,
    output: Annotated[Path, typer.Option(help="The model repository: a new or empty folder.")] = Path("triton"),
    backend: Annotated[str, typer.Option(help=f"{BACKEND_WORDS}, ... on which the model `glip` runs.")] = "onnxruntime",
    instances: Annotated[int, typer.Option(min=1, help="Processes, on each GPU where the backend runs on one.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of an instance; 0 shares the cores among them.")] = 0,
    max_batch: Annotated[int, typer.Option(min=1, help="Pictures that share a run.")] = 8,
    max_wait_us: Annotated[int, typer.Option(min=0, help="Microseconds a picture waits for others.")] = 2000,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that wait; more are refused.")] = 256,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of an encoded picture.")] = 32_000_000,
    max_pixels: Annotated[int, typer.Option(min=1000, help="Of a picture.")] = 25_000_000,
    max_names: Annotated[int, typer.Option(min=1, help="Of a prompt.")] = 1500,
    image_cache_mb: Annotated[
        int, typer.Option("--image-cache", min=0, help="MB an instance keeps of pictures' features.")
    ] = 256,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Also the three graphs as models of Triton's own GPU backends.")
    ] = False,
) -> None:
    """Write a model repository of NVIDIA Triton Inference Server, with all that it needs and a README.

    Example: glip-export triton engines/glip_tiny --output repository --instances 2
    """
    from glip_export.commands.triton import run
    from glip_export.serving.triton.settings import TritonSettings

    settings = TritonSettings(
        backend=backend,
        threads=threads,
        instances=instances,
        max_batch=max_batch,
        max_wait_us=max_wait_us,
        max_queue=max_queue,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_names=max_names,
        image_cache_bytes=image_cache_mb * 1_000_000,
    )
    run(bundle_or_newest(bundle), output, settings, gpu)


def serve(
    bundle: BundleArgument = None,
    backend: Annotated[str, typer.Option(help=f"{BACKEND_WORDS}, or auto for the fastest.")] = "auto",
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
    image_cache_mb: Annotated[
        int, typer.Option("--image-cache", min=0, help="MB kept of pictures' features; 21 each for GLIP-T at 800x1216.")
    ] = 256,
) -> None:
    """Serve a bundle over HTTP, with a live page at the address that it prints.

    POST /v1/detect takes pictures and a prompt; see /openapi.json. SIGTERM and Ctrl+C end it once all that was
    accepted is answered. Example: glip-export serve engines/glip_tiny --port 8000
    """
    from glip_export.commands.serve import run
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
    run(bundle_or_newest(bundle), backend, host, port, threads, weights, token_file, settings)
