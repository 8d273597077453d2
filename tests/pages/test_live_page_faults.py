"""The live page where server or network fail, answers cross, or the page is used by keys or on a phone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from live import BOX, CAT, PROMPT, Server, look_for, requests_of
from waiting import wait_until

DETECT = "**/v1/detect"


def test_the_last_prompt_wins(open_tab, server: Server) -> None:
    page = open_tab(server.address).page
    page.set_input_files("#file", CAT)
    look_for(page, "cat")
    held, stopped = [], []
    page.on("requestfailed", lambda request: stopped.append(json.loads(request.post_data)["prompt"]))

    def hold_dog(route) -> None:
        held.append(route) if "dog" in route.request.post_data else route.continue_()

    page.route(DETECT, hold_dog)
    page.locator("#prompt").fill("dog")
    while not held:
        page.wait_for_timeout(20)
    look_for(page, "sofa")
    assert stopped == ["dog"]
    assert page.locator("#message").is_hidden()


def test_an_upload_is_not_stopped_by_typing(open_tab, server: Server) -> None:
    page = open_tab(server.address).page
    asked, held = requests_of(page), []
    page.route(DETECT, lambda route: route.continue_() if held else held.append(route))
    page.locator("#prompt").fill(PROMPT)
    page.set_input_files("#file", CAT)
    while not held:
        page.wait_for_timeout(20)
    page.locator("#prompt").fill("dog")
    page.wait_for_timeout(500)
    held[0].continue_()
    page.locator("#legend").get_by_text("dog").wait_for()
    assert [request.kind for request in asked] == ["upload", "id"]
    assert page.get_by_text("The picture's features were kept").is_visible()


def test_a_busy_server_is_asked_again(open_tab, server: Server) -> None:
    page = open_tab(server.address).page
    busy = {"error": {"code": "busy", "message": "too many"}}
    times = []

    def first_busy(route) -> None:
        times.append(page.evaluate("performance.now()"))
        if len(times) == 1:
            headers = {"Retry-After": "1", "Content-Type": "application/json"}
            route.fulfill(status=429, headers=headers, body=json.dumps(busy))
        else:
            route.continue_()

    page.route(DETECT, first_busy)
    page.locator("#prompt").fill(PROMPT)
    page.set_input_files("#file", CAT)
    page.get_by_text("The server is busy; asking again in 1 s").wait_for()
    page.locator(BOX).first.wait_for()
    assert len(times) == 2 and times[1] - times[0] >= 1000
    assert page.locator("#message").is_hidden()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "The server cannot be reached"),
        ({"status": 502, "body": "<h1>Bad gateway"}, "The server answered 502"),
        ({"status": 504, "json": {"error": {"code": "deadline", "message": "not done in 10 s"}}}, "not done in 10 s"),
    ],
)
def test_failures_are_told_and_can_be_tried_again(open_tab, server: Server, answer: dict | None, words: str) -> None:
    page = open_tab(server.address).page
    page.route(DETECT, lambda route: route.fulfill(**answer) if answer else route.abort())
    page.locator("#prompt").fill(PROMPT)
    page.set_input_files("#file", CAT)
    page.locator("#error").get_by_text(words).wait_for()
    page.unroute(DETECT)
    page.get_by_role("button", name="Try again").click()
    page.locator(BOX).first.wait_for()
    assert page.locator("#message").is_hidden()


def test_too_large_a_picture_is_not_sent(open_tab, server: Server, tmp_path: Path) -> None:
    page = open_tab(server.address).page
    page.get_by_text(server.model).wait_for()
    asked = requests_of(page)
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(40_000_000)
    page.locator("#prompt").fill(PROMPT)
    page.set_input_files("#file", large)
    page.get_by_text("large.jpg has 40 MB; this server takes 32 MB.").wait_for()
    assert asked == []


def test_keys_alone_are_enough(open_tab, server: Server) -> None:
    page = open_tab(server.address).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.keyboard.type(PROMPT)
    stops = {}
    while "file" not in stops:
        page.keyboard.press("Tab")
        stops[focused(page)] = ring(page)
    choose(page, CAT)
    page.locator(BOX).first.wait_for()
    while focused(page) != "score":
        page.keyboard.press("Tab")
        stops[focused(page)] = ring(page)
    before = page.locator(BOX).count()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    assert page.locator("#score-value").inner_text() == "0.62"
    assert 0 < page.locator(BOX).count() < before
    while focused(page) != "row":
        page.keyboard.press("Tab")
        stops[focused(page)] = ring(page)
    marked = page.locator(".box.active")
    first = marked.bounding_box()
    page.keyboard.press("ArrowDown")
    assert page.locator(".box.active").count() == 1 and marked.bounding_box() != first
    page.keyboard.press("End")
    assert page.locator(":focus").get_attribute("aria-label") == (
        page.locator("#list li:not([hidden]) .row").last.get_attribute("aria-label")
    )
    page.keyboard.press("Tab")
    assert page.locator(".box.active").count() == 0
    assert {"chip", "file", "camera", "score", "name", "copy", "row"} <= stops.keys()
    assert all(stops.values()), stops


def choose(page, path) -> None:
    """Space pressed on the file input; again where the machine slept for the 5 s after which no press counts."""
    choosers = []

    def opened(chooser) -> None:
        choosers.append(chooser)

    def has_opened() -> list:
        page.keyboard.press("Space")
        page.wait_for_timeout(500)
        return choosers

    page.on("filechooser", opened)
    wait_until(has_opened, "Space on the file input opens no file chooser")
    choosers[0].set_files(path)


def focused(page) -> str:
    return page.evaluate("document.activeElement.id || document.activeElement.className.split(' ')[0]")


def ring(page) -> bool:
    """Whether the focus is seen: an outline at the element or, for the unseen file input, at its label."""
    return page.evaluate(
        "[document.activeElement, document.activeElement.parentElement]"
        ".some((node) => getComputedStyle(node).outlineStyle === 'solid')"
    )


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_and_is_accessible(open_tab, server: Server, width: int, scheme: str) -> None:
    tab = open_tab(server.address, width=width, height=740, color_scheme=scheme)
    page = tab.page

    def check() -> None:
        assert tab.width() <= width
        assert tab.barriers() == []

    page.get_by_text(server.model).wait_for()
    check()
    page.set_input_files("#file", CAT)
    look_for(page, "cat. remote control. a name as long as nobody would ever type it, all the way to the end of it")
    check()
    page.locator("#prompt").fill(". .")
    page.locator("#error").get_by_text("prompt").wait_for()
    check()
    page.evaluate("askToken()")
    check()


def test_the_picture_stays_in_view_on_a_phone(open_tab, server: Server) -> None:
    page = open_tab(server.address, width=360, height=740).page
    page.set_input_files("#file", CAT)
    look_for(page, PROMPT)
    page.locator("#list li:not([hidden]) .row").nth(12).scroll_into_view_if_needed()
    picture = page.locator("#picture").bounding_box()
    assert picture["y"] > -30 and picture["y"] + picture["height"] < 400
