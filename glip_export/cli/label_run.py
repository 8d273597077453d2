"""What `glip-export label` does: checks what was asked, labels, makes the data sets, and tells what came of it."""

from __future__ import annotations

import json as json_module
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

from glip_export.bundle.files import atomic_write_text
from glip_export.cli.console import console, tell
from glip_export.cli.detect_prompt import read_prompt
from glip_export.cli.options import bundle_or_newest
from glip_export.cli.outputs import bundle_files
from glip_export.errors import GlipExportError, visible

if TYPE_CHECKING:
    from rich.progress import Progress

    from glip_export.labelling.formats.conversion import Conversion
    from glip_export.labelling.run import Answers, Plan, Ran
    from glip_export.labelling.sources import Source
    from glip_export.labelling.thresholds import Thresholds
    from glip_export.labelling.worker import Opening
    from glip_export.prompt import Prompt

MOST_SHOWN = 6  # files that are named at the end


@dataclass(frozen=True)
class Asked:
    """The command's options, see `label`."""

    source: str
    output: Path
    prompt: str | None
    names: Path | None
    formats: tuple[str, ...]
    bundle: Path | None
    backend: str
    threshold: float
    thresholds: Path | None
    val: float
    pictures: Literal["link", "copy", "none"]
    column: str | None
    workers: int | None
    ray: str | None
    gpus_per_worker: float
    threads: int | None
    chunk: int | None
    class_agnostic_nms: bool
    gpu_preprocess: bool
    shard_size: int
    retry_errors: bool
    strict: bool
    weights: str | None
    html: Path | None
    json: Path | None


def run(asked: Asked) -> None:
    """Everything, from the options to the table at the end."""
    from glip_export.cli.label_files import check_files, check_source
    from glip_export.labelling.formats.conversion import Conversion
    from glip_export.labelling.run import BLOCK, RAY_BLOCK, Plan
    from glip_export.labelling.sources import open_source
    from glip_export.labelling.worker import Opening

    if (asked.prompt is None) == (asked.names is None):
        raise GlipExportError("give what to look for: one of --prompt and --names")
    prompt = read_prompt(asked.prompt, asked.names).prompt
    bundle = bundle_or_newest(asked.bundle).resolve()
    thresholds = _thresholds(asked, prompt)
    read = [*bundle_files(bundle), asked.names, asked.thresholds, asked.weights]
    check_files(asked.source, asked.output, {"--html": asked.html, "--json": asked.json}, read)
    source = open_source(asked.source, column=asked.column, left_out=asked.output)
    check_source(source, asked.output)
    about_source = source.describe()
    if left := about_source.get("not_carried"):
        tell(f"glip-export: warning: columns that are not carried along: {visible(', '.join(left))}")
    opening = Opening(
        bundle=str(bundle),
        backend=asked.backend,
        prompt=prompt,
        floor=thresholds.floor,
        threads=asked.threads or (1 if asked.ray else None),
        weights=asked.weights,
        chunk=asked.chunk,
        class_agnostic_nms=asked.class_agnostic_nms,
        gpu_preprocess=asked.gpu_preprocess,
    )
    question = _question(asked, opening)
    block = BLOCK if asked.ray is None else RAY_BLOCK
    plan = Plan(source, asked.output, asked.shard_size, block, asked.retry_errors)
    started = time.perf_counter()
    with _terminable():
        ran = _label(asked, plan, question, opening)
    seconds = time.perf_counter() - started
    conversion = Conversion(asked.output, prompt.names, thresholds, asked.val, asked.pictures, question)
    _finish(asked, conversion, about_source, ran, seconds)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, with which cluster managers end a job, ends the workers in order as Ctrl-C does: exit code 143."""

    def end(*_: object) -> None:
        tell("glip-export: terminated; the same command goes on")
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _label(asked: Asked, plan: Plan, question: dict[str, Any], opening: Opening) -> Ran:
    from glip_export.cli.progress import pictures_progress, progress_bar
    from glip_export.labelling.run import label

    with pictures_progress(transient=True) as progress:
        bar = progress_bar(progress, "labelling", None)
        Thread(target=_count, args=(progress, plan.source), daemon=True).start()  # a walk of a large folder takes time
        ran = label(plan, question, _answers(asked, opening), strict=asked.strict, progress=bar)
    for hint in ran.hints:
        tell(f"glip-export: warning: {hint}")
    return ran


def _count(progress: Progress, source: Source) -> None:
    """Tells the bar how many pictures there are, once that is known."""
    with suppress(GlipExportError, OSError):  # which the run tells
        progress.update(progress.task_ids[0], total=source.count())


def _answers(asked: Asked, opening: Opening) -> Answers:
    """What answers blocks: worker processes here, or Ray's."""
    if asked.ray is None:
        from glip_export.labelling.local import answers

        if asked.gpus_per_worker:
            raise GlipExportError("--gpus-per-worker is for --ray; here --backend alone says what runs")
        return lambda blocks: answers(blocks(), opening, asked.workers or 1)
    from glip_export.labelling.cluster.label import label_on
    from glip_export.labelling.cluster.settings import Cluster

    cluster = Cluster(asked.ray, asked.workers, opening.threads or 1, asked.gpus_per_worker)
    return lambda blocks: label_on(cluster, blocks, opening)


def _finish(asked: Asked, conversion: Conversion, about_source: dict[str, Any], ran: Ran, seconds: float) -> None:
    """The data sets, the page, the summary; and what a person reads at the end."""
    from glip_export.cli.console import steps_progress
    from glip_export.labelling.formats.convert import convert
    from glip_export.labelling.formats.errors_file import write_errors
    from glip_export.labelling.sample import write_sample
    from glip_export.labelling.summary import Summary

    written: list[Path] = []
    with steps_progress(transient=True) as progress:
        step = progress.add_task("counting")
        summary = Summary.of(asked.output, conversion.names, conversion.thresholds, seconds, ran.answered)
        if summary.pictures != ran.pictures:
            words = f"{asked.output} has rows of {summary.pictures} pictures, and the source {ran.pictures}"
            raise GlipExportError(f"{words}: something else writes there; start again")
        if not summary.answered:
            errors = write_errors(asked.output)
            raise GlipExportError(f"none of the {summary.pictures} pictures could be used; why is in {errors}")
        for kind in asked.formats:
            progress.update(step, description=f"writing {kind}")
            written += convert(kind, conversion)
        if asked.html is not None:
            progress.update(step, description="drawing a sample")
            prompt, thresholds = ". ".join(conversion.names), conversion.thresholds
            caption = f"{Path(asked.source).name}, {summary.pictures} pictures, {asked.backend}"
            write_sample(asked.output, conversion.names, thresholds, asked.html, prompt, caption)
            written.append(asked.html)
    about = {**conversion.about, "pictures_from": about_source}
    written.append(summary.write(asked.output, about))
    if asked.json is not None:
        document = {**about, **summary.to_dict(), "written": [str(path) for path in dict.fromkeys(written)]}
        atomic_write_text(asked.json, json_module.dumps(document, indent=1) + "\n")
        written.append(asked.json)
    for table in (summary.table(), summary.errors_table()):
        if table is not None:
            console.print(table)
    for line in (*summary.lines(), f"Wrote {_shown(list(dict.fromkeys(written)))}"):
        console.print(visible(line), soft_wrap=True)


def _thresholds(asked: Asked, prompt: Prompt) -> Thresholds:
    from glip_export.labelling.thresholds import Thresholds

    if asked.thresholds is None:
        return Thresholds.same(asked.threshold, prompt.names)
    return Thresholds.from_file(asked.thresholds, prompt.names, asked.threshold)


def _question(asked: Asked, opening: Opening) -> dict[str, Any]:
    """What tells this run's answers from all others."""
    from glip_export import __version__
    from glip_export.bundle.files import MANIFEST, sha256_file
    from glip_export.labelling.question import FLOOR

    source = os.path.abspath(asked.source) if os.path.exists(asked.source) else asked.source
    return {
        "glip_export": __version__,
        "source": source,
        "column": asked.column,
        "bundle": opening.bundle,
        "manifest_sha256": sha256_file(Path(opening.bundle) / MANIFEST),
        "backend": opening.backend,
        "prompt": {key: value for key, value in asdict(opening.prompt).items() if value},
        "chunk": opening.chunk,
        "class_agnostic_nms": opening.class_agnostic_nms,
        "shard_size": asked.shard_size,
        FLOOR: opening.floor,
    }


def _shown(written: Sequence[Path]) -> str:
    names = [str(path) for path in written[:MOST_SHOWN]]
    return ", ".join(names) + (f" and {len(written) - MOST_SHOWN} more" if len(written) > MOST_SHOWN else "")
