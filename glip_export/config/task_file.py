"""A task's YAML (ODinW's): what it changes of a GLIP's configuration once the model is built.

As in the original's tools/test_grounding_net.py with --task_config: the YAML is laid over the model's configuration
when the network exists already, so that what only its building reads (MODEL.*) has no influence there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glip_export.config.bert import BertConfig
from glip_export.config.glip_config import GlipConfig
from glip_export.config.keys import HONOURED
from glip_export.config.supported import check_supported
from glip_export.config.task import TaskConfig, read_task
from glip_export.config.yacs import Values, check_key, layer, read_yaml, show
from glip_export.errors import ConfigError

MULTISCALE = "TEST.USE_MULTISCALE"
GROUPING = "DATALOADER.ASPECT_RATIO_GROUPING"
# What the original reads after the model is built, beside the sections DATASETS, DATALOADER and INPUT.
READ_LATER = (
    "TEST.CHUNKED_EVALUATION",
    "TEST.EVAL_TASK",
    "TEST.SUBSET",
    "MODEL.MASK_ON",
    "MODEL.KEYPOINT_ON",
    "MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE",
)
SECTIONS = ("DATASETS.", "DATALOADER.", "INPUT.")


@dataclass(frozen=True)
class TaskFile:
    """A task's YAML as it was read: every key is an official one and has its key's type."""

    path: Path
    given: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> TaskFile:
        """Raises ConfigError, naming file and key, for what is no task's YAML or asks for what is not to be had."""
        given = read_yaml(path)
        for name, value in given.items():
            check_key(name, value, str(path))
        if given.get(MULTISCALE):
            raise ConfigError(
                f"{path}: {MULTISCALE} is not taken from a task, for the original reads its scales from the model's "
                f"configuration: leave it out here"
            )
        values = layer((path.name, given))
        check_supported(values, BertConfig(), lambda key: key in given and _is_read_later(key))
        return cls(path, given)

    def changed(self, config: GlipConfig, *, override: bool = True, prompts: bool = True) -> GlipConfig:
        """The model's configuration with the task's over it.

        override, prompts: DATASETS.USE_OVERRIDE_CATEGORY and USE_CAPTION_PROMPT, as the command line has them.
        """
        values = layer((self.path.name, {**self.given, "DATASETS.USE_CAPTION_PROMPT": prompts}))
        sections: dict[str, dict[str, Any]] = {}
        for key, place in HONOURED.items():
            if key in self.given and _is_read_later(key) and not place.startswith("task."):
                section, name = place.split(".")
                sections.setdefault(section, {})[name] = self._value(values, key)
        fields: dict[str, Any] = {
            section: replace(getattr(config, section), **given) for section, given in sections.items()
        }
        task = replace(self._task(config.task, values), use_override_category=override, use_caption_prompt=prompts)
        return replace(config, **fields, task=task)

    @property
    def groups_by_aspect(self) -> bool:
        """Whether wide pictures have batches of their own."""
        return bool(self.given.get(GROUPING, True))  # GLIP: the default of DATALOADER.ASPECT_RATIO_GROUPING

    @property
    def without_influence(self) -> tuple[str, ...]:
        """`KEY VALUE` of what would matter where a model is built or exported, but does not in a task."""
        return tuple(
            f"{key} {show(value)}" for key, value in self.given.items() if key in HONOURED and not _is_read_later(key)
        )

    def _value(self, values: Values, key: str) -> Any:
        if key in ("INPUT.TO_BGR255", "INPUT.FORMAT"):
            return values["INPUT.TO_BGR255"] or values["INPUT.FORMAT"] == "bgr255"
        return values[key]

    def _task(self, base: TaskConfig, values: Values) -> TaskConfig:
        """The model's task settings with those that the YAML gives."""
        read = read_task(values)
        places = {key: place.removeprefix("task.") for key, place in HONOURED.items() if place.startswith("task.")}
        return replace(base, **{place: getattr(read, place) for key, place in places.items() if key in self.given})


def _is_read_later(key: str) -> bool:
    return key.startswith(SECTIONS) or key in READ_LATER
