"""glip-bench: how fast a bundle runs on this machine. Heavy imports stay inside, so that --help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glip_export.cli.console import run_app
from glip_export.cli.options import Verb, bundle_or_newest, parse_image_size
from glip_export.cli.outputs import bundle_files, check_outputs
from glip_export.errors import GlipExportError

if TYPE_CHECKING:
    from glip_export.names import Name

DEFAULT_PROMPT = "cat. coffee cup. astronaut. rocket"  # what is on the packaged photos

app = typer.Typer(
    name="glip-bench",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.command(cls=Verb)
def bench(
    bundle: Annotated[
        list[Path] | None,
        typer.Option(
            help="The bundle's folder; by default the newest under engines/. Repeat for others, such as the int8 one, "
            "whose rows then run in turn with the first's.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures a run, padded together.")] = 1,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="A backend as in glip-export detect, such as onnxruntime or openvino:bf16; repeat for several, which "
            "then run in turn. torch is the reference as published (256 tokens), torch:trimmed the same on the "
            "prompt's own. By default all that work here but torch, which takes minutes.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help=f'Names with stops between; by default "{DEFAULT_PROMPT}".', show_default=False),
    ] = None,
    coco_prompt: Annotated[bool, typer.Option("--coco-prompt", help="COCO's 80 names, 194 tokens.")] = False,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            help="For long prompts: a text file with a name a line, or .json or .yaml with a list of names.",
            show_default=False,
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="The padded network input, multiples of 32; by default what GLIP makes of a 640x427 photo: 800x1216.",
            show_default=False,
        ),
    ] = None,
    prompts_per_image: Annotated[
        int, typer.Option(min=1, help="Prompts on each picture, which is encoded once for all of them.")
    ] = 1,
    cached_text: Annotated[
        bool, typer.Option("--cached-text", help="The repeated-prompt case: text features come from the cache.")
    ] = False,
    gpu_preprocess: Annotated[
        bool,
        typer.Option(
            "--gpu-preprocess", help="Where the backend is on a GPU, prepare pictures there: part of vision_backbone."
        ),
    ] = False,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each backend.")] = 10,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before those, not timed.")] = 2,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; by default all cores.", show_default=False)
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="For torch: the checkpoint, if it is no longer where it was.", show_default=False),
    ] = None,
    cost: Annotated[
        bool, typer.Option(help="Count multiply-adds and measure the machine's peak: half a minute more.")
    ] = True,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write everything here as JSON.", dir_okay=False, show_default=False)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Write a PNG here: the stages of each backend, stacked.", dir_okay=False, show_default=False),
    ] = None,
) -> None:
    """Time a bundle stage by stage on one backend or several, and compare what they detect.

    Pictures are packaged photos, given as arrays: reading files is not timed. Every run starts with a cold text cache
    unless --cached-text. Each backend has a process of its own; several run in turn, A B A B.

    Example: glip-bench --backend torch --backend onnxruntime --coco-prompt --plot bench.png
    Or: glip-bench --bundle engines/glip --bundle engines/glip-int8 --backend openvino
    """
    from glip_export.bench.command import run

    paths = bundle or [bundle_or_newest(None)]
    read = [file for path in paths for file in bundle_files(path)]
    check_outputs({"--json": json, "--plot": plot}, [prompt_file, weights, *read])
    run(
        paths,
        tuple(dict.fromkeys(backend or _all_backends(paths[0]))),
        _names(prompt, coco_prompt, prompt_file),
        parse_image_size(image_size),
        batch=batch,
        prompts_per_image=prompts_per_image,
        cached_text=cached_text,
        gpu_preprocess=gpu_preprocess,
        runs=runs,
        warmup=warmup,
        threads=threads,
        weights=weights,
        cost=cost,
        json=json,
        plot=plot,
    )


def main() -> None:
    """The entry point."""
    run_app(app, "glip-bench")


def _all_backends(bundle: Path) -> list[str]:
    from glip_export.bench.job import PLAIN
    from glip_export.bundle import Bundle
    from glip_export.runtime.backends import available_backends

    return [word for word in available_backends(Bundle.open(bundle, verify=False)) if word != PLAIN]


def _names(prompt: str | None, coco: bool, file: Path | None) -> tuple[Name, ...]:
    if (prompt is not None) + coco + (file is not None) > 1:
        raise GlipExportError("give one of --prompt, --coco-prompt and --prompt-file")
    from glip_export.hints import Hinter
    from glip_export.names import read_names_file
    from glip_export.prompt import Prompt

    if coco:
        from glip_export.parity.cases import COCO

        return Prompt.of(COCO).names
    if file is None:
        asked = Prompt.of(DEFAULT_PROMPT if prompt is None else prompt)
    else:
        asked = Prompt.of(read_names_file(file, "--prompt-file"))
    Hinter().tell(asked)  # here: what workers write is not shown
    return asked.names if asked.words is None else tuple(entry._asdict() for entry in asked.words)


if __name__ == "__main__":
    main()
