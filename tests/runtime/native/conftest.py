"""The kernels for each instruction set that this machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from glip_export.errors import BackendError
from glip_export.runtime.native import Kernels, compiled_kernels
from glip_export.runtime.native.instruction_sets import NATIVE, VARIABLE, has, instruction_sets

WORDS = [word for word in instruction_sets() if word != "generic"]  # the portable one runs where the others do not


@pytest.fixture(scope="session", params=WORDS)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """Those of one word; skipped where the processor lacks it or the environment hides it."""
    word, given = request.param, os.environ.get(VARIABLE, NATIVE).lower()
    if not has(instruction_sets()[word]):
        pytest.skip(f"this processor has no {word}")
    words = list(instruction_sets())
    if given in words and words.index(word) < words.index(given):
        pytest.skip(f"{VARIABLE}={given} hides {word}")
    base = tmp_path_factory.getbasetemp()
    shared: Path = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(shared / f"kernels-{word}.lock"):  # one worker compiles, the others find it
        try:
            return compiled_kernels(word)
        except BackendError as error:
            if "no C++ compiler" not in str(error):  # not of kernels that do not compile
                raise
            pytest.skip(str(error))
