"""What `glip-export info` shows of a baked model."""

from __future__ import annotations

import json as json_module
from pathlib import Path

from rich.table import Table
from rich.text import Text

from glip_export.cli.console import console, megabytes


def show_baked(path: Path, json: Path | None) -> None:
    """Prints what the file says of itself, its SHA-256 checked; writes it as JSON."""
    from glip_export.bundle.baked_file import BakedFile
    from glip_export.bundle.files import atomic_write_text
    from glip_export.graphs.contracts import BAKED, specs_of

    file = BakedFile.open(path)
    spec = specs_of(file)[BAKED.name]
    metadata = {key.removeprefix("glip."): _value(value) for key, value in sorted(file.metadata.items())}
    versions = json_module.loads(file.metadata.get("glip.versions", "{}"))
    size = "any multiple of 32" if file.image_size is None else "{}x{}".format(*file.image_size)
    image = file.config.image
    facts = Table.grid(padding=(0, 2))
    for key, value in (
        ("baked model", f"{file.path} (SHA-256 right)"),
        ("model", file.config.name),
        ("made", ", ".join(f"{name} {number}" for name, number in dict(versions).items())),
        ("of", f"the bundle {file.metadata.get('glip.bundle', '')}"),
        ("precision", file.precision),
        ("MB", megabytes(file.path.stat().st_size)),
        ("inputs", ", ".join(f"{tensor.name} {tensor.dtype} {_axes(tensor.axes)}" for tensor in spec.inputs)),
        ("outputs", ", ".join(f"{tensor.name} {tensor.dtype} {_axes(tensor.axes)}" for tensor in spec.outputs)),
        ("input size", f"{size}; pictures are resized to {image.min_size}/{image.max_size}"),
        ("names", f"{len(file.names)}: {', '.join(file.names)}"),
    ):
        facts.add_row(Text(key, style="bold"), Text(str(value)))
    console.print(facts)
    if json is not None:
        atomic_write_text(json, json_module.dumps(metadata, indent=2) + "\n")
        console.print(f"Wrote {json}", soft_wrap=True)


def _axes(axes: tuple[str | int, ...]) -> str:
    return f"({', '.join(map(str, axes))})"


def _value(text: str) -> object:
    """What stands in the metadata as JSON; other text as it is."""
    try:
        return json_module.loads(text)
    except ValueError:
        return text
