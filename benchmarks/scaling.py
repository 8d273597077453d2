"""How cost grows with the prompt's tokens, the picture's size, the batch and the number of prompts on one picture.

python benchmarks/scaling.py --bundle engines/glip_tiny --backend onnxruntime --backend openvino

On 2 idle cores: an estimated 25 minutes a backend, a third of it with --runs 1 --no-cost. --bundle given again adds
the rows of another bundle, such as the int8 one. Stopped and started again it goes on where it was. --only tokens does
one series, --point 10 only those values.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glip_bench import default_output, measure, repeated, where

from glip_export.bench.plot import COLOURS, load_pyplot, save
from glip_export.prompt import Prompt, tokenizer

SIZE = "800x1216"
TOKENS = (4, 8, 16, 32, 64, 128, 194, 256)
SIDES = (320, 480, 640, 800, 1088, 1344)
BATCHES = (1, 2, 4, 8)
PROMPTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Series:
    """One figure: glip-bench's words for each point."""

    name: str
    label: str  # of the horizontal axis
    points: dict[int, list[str]]


def main() -> None:
    """Measures what is missing, then draws one PNG a series."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", help="repeat for others, such as the int8 one; by "
                        "default the newest under engines/")  # fmt: skip
    parser.add_argument("--point", type=int, action="append", help="only these of each series' values")
    parser.add_argument("--weights", help="the checkpoint, if it is no longer where it was")
    parser.add_argument("--backend", action="append", help="repeat for several; by default onnxruntime")
    parser.add_argument("--threads", type=int, help="by default all cores")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each point")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--no-cost", action="store_true", help="count no multiply-adds")
    parser.add_argument("--image-size", default=SIZE, help="of every series but `size`")
    parser.add_argument("--only", choices=("tokens", "size", "batch", "prompts"), help="one series alone")
    parser.add_argument("--output", type=Path, default=default_output(), help="by default benchmarks/results/<today>")
    given = parser.parse_args()
    folder = given.output / "scaling"
    folder.mkdir(parents=True, exist_ok=True)
    common = [
        *repeated("--bundle", list(map(str, given.bundle or []))),
        *where(None, given.weights, given.threads),
        *repeated("--backend", given.backend or ["onnxruntime"]),
        *("--runs", str(given.runs), "--warmup", str(given.warmup)),
        *(["--no-cost"] if given.no_cost else []),
    ]
    for series in all_series(given.image_size):
        if given.only in (None, series.name):
            reports = {
                value: measure(folder / f"{series.name}-{value:04d}.json", [*common, *words])
                for value, words in series.points.items()
                if not given.point or value in given.point
            }
            if not reports:
                continue
            target = folder / f"{series.name}.png"
            plot_series(series, reports, target)
            print(f"Wrote {target}")


def all_series(size: str) -> Iterator[Series]:
    """The four figures; a point's words beyond those that all share."""
    fixed = ["--image-size", size]
    yield Series("tokens", "tokens T of the prompt", {t: [*fixed, "--prompt", ". ".join(names_of(t))] for t in TOKENS})
    yield Series("size", "side of a square picture, pixels", {s: ["--image-size", f"{s}x{s}"] for s in SIDES})
    yield Series("batch", "pictures a batch", {b: [*fixed, "--batch", str(b)] for b in BATCHES})
    yield Series(
        "prompts",
        "prompts on one picture",
        {n: [*fixed, "--prompts-per-image", str(n), "--no-cost"] for n in PROMPTS},
    )


def names_of(tokens: int) -> list[str]:
    """Names whose caption takes exactly `tokens` tokens: single words, the last of two if the number is even.

    n words take [CLS], n tokens, n - 1 stops and [SEP]: 2 n + 1.
    """
    vocabulary = sorted(tokenizer().get_vocab().items(), key=lambda item: item[1])
    words = [word for word, _ in vocabulary if word.isascii() and word.isalpha() and len(word) > 4]
    count = (tokens - 1) // 2
    names = words[:count]
    if tokens % 2 == 0:
        names[-1] += f" {words[count]}"
    (chunk,) = Prompt.of(names).chunks(max_query_len=max(tokens, 256))
    assert len(chunk.input_ids) == tokens
    return names


def plot_series(series: Series, reports: dict[int, dict[str, Any]], target: Path) -> None:
    """One panel a backend: the stages' median times stacked over the series' values, the total labelled in seconds."""
    pyplot = load_pyplot()
    backends = [run["backend"] for run in next(iter(reports.values()))["runs"]]
    figure, panels = pyplot.subplots(
        1, len(backends), figsize=(1 + 5 * len(backends), 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for index, (axes, backend) in enumerate(zip(panels[0], backends, strict=True)):
        runs = [report["runs"][index] for report in reports.values()]
        bottom = [0.0] * len(runs)
        for stage in COLOURS:
            if stage not in runs[0]["stages"]:
                continue
            seconds = [run["stages"][stage]["p50_ms"] / 1000 for run in runs]
            axes.bar(range(len(runs)), seconds, bottom=bottom, color=COLOURS[stage], label=stage.replace("_", " "))
            bottom = [low + high for low, high in zip(bottom, seconds, strict=True)]
        for place, height in enumerate(bottom):
            axes.text(place, height, f"{height:.2f}", ha="center", va="bottom", fontsize=8)
        axes.set_xticks(range(len(runs)), [str(value) for value in reports])
        axes.set_xlabel(series.label)
        axes.set_title(f"{backend}, {runs[0]['precision']}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("seconds a run, sum of the stages' medians")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3 + 2 * (len(backends) > 1)),
                  frameon=False, fontsize=9)  # fmt: skip
    report = next(iter(reports.values()))
    machine = report["machine"]
    figure.suptitle(
        f"{report['bundle']['name']}, {machine['cpu']}, {machine['threads']} threads, {report['date'][:10]}",
        fontsize=10,
    )
    save(figure, target)


if __name__ == "__main__":
    main()
