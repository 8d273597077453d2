"""The terminal, and how numbers are written on it."""

from __future__ import annotations

from rich.console import Console

console = Console(highlight=False)


def megabytes(size: int) -> str:
    """Bytes as MB (10^6) with one decimal."""
    return f"{size / 1e6:.1f}"
