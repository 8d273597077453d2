"""What the tests of command lines share: a photo, and how a mistake must look."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

CAT = Path(__file__).parents[1] / "glip_export" / "data" / "pictures" / "cat.jpg"


def refused(result: tuple[int, str, str], *words: str) -> None:
    """Exit code 2, one line that holds all the words, no traceback."""
    code, out, err = result
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2, (code, out, err)
    assert len(lines) == 1 and "Traceback" not in out + err, err
    for word in words:
        assert word in lines[0], lines[0]


def ran(
    main: Callable[[], None],
    words: Sequence[object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[int, str, str]:
    """The exit code, output and error output of an entry point given a command line, the program's name first."""
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    streams = capsys.readouterr()
    return int(stopped.value.code or 0), streams.out, streams.err
