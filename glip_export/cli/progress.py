"""Bars for work on many pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
)
from rich.text import Text

from glip_export.cli.console import Description, console


def pictures_progress(transient: bool = False) -> Progress:
    """Bars that tell pictures, pictures per second, and the time that is left; transient ones go at the end."""
    return Progress(
        Description(),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
    )


def progress_bar(progress: Progress, name: str, total: int | None) -> Callable[[int], None]:
    """A new bar, as the `progress` of `evaluate_coco`."""
    task = progress.add_task(name, total=total)
    begun = False

    def tell(done: int) -> None:
        nonlocal begun
        if begun:
            progress.update(task, completed=done)
        else:  # what a journal held is no measure of speed
            progress.reset(task, completed=done)
        begun = True

    return tell


@contextmanager
def reading(path: Path) -> Iterator[Callable[[int], None]]:
    """A bar for reading a large file; the function is told the bytes read so far."""
    with Progress(
        Description(), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task(f"reading {path.name}", total=path.stat().st_size if path.is_file() else None)
        yield lambda done: progress.update(task, completed=done)


class _Speed(ProgressColumn):
    """Pictures per second of this run."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2f} pictures/s")
