"""Weights files: fetched, read without running anything in them, and matched with a model key by key."""

from glip_export.checkpoint.fetching import resolve_weights
from glip_export.checkpoint.matching import IGNORED, LoadReport, Shape, is_prompt_tuned, match
from glip_export.checkpoint.reading import Checkpoint, check_file, read_checkpoint
from glip_export.checkpoint.sharded import weights_files, weights_name

__all__ = [
    "IGNORED",
    "Checkpoint",
    "LoadReport",
    "Shape",
    "check_file",
    "is_prompt_tuned",
    "match",
    "read_checkpoint",
    "resolve_weights",
    "weights_files",
    "weights_name",
]
