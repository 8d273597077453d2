"""The measurements as one JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from glip_export.bench.agreement import Agreement, agree
from glip_export.bench.job import PLAIN, Job
from glip_export.bench.machine import describe_machine
from glip_export.bench.matmul_peak import PRECISIONS
from glip_export.bench.measure import Measurement
from glip_export.bench.stages import summarize
from glip_export.bundle import BakedFile, Bundle
from glip_export.bundle.files import MANIFEST, sha256_file
from glip_export.graphs.contracts import BAKED, GRAPHS
from glip_export.processes import usable_cores

FLOP_A_GMAC = 2.0  # GFLOP


def make_report(
    job: Job,
    bundle: Bundle,
    measurements: Sequence[Measurement],
    work: Sequence[dict[str, float] | None] | None = None,
    peak: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """{"runs": one entry a backend, "machine", "bundle", "prompt", "date"}; the README of benchmarks/ has the fields.

    work: from `count_work`; peak: from `measure_peak`; without them what builds on them is null. The reference of the
    detections is torch as published, else the first backend. Images a second and ratios are taken from the medians.
    """
    reference = next((m for m in measurements if m.backend == PLAIN), measurements[0])
    entries = [
        _entry(job, bundle, measurement, graphs, peak or {}, reference)
        for measurement, graphs in zip(measurements, work or [None] * len(measurements), strict=True)
    ]
    plain = next((entry for entry in entries if entry["backend"] == PLAIN), None)
    for entry in entries:
        entry["speedup_vs_torch_plain"] = plain and plain["total"]["p50_ms"] / entry["total"]["p50_ms"]
    return {
        "runs": entries,
        "machine": {**describe_machine(), **_peaks(peak or {}), "threads": job.threads or usable_cores()},
        "bundle": describe_bundle(bundle),
        "prompt": job.caption(bundle.config.text.separator),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def describe_bundle(bundle: Bundle | BakedFile) -> dict[str, Any]:
    """For the report's JSON: what tells it from others, and the size of its graphs in MB (10^6)."""
    if isinstance(bundle, BakedFile):
        return {
            "name": bundle.config.name,
            "folder": bundle.path.name,
            "precision": bundle.precision,
            "graphs_mb": bundle.path.stat().st_size / 1e6,
            "sha256": bundle.sha256,
        }
    return {
        "name": bundle.config.name,
        "folder": bundle.path.resolve().name,
        "precision": bundle.precision,
        "graphs_mb": sum(graph.bytes for graph in bundle.graphs.values()) / 1e6,
        "manifest_sha256": sha256_file(bundle.path / MANIFEST),
        "weights_sha256": bundle.weights.sha256,
    }


def _entry(
    job: Job,
    bundle: Bundle,
    measurement: Measurement,
    graphs: dict[str, float] | None,
    peak: dict[str, Any],
    reference: Measurement,
) -> dict[str, Any]:
    found = measurement.outcome["sizes"]
    baked = any(item["graph"] == BAKED.name for item in found)  # which knows its tokens alone
    sizes = [item for item in (reference.outcome["sizes"] if baked else found) if item["graph"] == "fusion_head"]
    totals = [run["total_ms"] for run in measurement.runs]
    total = summarize(totals)
    gmac = sum(graphs.values()) / job.batch if graphs is not None else measurement.gmac_per_image
    speed = _speed(measurement.precision, peak)
    return {
        "backend": measurement.backend,
        "precision": measurement.precision,
        "batch": job.batch,
        "image_size": f"{job.image_size[0]}x{job.image_size[1]}",
        "tokens": max(item["tokens"] for item in sizes),  # of the longest caption
        "classes": len(job.names),
        "prompts_per_image": job.prompts_per_image,
        "cached_text": job.cached_text,
        "threads": job.threads or usable_cores(),
        "rounds": len(totals),
        "stages": {name: _stage(measurement, name, graphs, speed) for name in measurement.runs[-1]["stages"]},
        "total": total,
        "samples_ms": [round(value, 3) for value in totals],
        "images_per_second": 1000 * job.batch / total["p50_ms"],
        "gmac_per_image": gmac,
        "share_of_peak": _share(None if gmac is None else gmac * job.batch, total["p50_ms"], speed),
        "peak_rss_mb": measurement.outcome["peak_rss_mb"],
        "load_peak_rss_mb": measurement.outcome["load_peak_rss_mb"],
        "load_s": measurement.load_s,
        **_differences(measurement, reference, bundle),
    }


def _stage(measurement: Measurement, name: str, graphs: dict[str, float] | None, speed: float | None) -> dict[str, Any]:
    """Its times, its calls a run, and for a graph the multiply-adds of one run and the share of peak they ran at."""
    times = summarize([run["stages"][name] for run in measurement.runs])
    entry: dict[str, Any] = {**times, "calls": measurement.runs[-1]["calls"][name]}
    if name in (*GRAPHS, BAKED.name):
        gmac = None if graphs is None else graphs.get(name)
        entry |= {"gmac": gmac, "share_of_peak": _share(gmac, times["p50_ms"], speed)}
    return entry


def _speed(precision: str, peak: dict[str, Any]) -> float | None:
    """The peak that a precision is held to; where bf16 is slower than fp32, as on Xeons without AMX, fp32's."""
    usable = (precision, "fp32") if precision == "bf16" else (precision,)
    return max((peak[name] for name in usable if peak.get(name)), default=None)


def _share(gmac: float | None, milliseconds: float, speed: float | None) -> float | None:
    """The multiply-adds of some milliseconds as a share of what `speed` (GFLOP/s) would do in them."""
    if gmac is None or speed is None or milliseconds <= 0 or gmac == 0:
        return None
    return FLOP_A_GMAC * gmac / (milliseconds / 1000) / speed


def _differences(measurement: Measurement, reference: Measurement, bundle: Bundle) -> dict[str, Any]:
    if measurement is reference:
        found: Agreement | None = None
    else:
        found = agree(
            reference.outcome["detections"],
            measurement.outcome["detections"],
            measurement.precision,
            bundle.config.detection.nms_threshold,
        )
    return {
        "max_box_diff_px": found and found.max_box_diff_px,
        "max_score_diff": found and found.max_score_diff,
        "agreement": found
        and {
            "reference": reference.backend,
            "paired": found.paired,
            "real_differences": found.real,
            "clear_detections": found.clear,
            "clear_found": found.found,
            "compared_anything": found.compared,
            "within_tolerance": found.within,
        },
    }


def _peaks(peak: dict[str, Any]) -> dict[str, Any]:
    return {
        "peak_gflops": {precision: peak.get(precision) for precision in PRECISIONS},
        "peak_measured_with": {precision: peak.get(f"{precision}_by") for precision in PRECISIONS},
        "peak_not_measured": dict(peak.get("not_measured", {})),  # precision -> why
    }
