"""The options that several commands share, and how their words are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from glip_export.errors import GlipExportError


class Verb(TyperCommand):
    """A command whose options with one value are given once: the last one would win without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click does; raises GlipExportError for an option given again that is not repeatable."""
        if not ctx.resilient_parsing:  # completion
            _, _, given = self.make_parser(ctx).parse_args(list(args))
            for option in given:
                if isinstance(option, TyperOption) and _takes_one(option) and given.count(option) > 1:
                    raise GlipExportError(f"give {option.opts[0]} once{_ADVICE.get(option.name or '', '')}")
        return super().parse_args(ctx, args)


BACKEND_WORDS = "torch, onnxruntime, openvino, openvino:bf16"

BundleArgument = Annotated[
    Path | None, typer.Argument(help="The bundle's folder; by default the newest under engines/.", show_default=False)
]
BundleOption = Annotated[
    Path | None, typer.Option(help="The bundle's folder; by default the newest under engines/.", show_default=False)
]
Backends = Annotated[
    list[str] | None, typer.Option("--backend", help=f"{BACKEND_WORDS}; repeat for several.", show_default=False)
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads; by default all cores that this process may use.", show_default=False),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the result here as JSON.", dir_okay=False, show_default=False)
]
WeightsAgain = Annotated[
    str | None,
    typer.Option(help="The checkpoint, if it is no longer where the bundle was made.", show_default=False),
]

PromptOption = Annotated[
    str | None,
    typer.Option(help='What to look for, names with stops between: "cat. remote control".', show_default=False),
]
NamesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="What to look for, in place of --prompt: a text file with a name a line (a stop may stand in one), or "
        "a .json or .yaml with a list of names and {prefix, name, suffix}.",
        show_default=False,
    ),
]
Chunk = Annotated[
    int | None, typer.Option(min=1, help="Names a caption; by default as many as fit.", show_default=False)
]
ClassAgnosticNms = Annotated[
    bool, typer.Option("--class-agnostic-nms", help="Of boxes that overlap keep the best, whatever their names.")
]
GpuPreprocess = Annotated[
    bool,
    typer.Option(
        "--gpu-preprocess", help="Normalise and pad pictures on the GPU, to the same bits; a quarter is copied there."
    ),
]
AUTO_HELP = "or auto for the fastest that is exact (auto:bf16: that may be bf16)"
Backend = Annotated[str, typer.Option(help=f"{BACKEND_WORDS}, {AUTO_HELP}.")]

_ADVICE = {"prompt": ': names are separated by stops, "cat. dog"', "names": ": names are separated by stops"}


def bundle_or_newest(path: Path | None) -> Path:
    """The folder that was named, or the newest bundle under engines/; raises BundleError if there is none."""
    from glip_export.bundle import newest_bundle

    return path or newest_bundle()


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """ "800x1216" as (height, width) in pixels; raises GlipExportError for anything else but None."""
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise GlipExportError(f"--image-size is HEIGHTxWIDTH, such as 800x1216, not {text!r}")
    return int(height), int(width)


def _takes_one(option: TyperOption) -> bool:
    return not (option.multiple or option.is_flag or option.count)
