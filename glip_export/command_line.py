"""What the command lines of glip-export and glip-bench share: running one, and reading its words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from glip_export.errors import GlipExportError


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


def bundle_or_newest(path: Path | None) -> Path:
    """The folder that was named, or the newest bundle under engines/; raises BundleError if there is none."""
    from glip_export.bundle import newest_bundle

    return path or newest_bundle()


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """ "800x1216" as (height, width) in pixels; raises GlipExportError for anything else but None."""
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise GlipExportError(f"--image-size is HEIGHTxWIDTH, such as 800x1216, not {text!r}")
    return int(height), int(width)
