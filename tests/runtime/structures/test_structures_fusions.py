"""Other fusions of image and text than the published."""

from __future__ import annotations

import pytest
from compact_oracle import OracleCase
from runtime.structures.structure_tests import FUSIONS, StructureTests, chosen


@pytest.fixture(scope="module", params=chosen(FUSIONS))
def case(request: pytest.FixtureRequest) -> OracleCase:
    return OracleCase(request.param)


class TestFusions(StructureTests):
    """Each of them."""
