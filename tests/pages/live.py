"""What the tests of the live page share: a server, and a person's hands and eyes."""

from __future__ import annotations

import base64
import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request

CAT = Path(__file__).parents[2] / "glip_export" / "data" / "pictures" / "cat.jpg"
PROMPT = "cat. remote control"  # on CAT, the small bundle gives boxes on both sides of the slider's first place
BOX = ".box:not([hidden])"

# A file, or without one a link, as the browser hands them over when they are dropped or pasted.
_TRANSFER = """([how, name, encoded]) => {
  const transfer = new DataTransfer();
  if (name) {
    const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
  } else {
    transfer.setData("text/uri-list", "https://example.org/cat.jpg");
  }
  const event = how === "drop"
    ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
  document.getElementById("stage").dispatchEvent(event);
}"""


@dataclass(frozen=True)
class Server:
    """A running `glip-export serve`."""

    host: str  # with its port
    token: str = ""

    @property
    def address(self) -> str:
        return f"http://{self.host}/"

    @property
    def model(self) -> str:
        """What the page says of the model that answers."""
        request = urllib.request.Request(f"{self.address}v1/model", headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=600) as response:
            model = json.load(response)
        return f"{model['name']} on {model['backend']}"


@dataclass(frozen=True)
class Asked:
    """A request for detections: "upload" carries a picture's bytes, "id" only its name."""

    kind: str
    body: str


def requests_of(page: Page) -> list[Asked]:
    """A list that every request for detections from now on is put into."""
    asked: list[Asked] = []

    def note(request: Request) -> None:
        if request.url.endswith("/v1/detect"):
            by_id = request.headers["content-type"] == "application/json"
            asked.append(Asked("id", request.post_data or "") if by_id else Asked("upload", ""))

    page.on("request", note)
    return asked


def look_for(page: Page, prompt: str) -> None:
    """Types a prompt and waits until its boxes are shown."""
    with page.expect_response(lambda response: response.ok and response.url.endswith("/v1/detect")):
        page.locator("#prompt").fill(prompt)
    first = prompt.split(".", maxsplit=1)[0].strip()
    page.locator("#legend li:first-child .name-text").get_by_text(first, exact=True).wait_for()
    page.locator("#stage:not(.busy)").wait_for()


def visible_names(page: Page) -> list[str]:
    """The names in the list of detections."""
    return page.locator("#list li:not([hidden]) .row-name").all_inner_texts()


def dropped(page: Page, how: str, picture: Path | None) -> None:
    """A picture, or a link, dropped ("drop") or pasted ("paste") on the page."""
    encoded = base64.b64encode(picture.read_bytes()).decode() if picture else ""
    page.evaluate(_TRANSFER, [how, picture.name if picture else "", encoded])
