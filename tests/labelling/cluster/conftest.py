"""One cluster for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from raylets import Raylets, two_raylets


@pytest.fixture(scope="module")
def raylets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raylets]:
    """Two raylets whose workers keep what is brought to them in a cache of their own: `raylets.cache`."""
    with two_raylets(tmp_path_factory.mktemp("cache")) as cluster:
        yield cluster
