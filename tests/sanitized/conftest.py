"""The files of cases, and the folders of other tests whose helpers write them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "plugins"))  # host_kernels


@pytest.fixture(scope="session")
def kernel_cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CPU kernels' edge cases."""
    from kernel_cases import write_kernel_cases

    path = tmp_path_factory.mktemp("cases") / "kernels"
    write_kernel_cases(path)
    return path
