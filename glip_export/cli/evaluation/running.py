"""A data set through one backend or several, each resumable in a folder of its own; then tables and JSON."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import typer
from rich.text import Text

from glip_export.cli.console import console
from glip_export.cli.options import bundle_or_newest
from glip_export.cli.outputs import bundle_files, check_outputs
from glip_export.errors import GlipExportError

if TYPE_CHECKING:
    from rich.table import Table

    from glip_export.bundle import Bundle
    from glip_export.config import GlipConfig
    from glip_export.evaluation import Journal
    from glip_export.evaluation.odinw.report import OdinwReport
    from glip_export.evaluation.openers import BundleOpener
    from glip_export.evaluation.report import Report, Result
    from glip_export.labelling.cluster.settings import Cluster
    from glip_export.runtime.detector import Detector

JOURNAL = "progress.jsonl"
SCORING = ("images", "annotations", "detections", "limit", "strict", "json")  # options that scoring has too
R = TypeVar("R", bound="Result")


@dataclass(frozen=True)
class Backends:
    """The backends of a bundle that are asked for, and how they run."""

    bundle: Path
    words: tuple[str, ...]
    threads: int | None = None
    weights: str | None = None
    workers: int | Cluster = 1  # processes, or Ray's
    _kept: list[tuple[str, Detector]] = field(default_factory=list)  # the one that was opened last

    @classmethod
    def of(
        cls,
        bundle: Path | None,
        words: Sequence[str] | None,
        threads: int | None,
        weights: str | None,
        workers: int,
        ray: str | None = None,
        gpus_per_worker: float = 0,
    ) -> Backends:
        """What the options say: the newest bundle and ONNX Runtime by default; on Ray one thread a worker.

        Raises BundleError without a bundle, GlipExportError for options that exclude each other.
        """
        from glip_export.labelling.cluster.settings import Cluster

        once = tuple(dict.fromkeys(words or ("onnxruntime",)))
        if ray is None:
            if gpus_per_worker:
                raise GlipExportError("--gpus-per-worker is for --ray; here --backend alone says what runs")
            return cls(bundle_or_newest(bundle), once, threads, weights, workers)
        if workers != 1:
            raise GlipExportError("--workers are processes of this machine, and --ray has a cluster's: leave one out")
        cluster = Cluster(ray, threads_per_worker=threads or 1, gpus_per_worker=gpus_per_worker)
        return cls(bundle_or_newest(bundle), once, threads or 1, weights, cluster)

    def opener(self, backend: str, config: GlipConfig) -> Callable[[], Detector]:
        """What opens a backend, with a configuration in place of the bundle's; for worker processes, where asked."""
        if self.workers == 1:
            return partial(self._open, backend, config)
        return self._bundle_opener(backend, config)

    def check(self, config: GlipConfig, outputs: Collection[Path]) -> None:
        """Opens each backend that has not begun everywhere, lest one fail hours later; outputs: the data sets'.

        Not for a cluster: this machine may lack what its workers have.
        """
        if not isinstance(self.workers, int):
            return
        for backend in self.words:
            if not all((output / backend_folder(backend) / JOURNAL).exists() for output in outputs):
                self.opener(backend, config)()

    def _open(self, backend: str, config: GlipConfig) -> Detector:
        known = dict(self._kept).get(backend)
        if known is None:
            self._kept.clear()  # its memory is for the next one
            known = self._bundle_opener(backend, config)()
            self._kept.append((backend, known))
        return known.reconfigured(config)

    def _bundle_opener(self, backend: str, config: GlipConfig) -> BundleOpener:
        from glip_export.evaluation.openers import BundleOpener

        return BundleOpener(self.bundle, backend, config, self.threads, self.weights)


@dataclass(frozen=True)
class DataSet(Generic[R]):
    """A data set as its verb has read it: how it is evaluated and what is kept."""

    name: str  # beside the backend's at the bar; "" where there is one data set only
    pictures: int
    identity: Mapping[str, Any]  # what tells the question from others, the backend apart
    config: GlipConfig
    kept: str  # the file that detections are kept in
    evaluate: Callable[[Callable[[], Detector], Journal, Callable[[int], None]], R]  # detector, journal, progress
    write: Callable[[Path, R], None]  # the detections


def backend_folder(backend: str) -> str:
    """The name of a backend's folder: a colon cannot stand in one on Windows."""
    return backend.replace(":", "-")


def check_written(
    backends: Backends, kept: Mapping[Path, str], json: Path | None, read: Iterable[Path | str | None]
) -> None:
    """Raises GlipExportError where a file that is written is one that is read; kept: by the data set's output folder.

    read: beside the bundle's files.
    """
    from glip_export.evaluation.journal import journal_files
    from glip_export.evaluation.left_out import LEFT_OUT

    written = [path.name for path in journal_files(Path(JOURNAL))]
    places = {
        f"--output's {name} of {word}{f' in {output}' if len(kept) > 1 else ''}": output / backend_folder(word) / name
        for output, file in kept.items()
        for word in backends.words
        for name in (file, LEFT_OUT, *written)
    }
    check_outputs({"--json": json, **places}, [*bundle_files(backends.bundle), *read])


def evaluate_on(backends: Backends, backend: str, data_set: DataSet[R], output: Path) -> R:
    """The data set through one of the backends, with a bar; its detections and journal go to `output`/<backend>/."""
    from glip_export.cli.progress import pictures_progress, progress_bar

    folder = output / backend_folder(backend)
    asked = {"backend": backend, "threads": backends.threads, **data_set.identity}
    with pictures_progress() as progress:
        tell = progress_bar(progress, " ".join(filter(None, (data_set.name, backend))), data_set.pictures)
        return _evaluate(backends.opener(backend, data_set.config), data_set, asked, folder, tell)


class Presented(Protocol):
    """What is shown at the end."""

    @property
    def notes(self) -> tuple[str, ...]:
        """A line each."""
        ...

    def tables(self) -> Iterator[Table]:
        """What is printed first."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """For the JSON."""
        ...


def finish(report: Report[Any, Any], json: Path | None, written: Sequence[Path]) -> bool:
    """Prints the tables and notes, writes the JSON; False if a backend is too far from the first."""
    present(report, json, written)
    return verdict(report)


def present(report: Presented, json: Path | None, written: Sequence[Path]) -> None:
    """Prints the tables and notes, writes the JSON; written: what else was, to be named."""
    from glip_export.bundle.files import atomic_write_text
    from glip_export.evaluation.report import shown

    if json is not None:
        atomic_write_text(json, json_module.dumps(report.to_dict(), indent=1) + "\n")
    for table in report.tables():
        console.print(table)
    for note in report.notes:
        console.print(shown(note), soft_wrap=True)
    if names := [str(path) for path in (*written, json) if path is not None]:
        console.print(f"Wrote {', '.join(names)}", soft_wrap=True)


def verdict(report: Report[Any, Any]) -> bool:
    """Prints PASSED or FAILED where a limit was set; False if a backend is too far from the first."""
    from glip_export.evaluation.report import signed

    if report.max_difference is None:
        return True
    headline = report.titles[report.headline]
    if report.incomparable:
        console.print(f"FAILED: the {headline}s cannot be compared: {report.incomparable}", soft_wrap=True)
        return False
    others = [backend for backend in report.results if backend != report.first]
    found = ", ".join(f"{backend} {signed(report.differences(backend)[report.headline])}" for backend in others)
    return _judged(report.passed, f"{headline} against {report.first}'s: {found}", report.max_difference)


def verdict_of_all(report: OdinwReport) -> bool:
    """The same for data sets side by side: False if one's AP is too far from the first backend's."""
    if report.max_difference is None:
        return True
    for words in report.failed:
        console.print(f"  {words}", soft_wrap=True, markup=False)
    asked = len(report.tasks) + len(report.not_evaluated)
    found = f"{len(report.failed)} of {asked} data set(s)" if report.failed else "every data set"
    return _judged(not report.failed, f"AP against {report.backends[0]}'s: {found}", report.max_difference)


def facts(backends: Backends, bundle: Bundle, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What the JSON says of the question."""
    return {
        "bundle": str(backends.bundle),
        "model": bundle.config.name,
        "weights_sha256": bundle.weights.sha256,
        **identity,
    }


def check_only_scored(context: typer.Context, *own: str) -> None:
    """Raises GlipExportError where an option of detecting stands beside --detections.

    own: the verb's options that tell how detections are scored.
    """
    scoring = (*SCORING, *own)
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in scoring and source is not None and source.name != "DEFAULT":
            raise GlipExportError(
                f"--{name.replace('_', '-')} is for detecting: leave it out, or --detections, with which nothing is run"
            )


def folder_of(images: Path | None) -> Path:
    """The pictures' folder, which detecting needs. Raises GlipExportError."""
    if images is None:
        raise GlipExportError("give the pictures' folder with --images, or a file of detections with --detections")
    return images


def check_comparison(limit: float | None, option: str, backends: Sequence[str]) -> None:
    """Raises GlipExportError where there is nothing that could be compared."""
    if limit is not None and len(backends) < 2:
        raise GlipExportError(f"{option} compares backends: give --backend twice or more")


def _judged(passed: bool, words: str, limit: float) -> bool:
    word = Text("PASSED", "green") if passed else Text("FAILED", "red")
    console.print(word, f": {words} ({limit:g} allowed)", sep="", soft_wrap=True)
    return passed


def _evaluate(
    opener: Callable[[], Detector],
    data_set: DataSet[R],
    asked: Mapping[str, Any],
    folder: Path,
    tell: Callable[[int], None],
) -> R:
    """One backend; its journal and, once it is through, its detections go to `folder`."""
    from glip_export.evaluation import Journal
    from glip_export.evaluation.journal import left_out_of
    from glip_export.evaluation.left_out import write_left_out

    with Journal.open(folder / JOURNAL, asked) as journal:
        if journal.note:
            (folder / data_set.kept).unlink(missing_ok=True)
            write_left_out(folder / data_set.kept, [])
            words = (
                f"{folder} was of another evaluation ({journal.note}): started over, {JOURNAL}.old is what was there"
            )
            console.print(words, soft_wrap=True)
        result = data_set.evaluate(opener, journal, tell)
        left_out = left_out_of(journal)
    write_left_out(folder / data_set.kept, left_out)
    data_set.write(folder / data_set.kept, result)
    return result
