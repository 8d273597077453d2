"""Weights files: fetched, read without running anything in them, and matched with a model key by key."""

from glip_export.checkpoint.fetching import resolve_weights
from glip_export.checkpoint.matching import IGNORED, PROMPT_TUNING, LoadReport, Shape, match
from glip_export.checkpoint.reading import Checkpoint, check_file, read_checkpoint

__all__ = [
    "IGNORED",
    "PROMPT_TUNING",
    "Checkpoint",
    "LoadReport",
    "Shape",
    "check_file",
    "match",
    "read_checkpoint",
    "resolve_weights",
]
