"""The ten lines of docs/baking.md run with numpy, pillow and onnxruntime alone, and give what the Detector gives."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from command_line import CAT

from glip_export import Detector
from glip_export.graphs.bake import bake
from glip_export.prompt import Prompt

PAGE = Path(__file__).parents[3] / "docs" / "baking.md"
NOT_THERE = ("glip_export", "torch", "transformers", "tokenizers", "onnx", "onnx_ir", "openvino")
ALONE = f"import sys; sys.modules.update(dict.fromkeys({NOT_THERE!r}))\n"  # an import of them fails


def test_the_ten_lines(tiny_bundle: Path, tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    assert len([line for line in code.splitlines() if line]) <= 10
    (tmp_path / "ten_lines.py").write_text(ALONE + code)
    baked = bake(tiny_bundle, Prompt.of(["cat", "remote control"]), tmp_path / "two.onnx", pixels=True).file.path
    ran = subprocess.run(
        [sys.executable, "ten_lines.py", baked, CAT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    (found,) = Detector.open(tiny_bundle, "onnxruntime").detect([CAT], ["cat", "remote control"])
    lines = [f"{score:.3f} {name}" for score, name in zip(found.scores, found.names, strict=True)]
    printed = [line.partition(" [")[0] for line in ran.stdout.splitlines()]
    assert len(printed) == len(found) > 5 and printed[:5] == lines[:5]
