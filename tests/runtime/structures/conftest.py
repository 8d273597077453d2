"""One of the small models that the original ran, exported; `case` is the test file's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from compact_oracle import OracleCase

from glip_export.bundle import Bundle
from glip_export.image import preprocess
from glip_export.parity.run import Inputs, TextInputs


@pytest.fixture(scope="module")
def bundle(case: OracleCase, oracle_bundle: Callable[[OracleCase], Path]) -> Bundle:
    return Bundle.open(oracle_bundle(case), verify=False)


@pytest.fixture(scope="module")
def inputs(case: OracleCase, bundle: Bundle) -> Inputs:
    """The original's own pictures and caption, without its padding."""
    batch = preprocess(case.pictures(), bundle.config.image)
    ids = np.array(case.prompt["input_ids"])
    text = TextInputs(ids, np.ones_like(ids), case.class_map(len(ids))[0])
    return Inputs(batch.images, batch.sizes, (text,), bundle.config.swin.fuses_text)
