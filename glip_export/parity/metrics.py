"""How far one tensor is from another, and how far it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Two fp32 programs of the same network differ by 1e-6 to 3e-5 of a tensor's rms (fp32 against fp64 of the original
# code: 2.8e-5), more the deeper the network. A wrong coefficient, axis or padding differs by 1e-2 and up: 1e-3 parts
# the two.
RELATIVE = 1e-3
# fp32 against fp64 of the original moves corners by 2e-4 px in pictures 300 px wide. Pictures four times as wide and
# towers three times as deep move them by some 1e-2 px; the nearest real bug, a coordinate off by one, by a whole pixel.
BOX_PX = 0.05
# Scores are square roots of products of sigmoids: well under 1e-4 in a small model, up to a few 1e-4 through 8 blocks.
SCORE = 1e-3
# The share of a picture's detections that NMS may keep differently for noise (see pairing). More is no coincidence.
EXCUSED_SHARE = 0.03

_BLOCK = 1 << 20  # elements compared at a time: P3 of three pictures in float64 would need 300 MB


@dataclass(frozen=True)
class Tolerance:
    """What still counts as equal; the defaults are for fp32 against fp32, end to end."""

    relative: float = RELATIVE  # max|difference| over the reference's rms, of a tensor
    box_px: float = BOX_PX  # pixels of the resized picture, of a box's corner coordinate
    score: float = SCORE  # of a detection's score
    excused_share: float = EXCUSED_SHARE  # of a picture's detections that NMS may keep differently; one always may


@dataclass(frozen=True)
class TensorDiff:
    """A candidate tensor against its reference.

    max_abs and cosine are over the elements finite in both, relative is inf if not all are. Another shape, or nothing
    finite to compare, makes the three inf, inf and 0.
    """

    reference_shape: tuple[int, ...]
    candidate_shape: tuple[int, ...]
    max_abs: float  # max|difference|
    relative: float  # max|difference| / rms(reference)
    cosine: float
    nan: int  # elements that are NaN in the candidate
    inf: int  # elements that are infinite in the candidate
    reference_nonfinite: int  # elements that are either in the reference, which then proves nothing

    @property
    def finite(self) -> bool:
        return self.nan == self.inf == self.reference_nonfinite == 0

    def within(self, tolerance: Tolerance) -> bool:
        """Same shape, every element finite, and near enough."""
        return self.reference_shape == self.candidate_shape and self.finite and self.relative <= tolerance.relative


def compare(reference: Array, candidate: Array) -> TensorDiff:
    """The difference of two arrays of any shape and real dtype, summed in float64.

    A reference of zeros has rms 0: relative is then 0 for an equal candidate, else inf.
    """
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    comparable = reference.shape == candidate.shape
    max_abs, relative, cosine = _distances(reference, candidate) if comparable else (math.inf, math.inf, 0.0)
    nan, inf = int(np.isnan(candidate).sum()), int(np.isinf(candidate).sum())
    reference_nonfinite = int((~np.isfinite(reference)).sum())
    return TensorDiff(
        reference_shape=reference.shape,
        candidate_shape=candidate.shape,
        max_abs=max_abs,
        relative=math.inf if nan or inf or reference_nonfinite else relative,
        cosine=cosine,
        nan=nan,
        inf=inf,
        reference_nonfinite=reference_nonfinite,
    )


def _distances(reference: Array, candidate: Array) -> tuple[float, float, float]:
    """max|difference|, the same over the reference's rms, and the cosine, of two arrays of one shape."""
    flat_reference, flat_candidate = reference.reshape(-1), candidate.reshape(-1)
    max_abs = dot = reference_square = candidate_square = 0.0
    count = 0
    for start in range(0, flat_reference.size, _BLOCK):
        a = flat_reference[start : start + _BLOCK].astype(np.float64)
        b = flat_candidate[start : start + _BLOCK].astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        if not finite.all():
            a, b = a[finite], b[finite]
        if not a.size:
            continue
        count += a.size
        max_abs = max(max_abs, float(np.abs(a - b).max()))
        dot += float(a @ b)
        reference_square += float(a @ a)
        candidate_square += float(b @ b)
    if not count:
        return (math.inf, math.inf, 0.0) if flat_reference.size else (0.0, 0.0, 1.0)
    if max_abs == 0.0:
        return 0.0, 0.0, 1.0
    rms = math.sqrt(reference_square / count)
    norms = math.sqrt(reference_square) * math.sqrt(candidate_square)
    return max_abs, max_abs / rms if rms else math.inf, dot / norms if norms else 0.0
