"""What a service does for days: shapes and prompts in no order, and nothing that grows."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from gpu.conftest import REHEARSAL

from glip_export.parity.run import run

RUNS = 400  # benchmarks/gpu/run.py does many more


def test_memory_is_flat_and_answers_stay(open_session: Any, cases: list[Any], open_bundle: Any) -> None:
    session, config = open_session("fp32"), open_bundle().config
    every = [case.inputs(config) for case in cases]
    first = [run(session, inputs).chunks for inputs in every]
    pairs = [which for pair in product(range(len(every)), repeat=2) for which in pair]  # each shape after each other
    in_any_order = np.random.default_rng(0).integers(len(every), size=12 if REHEARSAL else RUNS)
    sizes = []
    again = [] if REHEARSAL else pairs
    for turn, which in enumerate([*pairs, *again, *in_any_order]):
        for ours, expected in zip(run(session, every[which]).chunks, first[which], strict=True):
            for name in ("boxes", "scores", "labels", "count"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name), err_msg=f"turn {turn}")
        sizes.append(session.describe()["device_memory_mb"])
    assert sizes[-1] == sizes[len(pairs) + len(again) - 1]
    assert session.describe()["cuda_graph_trouble"] == {}
