"""Swin's versions, with text in its last stage and with overlapping patches."""

from __future__ import annotations

import pytest
from compact_oracle import OracleCase
from runtime.structures.structure_tests import SWINS, StructureTests, chosen


@pytest.fixture(scope="module", params=chosen(SWINS))
def case(request: pytest.FixtureRequest) -> OracleCase:
    return OracleCase(request.param)


class TestSwins(StructureTests):
    """Each of them."""
