"""Prompt tuning, and special tokens that are masked."""

from __future__ import annotations

import pytest
from compact_oracle import OracleCase, cases
from runtime.structures.structure_tests import SIBLINGS, TEXTS, StructureTests, chosen


@pytest.fixture(scope="module", params=chosen(TEXTS))
def case(request: pytest.FixtureRequest) -> OracleCase:
    return OracleCase(request.param)


class TestTexts(StructureTests):
    """Each of them."""


def test_every_small_model_of_the_originals_has_its_file() -> None:
    named = [case for cases, siblings in SIBLINGS.items() for case in (*cases, *siblings)]
    assert sorted(named) == [name for name in cases() if name not in ("glip_t", "tiny", "tiny_unfused")]
