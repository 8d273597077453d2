"""The training loop: steps, checkpoints, average precision now and then, a progress bar and a curve."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from glip_export.bundle.files import atomic_write_text
from glip_export.cli.console import console
from glip_export.training.batches import Batch, Example, read_examples, training_batch
from glip_export.training.curve import plot_curve
from glip_export.training.losses import Losses
from glip_export.training.precision import average_precision
from glip_export.training.trainer import CHECKPOINT, Trainer, export_weights

WEIGHTS = "weights.safetensors"


def train(
    trainer: Trainer,
    scenes: Path,
    folder: Path,
    until: int | None = None,
    evaluate_on: Path | None = None,
    evaluate_every: int = 500,
    evaluate_pictures: int = 100,
    mosaics: Path | None = None,
) -> None:
    """Trains to SOLVER.MAX_ITER (or step `until`), from folder/checkpoint.pt if there is one.

    scenes, mosaics: data sets, see `training_batch`.

    Writes to `folder` every SOLVER.CHECKPOINT_PERIOD steps: checkpoint.pt, weights.safetensors (averaged, official
    names), history.json and curve.png. Ctrl-C and SIGTERM save before they end it.
    """
    examples = read_examples(scenes)
    dense = () if mosaics is None else read_examples(mosaics)
    if (folder / CHECKPOINT).exists():
        trainer.resume(folder)
    last = min(trainer.settings.steps, until or trainer.settings.steps)
    started, first = time.monotonic(), trainer.step
    with _progress() as progress, _ended_by_sigterm():
        task = progress.add_task("training", total=last, completed=trainer.step, loss="")
        try:
            for batch in _batches(trainer, examples, dense, last):
                record = trainer.train_step(batch)
                progress.update(task, completed=trainer.step, loss=f"{record['loss']:.3f}")
                if evaluate_on is not None and (trainer.step % evaluate_every == 0 or trainer.step == last):
                    found = average_precision(trainer.averaged_model(), evaluate_on, evaluate_pictures)
                    record.update(found)
                    progress.console.print(f"step {trainer.step}: AP {found['AP']:.3f}, AP50 {found['AP50']:.3f}")
                if trainer.step % trainer.settings.checkpoint_period == 0:
                    save(trainer, folder)
                    rate = (trainer.step - first) / (time.monotonic() - started)
                    progress.console.print(_line(trainer, rate))
        finally:
            save(trainer, folder)


def save(trainer: Trainer, folder: Path) -> None:
    """Everything that a run leaves in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer.save(folder)
    export_weights(trainer.average, folder / WEIGHTS)
    atomic_write_text(folder / "history.json", json.dumps(trainer.history))
    if trainer.history:
        plot_curve(trainer.history, folder / "curve.png")


def _batches(trainer: Trainer, examples: Sequence[Example], mosaics: Sequence[Example], last: int) -> Iterator[Batch]:
    """The batches from the trainer's step on, each made while the one before it is learned."""
    with ThreadPoolExecutor(1) as pool:

        def prepare(step: int) -> Any:
            return pool.submit(training_batch, examples, step, trainer.config, trainer.settings, mosaics)

        following = prepare(trainer.step) if trainer.step < last else None
        for step in range(trainer.step, last):
            assert following is not None
            batch = following.result()
            following = prepare(step + 1) if step + 1 < last else None
            yield batch


def _line(trainer: Trainer, rate: float) -> str:
    recent = trainer.history[-trainer.settings.checkpoint_period :]
    means = {name: sum(record[name] for record in recent) / len(recent) for name in Losses._fields}
    words = ", ".join(f"{name} {mean:.4f}" for name, mean in means.items())
    return f"{time.strftime('%H:%M:%S')} step {trainer.step}: {words}; {rate:.2f} steps/s"


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM as Ctrl-C within the block."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
