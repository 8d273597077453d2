import numpy as np
import pytest

from glip_export.parity import metrics
from glip_export.parity.metrics import Tolerance, compare


def test_difference_is_measured_against_the_rms_of_the_reference() -> None:
    reference = np.array([[3.0, -3.0], [3.0, 3.0]], np.float32)
    diff = compare(reference, reference + np.array([[0.0, 0.3], [0.0, 0.0]], np.float32))
    assert diff.max_abs == pytest.approx(0.3)
    assert diff.relative == pytest.approx(0.1)
    assert diff.cosine == pytest.approx(0.99902, abs=1e-5)
    assert not diff.within(Tolerance())
    assert diff.within(Tolerance(relative=0.11))


def test_equal_tensors_do_not_differ() -> None:
    diff = compare(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
    assert (diff.max_abs, diff.relative, diff.cosine) == (0, 0, 1)
    assert diff.within(Tolerance(relative=0))


def test_blocks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    reference = generator.standard_normal((7, 13)).astype(np.float32)
    candidate = reference + generator.standard_normal((7, 13)).astype(np.float32) * 1e-2
    whole = compare(reference, candidate)
    monkeypatch.setattr(metrics, "_BLOCK", 10)
    blocks = compare(reference, candidate)
    assert blocks.max_abs == whole.max_abs
    assert blocks.relative == pytest.approx(whole.relative, rel=1e-12)
    assert blocks.cosine == pytest.approx(whole.cosine, rel=1e-12)


def test_another_shape_fails_without_broadcasting() -> None:
    diff = compare(np.ones((2, 3)), np.ones((1, 3)))
    assert (diff.relative, diff.cosine) == (np.inf, 0)
    assert (diff.reference_shape, diff.candidate_shape) == ((2, 3), (1, 3))
    assert not diff.within(Tolerance(relative=np.inf))


def test_nan_and_infinity_fail_and_are_counted_while_the_rest_is_measured() -> None:
    reference = np.ones(6, np.float32)
    diff = compare(reference, np.array([np.nan, np.nan, np.inf, 1, 1, 1.5], np.float32))
    assert (diff.nan, diff.inf, diff.max_abs, diff.relative) == (2, 1, 0.5, np.inf)
    assert not diff.within(Tolerance(relative=np.inf))


def test_equal_infinities_fail_too() -> None:
    broken = np.array([1, np.inf], np.float32)
    diff = compare(broken, broken)
    assert (diff.inf, diff.reference_nonfinite, diff.max_abs) == (1, 1, 0)
    assert not diff.within(Tolerance())


def test_nothing_finite_is_infinitely_far() -> None:
    assert compare(np.ones(2), np.full(2, np.nan)).relative == np.inf


@pytest.mark.parametrize(("candidate", "relative", "cosine"), [(0.0, 0.0, 1.0), (1e-9, np.inf, 0.0)])
def test_reference_of_zeros(candidate: float, relative: float, cosine: float) -> None:
    diff = compare(np.zeros(4), np.full(4, candidate))
    assert (diff.relative, diff.cosine) == (relative, cosine)


def test_empty_tensors_are_equal() -> None:
    assert compare(np.empty((0, 4)), np.empty((0, 4))).within(Tolerance(relative=0))


def test_integers_compare_as_numbers() -> None:
    assert compare(np.array([3, 4]), np.array([3, 9])).max_abs == 5
