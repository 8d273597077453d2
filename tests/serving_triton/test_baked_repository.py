"""A baked model's Triton repository: config.pbtxt says what the file takes and gives. No server runs it here."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from glip_export.errors import GlipExportError
from glip_export.graphs.bake import bake
from glip_export.prompt import Prompt
from glip_export.serving.triton.baked import write_baked_repository

TYPES = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64", "tensor(uint8)": "TYPE_UINT8"}


@pytest.mark.parametrize("options", [{}, {"image_size": (160, 224)}, {"pixels": True}])
def test_config(tiny_bundle: Path, tmp_path: Path, options: dict) -> None:
    made = bake(tiny_bundle, Prompt.of("cat. remote control"), tmp_path / "two.onnx", **options)
    assert write_baked_repository(made.file, tmp_path / "models") == "two"
    model = tmp_path / "models" / "two"
    assert (model / "names.txt").read_text() == "cat\nremote control\n"
    config = " ".join((model / "config.pbtxt").read_text().split())
    session = onnxruntime.InferenceSession(str(model / "1" / "model.onnx"))
    for tensor in (*session.get_inputs(), *session.get_outputs()):
        dims = ", ".join(str(axis if isinstance(axis, int) else -1) for axis in tensor.shape)
        assert f'name: "{tensor.name}" data_type: {TYPES[tensor.type]} dims: [ {dims} ]' in config.replace(
            "[", "[ "
        ).replace("]", " ]").replace("  ", " "), config
    with pytest.raises(GlipExportError, match="not empty"):
        write_baked_repository(made.file, tmp_path / "models")


def test_a_name_of_two_lines_is_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    made = bake(tiny_bundle, Prompt.of(["two\nlines", 'a "cat"']), tmp_path / "two.onnx")
    write_baked_repository(made.file, tmp_path / "models")
    assert (tmp_path / "models" / "two" / "names.txt").read_text().splitlines() == ["two lines", 'a "cat"']
