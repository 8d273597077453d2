"""What glip-bench does once its words are read: measure, print, write."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path

from glip_export.bench.job import Job
from glip_export.bench.matmul_peak import fastest
from glip_export.bench.measure import count_work, measure, measure_peak
from glip_export.bench.pictures import check_size, default_size
from glip_export.bench.plot import load_pyplot, plot_stages
from glip_export.bench.report import describe_bundle, make_report
from glip_export.bench.rows import opener, rows_of
from glip_export.bench.table import costs_table, times_table
from glip_export.bundle import BakedFile, Bundle
from glip_export.bundle.baked_file import is_baked
from glip_export.bundle.files import atomic_write_text
from glip_export.cli.console import console, steps_progress
from glip_export.names import Name
from glip_export.processes import thread_count


def run(
    paths: Sequence[Path],
    backends: Sequence[str],
    names: tuple[Name, ...],
    image_size: tuple[int, int] | None,
    *,
    batch: int,
    prompts_per_image: int,
    cached_text: bool,
    gpu_preprocess: bool,
    runs: int,
    warmup: int,
    threads: int | None,
    weights: str | None,
    cost: bool,
    json: Path | None,
    plot: Path | None,
) -> None:
    """Measures the bundles in one run, prints two tables, writes the JSON and the plot.

    image_size: (H, W) of the padded input. The first bundle's model is the reference, and its graphs' multiply-adds are
    counted for all.
    """
    threads = threads and thread_count(threads)  # told here: what workers write is not shown
    rows = rows_of(paths, backends)
    bundle = Bundle.open(paths[0], verify=False)  # every worker checks the hashes when it opens one
    others = [BakedFile.open(path, False) if is_baked(path) else Bundle.open(path, verify=False) for path in paths[1:]]
    if plot is not None:
        load_pyplot()  # told before minutes of measuring, not after
    size = check_size(
        image_size or bundle.image_size or default_size(bundle.config.image), bundle.config.image, bundle.image_size
    )
    job = Job(str(paths[0]), names, size, batch, threads, weights, prompts_per_image, cached_text, gpu_preprocess)
    with steps_progress(transient=True) as progress:
        task = progress.add_task("starting")

        def tell(step: str) -> None:
            progress.update(task, description=step)

        peaks = []
        if cost:
            tell("measuring this machine's matrix-multiply peak")
            peaks.append(measure_peak(threads))
        measurements = measure(job, [row.label for row in rows], runs, warmup, cost, tell, opener(rows))
        work = None
        if cost:
            tell("measuring this machine's matrix-multiply peak again")
            peaks.append(measure_peak(threads))
            work = count_work(job, measurements, tell)
    report = make_report(job, bundle, measurements, work, fastest(*peaks) if peaks else None)
    report["bundles"] = [describe_bundle(one) for one in (bundle, *others)]
    if json is not None:
        atomic_write_text(json, json_module.dumps(report, indent=1) + "\n")
    console.print(times_table(report))
    console.print(costs_table(report))
    if json is not None:
        console.print(f"Wrote {json}", soft_wrap=True)
    if plot is not None:
        plot_stages(report, plot)
        console.print(f"Wrote {plot}", soft_wrap=True)
