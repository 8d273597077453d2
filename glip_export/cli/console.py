"""The terminal: how a command runs on it, fails on it, and writes numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console

from glip_export.errors import GlipExportError

console = Console(highlight=False)
if not console.is_terminal:  # a file or a pipe has no width of its own; 80 columns would cut the tables' names
    console = Console(highlight=False, width=130)


def run_app(app: Callable[[], object], name: str) -> None:
    """Runs an entry point: a mistake of the user's is one line and exit code 2, never a traceback."""
    try:
        app()
    except GlipExportError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)


def megabytes(size: int) -> str:
    """Bytes as MB (10^6) with one decimal."""
    return f"{size / 1e6:.1f}"
