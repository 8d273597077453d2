"""--gpu-preprocess where there is no GPU: one line, whichever command it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CAT, refused


@pytest.mark.parametrize(
    "words",
    [
        ("detect", CAT, "--prompt", "cat", "--bundle"),
        ("serve", "--port", "0"),
        ("label", CAT.parent, "--prompt", "cat", "--output", "labels", "--bundle"),
    ],
    ids=lambda words: words[0],
)
def test_a_backend_for_processors_is_refused(glip_export: Callable, tiny_bundle: Path, words: tuple) -> None:
    found = glip_export(*words, tiny_bundle, "--backend", "onnxruntime:cpu", "--threads", "1", "--gpu-preprocess")
    refused(found, "has no pictures on a GPU: to prepare them there takes tensorrt, torch:cuda or")


def test_a_server_has_options_of_its_own(glip_export: Callable) -> None:
    found = glip_export("detect", CAT, "--prompt", "cat", "--server", "http://localhost:1", "--gpu-preprocess")
    refused(found, "--gpu-preprocess is for a bundle on this machine")
