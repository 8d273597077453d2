"""glip-export triton: a bundle as a model repository of NVIDIA Triton Inference Server."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from glip_export.commands.console import console, megabytes
from glip_export.serving.triton.repository import write_repository
from glip_export.serving.triton.settings import TritonSettings


def run(bundle: Path, output: Path, settings: TritonSettings, gpu: bool) -> None:
    """Writes the repository, and prints its models and what to do next."""
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
