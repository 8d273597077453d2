"""A Triton model repository of a baked model, which needs no Python there: Triton's ONNX Runtime backend runs it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from glip_export.bundle import BakedFile
from glip_export.bundle.files import atomic_directory
from glip_export.errors import GlipExportError
from glip_export.serving.triton.model_config import baked_config

CONFIG, LABELS, MODEL = "config.pbtxt", "names.txt", "1/model.onnx"


def write_baked_repository(file: BakedFile | Path | str, output: Path | str) -> str:
    """Writes output/NAME/, whole or not at all; gives the model's name, which is the file's.

    config.pbtxt, 1/model.onnx, and names.txt, from which Triton says names where a client asks for classes. Raises
    BundleError for what is no baked model, GlipExportError where the folder cannot be written or holds something.
    """
    opened, folder = file if isinstance(file, BakedFile) else BakedFile.open(file), Path(output)
    if folder.is_dir() and any(folder.iterdir()):
        raise GlipExportError(f"{folder} is not empty: name another folder, or remove it")
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", opened.path.stem)
    with atomic_directory(folder) as unfinished:
        target = unfinished / name / MODEL
        target.parent.mkdir(parents=True)
        shutil.copyfile(opened.path, target)
        lines = "".join(f"{' '.join(one.split())}\n" for one in opened.names)  # a label is a line's number
        (unfinished / name / LABELS).write_text(lines, encoding="utf-8")
        (unfinished / name / CONFIG).write_text(baked_config(name, opened, LABELS), encoding="utf-8")
    return name
