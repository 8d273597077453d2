"""For tests that use nothing but the installed package: in .venv, and in the environments of tests/environments.py.

There the folder is copied out of the checkout, and these variables say what to expect: GLIP_EXPORT_BUNDLE, the demo
model's bundle; GLIP_EXPORT_EXPECTED, what the checkout's own environment finds with it and how it reads its options, as
`python test_installed.py` prints that; GLIP_EXPORT_EXTRAS, the extras that are installed and so must not be skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest) -> Path:
    """The demo model's bundle."""
    given = os.environ.get("GLIP_EXPORT_BUNDLE")
    return Path(given) if given else request.getfixturevalue("demo_bundle")


@pytest.fixture(scope="session")
def expected(bundle: Path) -> dict[str, Any]:
    """What the checkout's own environment says of the bundle; `expectations` of test_installed.py."""
    given = os.environ.get("GLIP_EXPORT_EXPECTED")
    if given:
        return json.loads(Path(given).read_text(encoding="utf-8"))
    from test_installed import expectations

    return expectations(bundle)


@pytest.fixture
def extra() -> Callable[[str, str], None]:
    """extra(name, module): skips the test where the extra is not installed, unless it was to be."""

    def need(name: str, module: str) -> None:
        try:
            found = find_spec(module) is not None
        except ModuleNotFoundError:  # the package that it is in
            found = False
        if not found and name not in os.environ.get("GLIP_EXPORT_EXTRAS", "").split(","):
            pytest.skip(f"the extra {name} is not installed")

    return need


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """command("glip-export", "info", ...): runs an installed script in an empty folder; stops at a traceback."""

    def run(script: str, *words: object) -> subprocess.CompletedProcess[str]:
        line = [str(Path(sys.executable).with_name(script)), *map(str, words)]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run
