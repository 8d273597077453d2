"""The pages in a real, headless Chromium: marked `browser`, skipped with the reason where there is none."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from live import Server
from waiting import LIMIT

from glip_export.processes import child_environment

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# As root in a container there is no sandbox; the others keep it from asking its maker's hosts for anything.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a camera that shows a moving test picture
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def missing() -> str:
    """What keeps every test here from running, or nothing."""
    for module, package in (("playwright", "playwright"), ("axe_playwright_python", "axe-playwright-python")):
        if importlib.util.find_spec(module) is None:
            return f"{package} is not installed: pip install {package}"
    if executable() is None:
        return "no Chromium here: apt-get install chromium"
    return ""


def executable() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Tab:
    """An open page, what its console said, and the address of everything it asked for."""

    page: Page
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def width(self) -> int:
        """Of everything on the page, in CSS pixels: more than the window's makes it scroll sideways."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def barriers(self) -> list[str]:
        """What axe-core finds that keeps people from using the page as it is now."""
        from axe_playwright_python.sync_playwright import Axe

        violations = Axe().run(self.page).response["violations"]
        return [f"{found['id']}: {found['help']}, at {found['nodes'][0]['html']}" for found in violations]


@pytest.fixture(scope="module")  # not for the session: the loop it runs in would be in the way of other files' loops
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_tab(chromium: Browser) -> Iterator[Callable[..., Tab]]:
    """open_tab(address, width=360, ...) opens a page in a browser of its own, closed after the test."""
    contexts = []

    def open_it(address: str, width: int = 1280, height: int = 800, **words: Any) -> Tab:
        context = chromium.new_context(viewport={"width": width, "height": height}, **words)
        context.set_default_timeout(1000 * LIMIT)
        contexts.append(context)
        tab = Tab(context.new_page())
        tab.page.on("console", lambda message: tab.console.append(message.text))
        tab.page.on("pageerror", lambda error: tab.console.append(str(error)))
        tab.page.on("request", lambda request: tab.requests.append(request.url))
        tab.page.goto(address)
        return tab

    yield open_it
    for context in contexts:
        context.close()


@contextmanager
def serve(bundle: Path, *options: str, token: str = "") -> Iterator[Server]:
    """`glip-export serve` on a free port, until the block ends."""
    words = [sys.executable, "-m", "glip_export.cli", "serve", str(bundle), "--port", "0", "--backend", "onnxruntime"]
    environment = {**child_environment(), **({"GLIP_EXPORT_TOKEN": token} if token else {})}
    with subprocess.Popen(
        [*words, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            found = re.search(r"http://([^/\s;]+)", line)
            assert found, line + (process.communicate()[0] if process.poll() is not None else "")
            yield Server(found[1], token)
        finally:
            process.terminate()
            process.wait(LIMIT)


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[Server]]:
    """serving(bundle, "--image-cache", "0", token="...") is a context with a running server."""
    return serve


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Server]:
    with serve(tiny_bundle) as running:
        yield running


@pytest.fixture(scope="module")
def locked_server(tiny_bundle: Path) -> Iterator[Server]:
    """One that asks for a token and keeps no picture's features."""
    with serve(tiny_bundle, "--image-cache", "0", token="the-token-of-this-test") as running:
        yield running
