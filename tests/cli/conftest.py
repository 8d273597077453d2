"""The command line as a function."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import ran

from glip_export.cli import main


@pytest.fixture
def glip_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command line in an empty folder: its exit code, output and error output."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        return ran(main, ["glip-export", *words], monkeypatch, capsys)

    return run
