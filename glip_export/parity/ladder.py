"""The ladder: a candidate session against the reference, from the text encoder up to the detections.

Each session runs end to end on its own outputs, so that errors add up as they do in use; every rung is compared, so
that the first wrong one shows. Sessions are called through their protocol only: what backend they are does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from glip_export.config import GlipConfig
from glip_export.graphs.contracts import LEVELS, TEXT_FUSING_BACKBONE
from glip_export.parity.cases import Case
from glip_export.parity.metrics import TensorDiff, Tolerance, compare
from glip_export.parity.pairing import DetectionDiff, Detections, pair_found
from glip_export.parity.run import ChunkOutputs, Inputs, Outputs, TextInputs, broken_rules, run
from glip_export.runtime.session import F32, Session

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """Two sets of outputs, rung by rung; the chunks of a long prompt follow one another."""

    name: str
    tensors: tuple[tuple[str, TensorDiff], ...] = ()  # text_features (at real tokens), p3..p7, by output
    scores: tuple[TensorDiff, ...] = ()  # by rank, a chunk each; not judged: one that fell off shifts all behind it
    pictures: tuple[DetectionDiff, ...] = ()
    broken: tuple[str, ...] = ()  # rules of the graphs' contract that the candidate's outputs break
    error: str = ""  # what the candidate raised instead

    def failures(self, tolerance: Tolerance) -> list[str]:
        """What is wrong, one line each, starting with the output's name; empty when all is well."""
        if self.error:
            return [f"stopped: {self.error}"]
        found = list(self.broken)
        for name, diff in self.tensors:
            if not diff.within(tolerance) and not any(rule.startswith(f"{name}:") for rule in self.broken):
                found.append(f"{name}: {_tensor_failure(diff, tolerance)}")
        for index, picture in enumerate(self.pictures):
            if not picture.within(tolerance):
                found.append(f"detections: picture {index}: {_detection_failure(picture, tolerance)}")
        return found


@dataclass(frozen=True)
class ParityResult:
    """One candidate against the reference on all cases."""

    reference: str
    backend: str
    tolerance: Tolerance
    cases: tuple[Comparison, ...]
    batch_invariance: Comparison  # a picture in a batch of its size against the same alone, candidate against itself

    @property
    def passed(self) -> bool:
        return bool(self.cases) and not self.failures()

    def failures(self) -> list[str]:
        """What is wrong, one line each: the case, the output, by how much."""
        compared = (*self.cases, self.batch_invariance)
        return [f"{item.name}: {line}" for item in compared for line in item.failures(self.tolerance)]

    def worst(self) -> dict[str, tuple[str, TensorDiff]]:
        """By output, in the order of the ladder: the case where it is furthest off, and how far."""
        worst: dict[str, tuple[str, TensorDiff]] = {}
        for item in self.cases:
            for name, diff in item.tensors:
                if name not in worst or _badness(diff) > _badness(worst[name][1]):
                    worst[name] = item.name, diff
        return worst

    def pictures(self) -> Iterator[DetectionDiff]:
        """Of all cases."""
        return (picture for item in self.cases for picture in item.pictures)


def climb(
    reference: Session,
    candidate: Session,
    config: GlipConfig,
    cases: Sequence[Case],
    tolerance: Tolerance | None = None,
    progress: Progress | None = None,
) -> ParityResult:
    """One candidate against the reference; see climb_all."""
    return climb_all(reference, [candidate], config, cases, tolerance, progress)[0]


def climb_all(
    reference: Session,
    candidates: Sequence[Session],
    config: GlipConfig,
    cases: Sequence[Case],
    tolerance: Tolerance | None = None,
    progress: Progress | None = None,
) -> list[ParityResult]:
    """Every candidate against the reference, which runs each case once; results in the candidates' order.

    Candidates also run one picture in a batch of three of its size, which must not change its result. A candidate that
    raises has failed that case; what the reference raises goes through. progress is told what runs next.
    """
    tolerance, tell = tolerance or Tolerance(), progress or (lambda _: None)
    found: list[list[Comparison]] = [[] for _ in candidates]
    invariance = [Comparison("batch invariance")] * len(candidates)
    alone = next((case for case in cases if len(case.pictures) == 1), cases[0] if cases else None)
    for case in cases:
        inputs = case.inputs(config)
        tell(f"{case.name}: {reference.name}")
        expected = run(reference, inputs)
        for index, candidate in enumerate(candidates):
            tell(f"{case.name}: {candidate.name}")
            found[index].append(_compare_run(case.name, candidate, inputs, expected, config, tolerance))
        del expected
        if case is alone:
            for index, candidate in enumerate(candidates):
                tell(f"batch invariance: {candidate.name}")
                invariance[index] = _batch_invariance(candidate, inputs, config, tolerance)
    return [
        ParityResult(reference.name, candidate.name, tolerance, tuple(comparisons), batch)
        for candidate, comparisons, batch in zip(candidates, found, invariance, strict=True)
    ]


def _compare_run(
    name: str, candidate: Session, inputs: Inputs, expected: Outputs, config: GlipConfig, tolerance: Tolerance
) -> Comparison:
    try:
        return _compare_outputs(name, expected, run(candidate, inputs), inputs, config, tolerance)
    except Exception as error:  # whatever a backend raises or gives is a finding about it, not the end of the report
        return Comparison(name, error=_one_line(error))


def _batch_invariance(candidate: Session, inputs: Inputs, config: GlipConfig, tolerance: Tolerance) -> Comparison:
    """A picture at both ends of a batch, its mirror image between them, against the picture alone.

    Another picture in the middle, for a mix-up among three equal ones would not show.
    """
    name = "batch invariance"
    image, size, text = inputs.images[:1], inputs.sizes[:1], inputs.chunks[:1]
    three = np.concatenate([image, image[..., ::-1], image])
    try:
        single = run(candidate, replace(inputs, images=image, sizes=size, chunks=text))
        batch = run(candidate, replace(inputs, images=three, sizes=np.repeat(size, 3, axis=0), chunks=text))
        ends = _take(batch, [0, 2])
        images, sizes = np.repeat(image, 2, axis=0), np.repeat(size, 2, axis=0)
        twice = replace(inputs, images=images, sizes=sizes, chunks=text)
        return _compare_outputs(name, _take(single, [0, 0]), ends, twice, config, tolerance)
    except Exception as error:  # as above
        return Comparison(name, error=_one_line(error))


def _take(outputs: Outputs, slots: list[int]) -> Outputs:
    """Some of the batch's pictures."""
    chunks = (
        ChunkOutputs(
            c.text_features[slots],
            c.boxes[slots],
            c.scores[slots],
            c.labels[slots],
            c.count[slots],
            tuple(array[slots] for array in c.backbone),
        )
        for c in outputs.chunks
    )
    return Outputs(tuple(level[slots] for level in outputs.features), tuple(chunks))


def _compare_outputs(
    name: str, expected: Outputs, outputs: Outputs, inputs: Inputs, config: GlipConfig, tolerance: Tolerance
) -> Comparison:
    tensors: list[tuple[str, TensorDiff]] = []
    pictures: list[DetectionDiff] = []
    for want, have, text in zip(expected.chunks, outputs.chunks, inputs.chunks, strict=True):
        tensors.append(("text_features", _compare_text(want.text_features, have.text_features, text)))
        if inputs.fuses_text:
            tensors += _compare_backbone(want, have, text)
        pictures += _pair_pictures(want, have, config, tolerance)
    if not inputs.fuses_text:
        levels = zip(LEVELS, expected.features, outputs.features, strict=True)
        tensors += [(level, compare(want, have)) for level, want, have in levels]
    scores = tuple(
        compare(want.scores, have.scores) for want, have in zip(expected.chunks, outputs.chunks, strict=True)
    )
    return Comparison(name, tuple(tensors), scores, tuple(pictures), broken_rules(outputs, inputs, config))


def _compare_text(want: F32, have: F32, text: TextInputs) -> TensorDiff:
    """(B, T, n) at the real tokens: what stands at the padding is never read."""
    if want.shape != have.shape:
        return compare(want, have)
    real = text.attention_mask == 1
    return compare(want[:, real], have[:, real])


def _compare_backbone(want: ChunkOutputs, have: ChunkOutputs, text: TextInputs) -> Iterator[tuple[str, TensorDiff]]:
    """What a backbone that fuses text gives for one chunk."""
    for name, one, other in zip(TEXT_FUSING_BACKBONE.output_names, want.backbone, have.backbone, strict=True):
        yield name, compare(one, other) if name in LEVELS else _compare_text(one, other, text)


def _pair_pictures(
    want: ChunkOutputs, have: ChunkOutputs, config: GlipConfig, tolerance: Tolerance
) -> list[DetectionDiff]:
    """Nothing when shapes differ: broken_rules names those."""
    names = ("boxes", "scores", "labels")
    if any(getattr(want, name).shape != getattr(have, name).shape for name in names):
        return []
    lists = ([Detections(*slots) for slots in zip(c.boxes, c.scores, c.labels, strict=True)] for c in (want, have))
    return [
        pair_found(reference, candidate, tolerance, config.detection)
        for reference, candidate in zip(*lists, strict=True)
    ]


def _tensor_failure(diff: TensorDiff, tolerance: Tolerance) -> str:
    if diff.reference_shape != diff.candidate_shape:
        return f"shape {diff.candidate_shape} instead of {diff.reference_shape}"
    if diff.reference_nonfinite:
        return f"{diff.reference_nonfinite} values of the reference itself are NaN or infinite"
    if diff.nan or diff.inf:
        return f"{diff.nan} values are NaN, {diff.inf} infinite"
    return f"max|difference| / rms {diff.relative:.1e} is over {tolerance.relative:.0e}"


def _detection_failure(diff: DetectionDiff, tolerance: Tolerance) -> str:
    parts = []
    if diff.real:
        sides = [item.side for item in diff.real]
        parts.append(f"{sides.count('reference')} missing and {sides.count('candidate')} new beyond noise")
    if diff.box_px > tolerance.box_px:
        parts.append(f"boxes {diff.box_px:.2g} px off, over {tolerance.box_px:g}")
    if diff.score > tolerance.score:
        parts.append(f"scores {diff.score:.1e} off, over {tolerance.score:.0e}")
    return ", ".join(parts) or f"{len(diff.within_noise)} unpaired are too many to be noise"


def _badness(diff: TensorDiff) -> tuple[bool, bool, float]:
    return diff.reference_shape != diff.candidate_shape, not diff.finite, diff.relative


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300]}" if words else type(error).__name__
