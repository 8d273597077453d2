from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from glip_export.parity.assignment import assign


def test_pairs_as_many_as_possible_even_where_greed_would_not() -> None:
    # The cheapest pair (0, 1) would leave row 1 without a partner.
    cost = np.array([[2.0, 0.1], [9.0, 3.0]])
    rows, columns = assign(cost, np.array([[True, True], [False, True]]))
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [0, 1])


def test_nothing_allowed_pairs_nothing() -> None:
    for shape in ((0, 3), (2, 0), (2, 3)):
        rows, columns = assign(np.zeros(shape), np.zeros(shape, bool))
        assert len(rows) == len(columns) == 0


def test_equal_costs_go_to_the_lower_index() -> None:
    rows, columns = assign(np.zeros((3, 5)), np.ones((3, 5), bool))
    assert (rows.tolist(), columns.tolist()) == ([0, 1, 2], [0, 1, 2])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5), st.floats(0.1, 1))
def test_no_assignment_is_larger_or_cheaper(seed: int, n: int, m: int, density: float) -> None:
    generator = np.random.default_rng(seed)
    cost, allowed = generator.integers(0, 9, (n, m)).astype(float), generator.random((n, m)) < density
    rows, columns = assign(cost, allowed)
    assert len(set(columns.tolist())) == len(columns)
    assert allowed[rows, columns].all()
    assert (-len(rows), cost[rows, columns].sum()) == _best(cost, allowed)


def _best(cost: NDArray[np.float64], allowed: NDArray[np.bool_]) -> tuple[int, float]:
    """By trying all: (-pairs, cost) of the best assignment."""
    if cost.shape[0] > cost.shape[1]:
        cost, allowed = cost.T, allowed.T
    rows = np.arange(len(cost))
    tried = (list(columns) for columns in permutations(range(cost.shape[1]), len(cost)))
    return min((-int(allowed[rows, c].sum()), float((cost[rows, c] * allowed[rows, c]).sum())) for c in tried)
