"""The benchmark's rows, A B A B on one card: what a user runs today, our backends, and Grounding DINO-T."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from contestants import COMPILE_SECONDS, Contestants, opened
from context import Context, Part, SkippedError
from full_size import picture_size
from turns import Row, take_turns, words
from work import STAGES, Work, arithmetic

REFERENCE = "published, fp32"
WORKLOADS = ((1, "4 names"), (1, "COCO"), (8, "COCO"), (8, "4 names"), (3, "COCO"), (3, "4 names"))
ROUNDS, SECONDS = 30, 12.0  # of one workload
BACKENDS = (
    ("torch:cuda fp16", "torch:cuda:fp16", {}),
    ("torch:cuda fp16, fused", "torch:cuda:fp16", {"fused": True}),
    ("torch:cuda fp16, no CUDA graphs", "torch:cuda:fp16", {"cuda_graphs": 0}),
    ("torch:cuda bf16", "torch:cuda:bf16", {}),
    ("torch:cuda fp32", "torch:cuda:fp32", {}),
    ("onnxruntime:cuda fp32", "onnxruntime:cuda:fp32", {}),
    ("onnxruntime:cuda fp16", "onnxruntime:cuda:fp16", {}),
)
ENGINES = (("tensorrt fp16", "tensorrt:fp16", {}), ("tensorrt_rtx fp16", "tensorrt_rtx:fp16", {}))
COMPILED = ("torch:cuda fp16, compiled", "torch:cuda:fp16", {"compiler": "inductor"})


def parts(context: Context) -> list[Part]:
    """The workloads in the order of their worth, then what needs minutes of preparation."""
    stage = _Stage(context)
    workloads = WORKLOADS[:2] if context.rehearsal else WORKLOADS
    found: list[Part] = [
        (f"batch-{batch}-{prompt.replace(' ', '-')}", partial(stage.main, batch, prompt)) for batch, prompt in workloads
    ]
    found.insert(2, ("engines", stage.engines))
    return [*found, ("compiled", stage.compiled)]


class _Stage:
    """The contestants, opened by the first part that runs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._made: Contestants | None = None

    @property
    def contestants(self) -> Contestants:
        self._made = self._made or Contestants(self._context)
        return self._made

    def main(self, batch: int, prompt: str) -> dict[str, Any]:
        """One workload, all rows."""
        work = self.contestants.work(batch, prompt)
        return self._measure(
            work,
            [
                ("published", lambda: self.contestants.modules(work)),
                *self._backends(work, BACKENDS),
                ("Grounding DINO-T", lambda: self.contestants.dino(work)),
            ],
        )

    def engines(self) -> dict[str, Any]:
        """TensorRT's flavors against torch:cuda."""
        work = self.contestants.work(1, "COCO")
        makers = self._backends(work, ENGINES)
        rows, others = opened(makers)  # which keeps what it opens
        if not rows and all("skipped" in facts for facts in others.values()):
            raise SkippedError("; ".join(facts["skipped"] for facts in others.values()))
        return self._measure(work, [*self._first(work), *makers])

    def compiled(self) -> dict[str, Any]:
        """torch.compile against torch:cuda without it; compiling takes minutes, so it is the last."""
        left = self._context.seconds_left
        if left < COMPILE_SECONDS and not self._context.rehearsal:
            raise SkippedError(f"{left:.0f} s are left, compiling needs {COMPILE_SECONDS}")
        work = self.contestants.work(1, "COCO")
        name, word, options = COMPILED
        if self._context.rehearsal:  # the same way, without a compiler of C++
            options = {"compiler": "eager"}
        return self._measure(work, [*self._first(work), *self._backends(work, ((name, word, options),))])

    def _first(self, work: Work) -> list[tuple[str, Any]]:
        """What the others are compared with."""
        return [
            (REFERENCE, lambda: self.contestants.modules(work)[:1]),
            *self._backends(work, BACKENDS[:1]),
        ]

    def _backends(self, work: Work, table: Any) -> list[tuple[str, Any]]:
        return [(name, partial(self.contestants.backend, name, word, work, **options)) for name, word, options in table]

    def _measure(self, work: Work, makers: list[tuple[str, Callable[[], Row | list[Row]]]]) -> dict[str, Any]:
        rehearsal = self._context.rehearsal
        rows, others = opened(makers)
        rounds, seconds = (3, 3.0) if rehearsal else (ROUNDS, min(SECONDS, max(2.0, self._context.seconds_left / 3)))
        found = take_turns(rows, self.contestants.clock, rounds, seconds, 2 if rehearsal else 0, self._context.device)
        self._hold_together(found)
        asked = arithmetic(self.contestants.config, work)
        for facts in found.values():
            self._derive(facts, work, asked)
        height, width = picture_size(self._context)
        return {
            "line": _line(found),
            "work": {"batch": work.batch, "prompt": work.prompt, "tokens": work.tokens, "size": [height, width]},
            "arithmetic": asked,
            "rows": {**found, **others},
        }

    def _hold_together(self, found: dict[str, dict[str, Any]]) -> None:
        """Each comparable row's detections against the published fp32's: no one is fast by being wrong."""
        from glip_export.bench.agreement import agree

        results = {name: facts.pop("result", None) for name, facts in found.items()}
        reference = results.get(REFERENCE)
        if reference is None:
            return
        for name, result in results.items():
            if result is None or not found[name].get("comparable"):
                continue
            calls = [dict(zip(("boxes", "scores", "labels"), values, strict=True)) for values in (reference, result)]
            threshold = self.contestants.config.detection.nms_threshold
            try:
                found[name]["agreement"] = asdict(agree(calls[:1], calls[1:], found[name]["precision"], threshold))
            except Exception as error:  # what a row gives that is no number must not cost the others their times
                found[name]["agreement_failed"] = words(error)

    def _derive(self, facts: dict[str, Any], work: Work, asked: dict[str, dict[str, float]]) -> None:
        """Pictures a second, and the share of the card's peak that the folded form's arithmetic is."""
        if "total_ms" not in facts:
            return
        total = facts["total_ms"]["p50"]
        facts["pictures_per_second"] = round(1000 * work.batch / total, 2)
        peaks = self._context.result("environment", "peaks")
        if not facts.get("comparable") or peaks is None:
            return
        gflop = sum(asked[stage]["gflop"] for stage in STAGES)
        moved = sum(asked[stage]["mb"] for stage in STAGES)
        products = gflop / peaks["matmul_tflops"]["float16"]  # ms
        copies = moved / (peaks["copy_tb_per_second"] * 1e3)  # ms
        facts["share_of_peak"] = round(products / total, 4)
        facts["floor_ms"] = [round(max(products, copies), 4), round(products + copies, 4)]


def _line(found: dict[str, dict[str, Any]]) -> str:
    """For the run's table."""
    words = [
        f"{name} {facts['total_ms']['p50']:.2f} ms" if "total_ms" in facts else f"{name} failed"
        for name, facts in found.items()
    ]
    return "; ".join(words)
