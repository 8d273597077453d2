"""GLIP's official configuration: its format, its keys and defaults, what is supported, as frozen dataclasses."""

from glip_export.config.bert import BertConfig, read_bert_config
from glip_export.config.glip_config import (
    DetectionConfig,
    GlipConfig,
    HeadConfig,
    ImageConfig,
    MultiscaleConfig,
    SizeRange,
    SwinConfig,
    TextConfig,
    config_from_dict,
    config_to_dict,
)
from glip_export.config.load import load_config, missing_words
from glip_export.config.task import CaptionWords, TaskCategory, TaskConfig
from glip_export.config.task_file import TaskFile

__all__ = [
    "BertConfig",
    "CaptionWords",
    "DetectionConfig",
    "GlipConfig",
    "HeadConfig",
    "ImageConfig",
    "MultiscaleConfig",
    "SizeRange",
    "SwinConfig",
    "TaskCategory",
    "TaskConfig",
    "TaskFile",
    "TextConfig",
    "config_from_dict",
    "config_to_dict",
    "load_config",
    "missing_words",
    "read_bert_config",
]
