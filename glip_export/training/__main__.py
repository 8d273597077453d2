"""python -m glip_export.training: scenes, pretrain, train and evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glip_export.cli.console import run_app
from glip_export.errors import GlipExportError

app = typer.Typer(
    name="glip_export.training",
    help="Train a small GLIP on generated scenes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path, typer.Option(help="The model and its training: a YAML of official keys.")]
BertConfig = Annotated[Path, typer.Option(help="Sizes of its BERT: a transformers config.json.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Products in bfloat16: faster on CPUs that have it.")]
CONFIG, BERT = Path("demo/glip_demo.yaml"), Path("demo/bert_config.json")


@app.command()
def scenes(
    output: Annotated[Path, typer.Argument(help="Folder to write to; one folder a set in it.")],
    train: Annotated[int, typer.Option(min=0, help="Scenes to train on.")] = 12000,
    mosaics: Annotated[int, typer.Option(min=0, help="Pictures full of objects, for `pretrain`.")] = 5000,
    val: Annotated[int, typer.Option(min=0, help="Held-out scenes.")] = 500,
    phrases: Annotated[int, typer.Option(min=0, help="Scenes of seen and of unseen phrases, each.")] = 300,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Write the scenes: mosaics, train, val, seen_phrases, unseen_phrases, each a COCO data set."""
    from glip_export.cli.console import console
    from glip_export.training.scenes import scene_sets, write_scenes

    counts = {"mosaics": mosaics, "val": val, "seen_phrases": phrases, "unseen_phrases": phrases, "train": train}
    sets = scene_sets()
    for name, count in counts.items():
        if count:
            console.print(f"{count} scenes in {write_scenes(sets[name], count, output / name, workers)}")


@app.command(context_settings={"ignore_unknown_options": True})
def pretrain(
    scenes: Annotated[Path, typer.Option(help="What `scenes` wrote.")],
    output: Annotated[Path, typer.Option(help="File for the backbone's weights.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps.")] = 4000,
    start: Annotated[Path | None, typer.Option(help="What an earlier `pretrain` wrote, to go on from.")] = None,
    bf16: Bf16 = False,
    config: Config = CONFIG,
    bert_config: BertConfig = BERT,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    overrides: Annotated[list[str] | None, typer.Argument(help="KEY VALUE pairs.")] = None,
) -> None:
    """Teach Swin and FPN to tell objects apart, to start `train` from."""
    import torch

    from glip_export.config import load_config
    from glip_export.training.pretrain import pretrain as run
    from glip_export.training.settings import load_settings

    torch.set_num_threads(threads)
    pairs = overrides or []
    settings = load_settings(config, pairs)
    run(load_config(config, pairs, bert_config), settings, scenes / "mosaics", steps, output, start, bf16)


@app.command(context_settings={"ignore_unknown_options": True})
def train(
    scenes: Annotated[Path, typer.Option(help="What `scenes` wrote.")],
    output: Annotated[Path, typer.Option(help="The run's folder; continued if it holds a run.")],
    config: Config = CONFIG,
    bert_config: BertConfig = BERT,
    backbone: Annotated[Path | None, typer.Option(help="What `pretrain` wrote, to start from.")] = None,
    until: Annotated[int | None, typer.Option(min=1, help="Stop at this step, to go on later.")] = None,
    bf16: Bf16 = False,
    soft_tokens: Annotated[float, typer.Option(min=0, help="Weight of MDETR's soft token loss, beside GLIP's.")] = 0.0,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps between measurements of AP.")] = 500,
    evaluate_pictures: Annotated[int, typer.Option(min=1, help="Held-out scenes for it.")] = 100,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    overrides: Annotated[list[str] | None, typer.Argument(help="KEY VALUE pairs.")] = None,
) -> None:
    """Train, or go on training; Ctrl-C saves and stops."""
    import torch

    from glip_export.config import load_config
    from glip_export.training.pretrain import load_backbone
    from glip_export.training.run import train as run
    from glip_export.training.settings import load_settings
    from glip_export.training.trainer import Trainer

    torch.set_num_threads(threads)
    pairs = overrides or []
    trainer = Trainer(load_config(config, pairs, bert_config), load_settings(config, pairs), bf16, soft_tokens)
    if backbone is not None:
        load_backbone(trainer.model, backbone)
    run(trainer, scenes / "train", output, until, scenes / "val", evaluate_every, evaluate_pictures, scenes / "mosaics")


@app.command()
def evaluate(
    weights: Annotated[Path, typer.Option(help="The .safetensors of a run.")],
    scenes: Annotated[Path, typer.Option(help="What `scenes` wrote.")],
    config: Config = CONFIG,
    bert_config: BertConfig = BERT,
    pictures: Annotated[int | None, typer.Option(min=1, help="The first so many of each set; else all.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Average precision on the held-out scenes, and on phrases that training saw and did not see."""
    import torch

    from glip_export.cli.console import console
    from glip_export.model.glip import load_model
    from glip_export.training.precision import average_precision

    torch.set_num_threads(threads)
    model = load_model(weights, config, bert_config=bert_config)
    model.fusion_head.fold()
    found = False
    for name in ("val", "seen_phrases", "unseen_phrases"):
        if (scenes / name / "annotations.json").is_file():
            found = True
            values = average_precision(model, scenes / name, pictures)
            console.print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in values.items()))
    if not found:
        raise GlipExportError(f"{scenes}: holds no scenes; write them with the command scenes")


if __name__ == "__main__":
    run_app(app, "glip_export.training")
