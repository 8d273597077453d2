"""What the tests of command lines share: a photo, and how a mistake must look."""

from __future__ import annotations

from pathlib import Path

CAT = Path(__file__).parents[1] / "glip_export" / "data" / "pictures" / "cat.jpg"


def refused(result: tuple[int, str, str], *words: str) -> None:
    """Exit code 2, one line that holds all the words, no traceback."""
    code, out, err = result
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2, (code, out, err)
    assert len(lines) == 1 and "Traceback" not in out + err, err
    for word in words:
        assert word in lines[0], lines[0]
