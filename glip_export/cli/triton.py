"""glip-export triton: a bundle as a model repository of NVIDIA Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from glip_export.cli.console import console, megabytes
from glip_export.cli.options import BACKEND_WORDS, BundleArgument, bundle_or_newest

if TYPE_CHECKING:
    from glip_export.serving.triton.settings import TritonSettings


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
        int, typer.Option("--image-cache", min=0, help="MB an instance keeps of pictures' features, where it computes.")
    ] = 256,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Also the three graphs as models of Triton's own GPU backends.")
    ] = False,
) -> None:
    """Write a model repository of NVIDIA Triton Inference Server, with all that it needs and a README.

    Of a baked model (FILE.onnx) it is one model of Triton's ONNX Runtime backend, and the other options do not count.

    Example: glip-export triton engines/glip_tiny --output repository --instances 2
    """
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
    where = bundle_or_newest(bundle)
    if not run_baked(where, output):
        run(where, output, settings, gpu)


def run_baked(path: Path, output: Path) -> bool:
    """Writes a baked model's repository, and says so; False for a bundle."""
    from glip_export.bundle.baked_file import is_baked

    if not is_baked(path):
        return False
    from glip_export.serving.triton.baked import write_baked_repository

    name = write_baked_repository(path, output)
    console.print(f"Wrote {output}: the model {name} for Triton's ONNX Runtime backend, which needs no Python.")
    console.print(f"Next: tritonserver --model-repository {output}", soft_wrap=True)
    return True


def run(bundle: Path, output: Path, settings: TritonSettings, gpu: bool) -> None:
    """Writes the repository, and prints its models and what to do next."""
    from glip_export.serving.triton.repository import write_repository

    models = write_repository(bundle, output, settings, gpu)
    table = Table()
    table.add_column("model")
    table.add_column("MB", justify="right")
    for name in models:
        sizes = (path.stat().st_size for path in (output / name).rglob("*") if path.is_file())
        table.add_row(name, megabytes(sum(sizes)))
    console.print(table)
    console.print(
        f"Wrote {output}: {settings.backend}, {settings.instances} instance(s), batches of up to {settings.max_batch}."
    )
    console.print(f"Next: {output / 'README.md'} says how to start tritonserver on it.")
