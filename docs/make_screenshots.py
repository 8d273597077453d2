"""The README's pictures of the two pages: docs/serve.png of the live page and docs/gallery.png of a gallery.

    make demo && python docs/make_screenshots.py

Needs Chromium and playwright; see tests/pages. By default it shows the demo model on the picture and the scenes of
`make demo`; with --bundle, --picture, --prompt, --scenes and --scenes-prompt, anything else.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from glip_export.cli.console import run_app
from glip_export.errors import GlipExportError
from glip_export.processes import child_environment

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[1]
SIZE = {"width": 1280, "height": 800}
GLIP_EXPORT = [sys.executable, "-m", "glip_export.cli"]


def main() -> None:
    """Starts the server, opens both pages, and photographs them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "engines" / "demo")
    parser.add_argument("--picture", type=Path, default=ROOT / "demo" / "picture.jpg", help="of the live page")
    parser.add_argument("--prompt", help="of the live page; by default the demo picture's first")
    parser.add_argument("--scenes", type=Path, nargs="+", help="of the gallery; by default six scenes of `make demo`")
    parser.add_argument("--scenes-prompt", help="of the gallery; by default what the scenes hold")
    parser.add_argument("--score", type=float, default=0.4, help="where the slider stands")
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    prompt = arguments.prompt or json.loads((ROOT / "demo" / "picture.json").read_text())["prompts"][0]
    scenes = arguments.scenes or sorted((ROOT / "demo-output" / "scenes" / "images").iterdir())[:6]
    scenes_prompt = arguments.scenes_prompt or names_in(scenes)
    with tempfile.TemporaryDirectory() as folder, browser_page() as page:
        with serving(arguments.bundle) as address:
            live_page(page, address, arguments.picture, prompt, arguments.score)
            photograph(page, arguments.output / "serve.png")
        gallery = Path(folder, "gallery.html")
        words = ["detect", *scenes, "--bundle", arguments.bundle, "--prompt", scenes_prompt]
        words += ["--threshold", arguments.score, "--batch-size", 1, "--output", folder, "--html", gallery]
        subprocess.run([*GLIP_EXPORT, *map(str, words)], check=True)
        page.goto(gallery.as_uri())
        photograph(page, arguments.output / "gallery.png")


def photograph(page: Page, path: Path) -> None:
    """What the page shows, with 256 colours: a third of the bytes."""
    page.screenshot(path=path)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
    few.save(path, optimize=True)


def live_page(page: Page, address: str, picture: Path, prompt: str, score: float) -> None:
    """Uploads, then asks again, so that the picture's features are reused."""
    page.goto(f"{address}?score={score}")
    page.set_input_files("#file", picture)
    page.locator("#prompt").fill(prompt.split(".", maxsplit=1)[0])
    page.locator("#panel").wait_for()
    page.locator("#prompt").fill(prompt)
    page.get_by_text("features were kept").wait_for()


def names_in(scenes: list[Path]) -> str:
    """The names of what COCO annotations beside the scenes' folder say is in them, as a prompt."""
    coco = json.loads((scenes[0].parents[1] / "annotations.json").read_text())
    shown = {image["id"] for image in coco["images"] if image["file_name"] in {scene.name for scene in scenes}}
    used = {annotation["category_id"] for annotation in coco["annotations"] if annotation["image_id"] in shown}
    return ". ".join(category["name"] for category in coco["categories"] if category["id"] in used)


@contextmanager
def serving(bundle: Path) -> Iterator[str]:
    """The address of a `glip-export serve` that runs until the block ends."""
    words = [*GLIP_EXPORT, "serve", str(bundle), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=child_environment()) as process:
        try:
            found = re.search(r"http://[^/\s;]+", process.stdout.readline() if process.stdout else "")
            if found is None:
                raise GlipExportError("the server did not start; it says why above")
            yield found[0] + "/"
        finally:
            process.terminate()


@contextmanager
def browser_page() -> Iterator[Page]:
    """A page of a headless Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise GlipExportError("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page(viewport=SIZE, color_scheme="light")
        browser.close()


if __name__ == "__main__":
    run_app(main, "make_screenshots.py")
