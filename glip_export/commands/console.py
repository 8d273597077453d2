"""The terminal, and how numbers are written on it."""

from __future__ import annotations

from rich.console import Console

console = Console(highlight=False)
if not console.is_terminal:  # a file or a pipe has no width of its own; 80 columns would cut the tables' names
    console = Console(highlight=False, width=130)


def megabytes(size: int) -> str:
    """Bytes as MB (10^6) with one decimal."""
    return f"{size / 1e6:.1f}"
