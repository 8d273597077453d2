"""The words of glip-export: a file a verb with its options and what it does, and the terminal they share."""

from glip_export.cli.app import main

__all__ = ["main"]
