"""ODinW's tasks: from a task's YAML to a data set, its files, and the configuration that it is run with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glip_export.config import GlipConfig, TaskFile
from glip_export.errors import ConfigError, GlipExportError
from glip_export.evaluation.entries import is_inside
from glip_export.evaluation.problems import short

REGISTER, TEST = "DATASETS.REGISTER", "DATASETS.TEST"
OTHER_VERBS = {"flickr": "flickr30k", "lvis": "lvis"}  # GLIP: data sets whose names hold these have other evaluators


@dataclass(frozen=True)
class OdinwTask:
    """A data set of a task."""

    name: str  # told from the others'
    file: TaskFile
    split: str  # its name in DATASETS.REGISTER
    annotations: Path
    images: Path
    config: GlipConfig  # the bundle's, with the task's over it

    @property
    def groups_by_aspect(self) -> bool:
        """Whether wide pictures have batches of their own."""
        return self.file.groups_by_aspect


def read_tasks(
    configs: Sequence[Path],
    root: Path,
    config: GlipConfig,
    split: str | None = None,
    *,
    override: bool = True,
    prompts: bool = True,
) -> tuple[OdinwTask, ...]:
    """The data sets of task YAMLs, or of folders of such, in their order; a YAML given twice counts once.

    root: the folder that the YAMLs' paths start from (the original's DATASET). config: the bundle's. split: one of
    DATASETS.REGISTER in place of DATASETS.TEST. override, prompts: see `TaskFile.changed`. Raises GlipExportError,
    naming file and key, for a YAML that is no task's, a path that leaves `root`, and a file that is not there.
    """
    if not root.is_dir():
        raise GlipExportError(f"the data sets' folder {root} does not exist or is no folder")
    found = []
    paths = list({path.resolve(): path for given in configs for path in _yamls(given)}.values())
    for path in paths:
        file = TaskFile.read(path)
        changed = file.changed(config, override=override, prompts=prompts)
        name = (
            path.stem
            if [each.stem for each in paths].count(path.stem) == 1
            else f"{path.resolve().parent.name}-{path.stem}"
        )
        splits = _splits(file) if split is None else (split,)
        for each in splits:
            images, annotations = _files(file, each, root)
            own = name if len(splits) == 1 else f"{name}-{each}"
            found.append(OdinwTask(own, file, each, annotations, images, changed))
    names = [each.name for each in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise GlipExportError(f"two tasks are called {twice}: evaluate them one at a time, or rename a YAML")
    return tuple(found)


def _yamls(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    found = sorted(path for path in given.iterdir() if path.suffix in (".yaml", ".yml"))
    if not found:
        raise GlipExportError(f"the folder {given} has no task's YAML")
    return found


def _splits(file: TaskFile) -> tuple[str, ...]:
    """DATASETS.TEST, which may hold groups of names."""
    given = file.given.get(TEST)
    names = [name for each in given or () for name in (each if isinstance(each, (list, tuple)) else (each,))]
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f'{file.path}: {TEST} names no data set of {REGISTER}; give --split, or say ("val",) there')
    return tuple(dict.fromkeys(names))


def _files(file: TaskFile, split: str, root: Path) -> tuple[Path, Path]:
    """The pictures' folder and the annotation file."""
    registered = file.given.get(REGISTER)
    known = dict(registered) if isinstance(registered, dict) else {}
    entry = known.get(split)
    if not isinstance(entry, dict):
        some = ", ".join(map(str, known)) or "nothing"
        raise ConfigError(f"{file.path}: {REGISTER} has no {short(split)}, but {some}")
    for word, verb in OTHER_VERBS.items():
        if word in split:
            raise ConfigError(f"{file.path}: {split} is no data set of ODinW: see glip-export eval {verb}")
    images, annotations = (_below(file, split, key, entry.get(key), root) for key in ("img_dir", "ann_file"))
    if not annotations.is_file():
        raise GlipExportError(
            f"{file.path}: {split} has no annotation file {annotations}; --images is the folder that the YAML's paths "
            f"start from, the one that holds odinw/"
        )
    return images, annotations


def _below(file: TaskFile, split: str, key: str, given: Any, root: Path) -> Path:
    if not isinstance(given, str) or not given:
        raise ConfigError(f"{file.path}: {REGISTER}.{split}.{key} is {short(given)}, not a path")
    if not is_inside(given):
        raise ConfigError(f"{file.path}: {REGISTER}.{split}.{key} {short(given)} leaves the folder {root}")
    return root / given
