"""The live page against the real `glip-export serve`: what a person does there, and what they then see."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from live import BOX, CAT, PROMPT, Server, dropped, look_for, requests_of, visible_names

from glip_export.prompt import Prompt
from glip_export.results.detections import Detections
from glip_export.runtime.detector import Detector


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return Detector.open(tiny_bundle)


@pytest.fixture(scope="module")
def expected(detector: Detector) -> Detections:
    """What the Detector itself finds."""
    return detector.detect([CAT], PROMPT)[0]


def test_invites_and_says_what_answers(open_tab, server: Server) -> None:
    page = open_tab(server.address).page
    assert page.locator("#invitation").is_visible() and page.locator("#panel").is_hidden()
    page.get_by_text("Drop a picture here").wait_for()
    page.get_by_text(server.model).wait_for()


def test_upload_type_and_boxes_appear(open_tab, server: Server, expected: Detections) -> None:
    tab = open_tab(server.address)
    page = tab.page
    page.set_input_files("#file", CAT)
    page.locator("#status").get_by_text("Type what to look for").wait_for()
    look_for(page, PROMPT)
    shown = expected.above(0.5)
    assert page.locator(BOX).count() == len(shown) > 10
    assert sorted(visible_names(page)) == sorted(shown.names)
    assert page.locator("#shown").inner_text() == f"{len(shown)} of {len(expected)}"
    counts = [f"{name}\n{shown.names.count(name)}" for name in expected.classes]
    assert page.locator("#legend .name").all_inner_texts() == counts
    best = page.locator(".box").last.bounding_box()  # drawn last
    picture = page.locator("#image").bounding_box()
    scale = picture["width"] / expected.image_size[1]
    x1, y1, x2, y2 = expected.boxes[0] * scale
    found = [best["x"] - picture["x"], best["y"] - picture["y"], best["width"], best["height"]]
    assert found == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1)
    assert tab.console == []
    assert {url.split("/")[2] for url in tab.requests if not url.startswith("blob:")} == {server.host}


def test_a_link_says_what_to_look_for(open_tab, server: Server, expected: Detections) -> None:
    page = open_tab(server.address + "?prompt=cat.%20remote+control&score=0.62").page
    page.set_input_files("#file", CAT)
    page.locator("#panel").wait_for()
    assert page.locator("#score-value").inner_text() == "0.62"
    assert sorted(visible_names(page)) == sorted(expected.above(0.62).names)


def test_unk_prompt_is_told_beneath_the_picture(open_tab, server: Server) -> None:
    page = open_tab(server.address).page
    page.set_input_files("#file", CAT)
    look_for(page, "cat. \u732b")
    page.locator("#status").get_by_text("no word for '\u732b'").wait_for()
    look_for(page, PROMPT)
    page.locator("#status").get_by_text("Answered in").wait_for()
    assert "no word for" not in page.locator("#status").inner_text()


def test_row_and_box_mark_each_other(open_tab, server: Server, expected: Detections) -> None:
    page = open_tab(server.address).page
    page.set_input_files("#file", CAT)
    look_for(page, PROMPT)
    page.locator("#list .row").nth(1).hover()
    scale = page.locator("#image").bounding_box()["width"] / expected.image_size[1]
    x1, y1, x2, y2 = (expected.boxes[1] * scale).tolist()
    marked = page.locator(".box.active").bounding_box()
    assert [marked["width"], marked["height"]] == pytest.approx([x2 - x1, y2 - y1], abs=1)
    page.locator("#status").hover()
    assert page.locator(".box.active").count() == 0
    picture = page.locator("#image").bounding_box()
    page.mouse.move(picture["x"] + (x1 + x2) / 2, picture["y"] + (y1 + y2) / 2)
    assert page.locator(".box.active").count() == page.locator("#list li.active").count() == 1


def test_slider_and_names_filter_without_a_request(open_tab, server: Server, expected: Detections) -> None:
    page = open_tab(server.address).page
    asked = requests_of(page)
    page.set_input_files("#file", CAT)
    look_for(page, PROMPT)
    for threshold in (0, 0.6, 0.65, 1):
        page.locator("#score").fill(str(threshold))
        assert page.locator(BOX).count() == len(expected.above(threshold))
        assert len(visible_names(page)) == len(expected.above(threshold))
    assert page.get_by_text("Nothing scores 1.00; the best is").is_visible()
    page.locator("#score").fill("0")
    page.get_by_role("button", name="remote control:").click()
    assert visible_names(page) == ["cat"] * expected.names.count("cat")
    assert len(asked) == 1


def test_another_prompt_reuses_the_picture(open_tab, server: Server, detector: Detector) -> None:
    page = open_tab(server.address).page
    asked = requests_of(page)
    page.set_input_files("#file", CAT)
    look_for(page, PROMPT)
    assert [request.kind for request in asked] == ["upload"]
    page.locator("#prompt").fill("")
    page.locator("#prompt").press_sequentially("dog. sofa", delay=10)
    page.get_by_text("The picture's features were kept").wait_for()
    page.locator("#legend").get_by_text("sofa").wait_for()
    assert page.locator("#legend .name-text").all_inner_texts() == ["dog", "sofa"]
    reused = asked[1:]
    assert reused and {request.kind for request in reused} == {"id"}
    assert len(reused) < len("dog. sofa")  # typing is waited for
    assert json.loads(reused[-1].body) == {
        "images": [{"id": hashlib.sha256(CAT.read_bytes()).hexdigest()}],
        "prompt": "dog. sofa",
        "threshold": 0,
    }
    assert page.locator("#times li").nth(1).inner_text() == "picture kept"
    names = detector.detect([CAT], "dog. sofa")[0].above(0.5).names
    assert sorted(visible_names(page)) == sorted(names)


def test_a_text_file_is_told(open_tab, server: Server, tmp_path: Path) -> None:
    page = open_tab(server.address).page
    (tmp_path / "notes.txt").write_text("no picture")
    page.locator("#prompt").fill(PROMPT)
    page.set_input_files("#file", tmp_path / "notes.txt")
    page.locator("#error").get_by_text("is not a picture that can be read").wait_for()
    assert page.locator("#invitation").is_visible()
    page.set_input_files("#file", CAT)  # the next one is taken all the same
    page.locator(BOX).first.wait_for()
    assert page.locator("#message").is_hidden()


def test_a_bad_prompt_is_told(open_tab, server: Server) -> None:
    page = open_tab(server.address).page
    page.set_input_files("#file", CAT)
    look_for(page, PROMPT)
    page.locator("#prompt").fill(". .")
    page.locator("#error").get_by_text("prompt").wait_for()
    look_for(page, "dog")
    assert page.locator("#message").is_hidden()


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_dropped_and_pasted_pictures(open_tab, server: Server, how: str) -> None:
    page = open_tab(server.address).page
    page.locator("#prompt").fill(PROMPT)
    dropped(page, how, CAT)
    page.locator(BOX).first.wait_for()
    assert page.locator("#picture-name").inner_text() == "cat.jpg, 451 × 300"


def test_dropped_text_is_told(open_tab, server: Server) -> None:
    page = open_tab(server.address).page
    dropped(page, "drop", None)
    page.get_by_text("That is no file").wait_for()


def test_a_picture_the_browser_cannot_show(open_tab, server: Server, tmp_path: Path) -> None:
    from PIL import Image

    with Image.open(CAT) as image:
        image.save(tmp_path / "cat.tiff")
    page = open_tab(server.address).page
    page.set_input_files("#file", tmp_path / "cat.tiff")
    look_for(page, "cat")
    page.get_by_text("Your browser cannot show this kind of picture").wait_for()
    sides = page.locator("#picture").bounding_box()
    assert sides["width"] / sides["height"] == pytest.approx(451 / 300, rel=0.01)


def test_names_are_text(open_tab, server: Server) -> None:
    name = "<img src=x onerror='name=1'>"
    tab = open_tab(server.address)
    tab.page.set_input_files("#file", CAT)
    look_for(tab.page, f"cat. {name}")
    assert tab.page.locator("#legend .name-text").all_inner_texts() == ["cat", name]
    assert name in visible_names(tab.page)
    assert tab.page.locator("img").count() == 2 and tab.console == []


def test_copies_what_is_shown_as_json(open_tab, server: Server, expected: Detections) -> None:
    page = open_tab(server.address, permissions=["clipboard-read", "clipboard-write"]).page
    page.set_input_files("#file", CAT)
    look_for(page, PROMPT)
    page.locator("#score").fill("0.62")
    page.get_by_role("button", name="Copy as JSON").click()
    page.get_by_text("Copied").wait_for()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    shown = expected.above(0.62)
    assert copied["prompt"] == PROMPT and copied["threshold"] == 0.62
    assert [entry["name"] for entry in copied["detections"]] == shown.names
    assert [entry["score"] for entry in copied["detections"]] == pytest.approx(shown.scores.tolist(), abs=1e-4)
    assert copied["image"]["width"] == 451 and copied["classes"] == ["cat", "remote control"]


def test_the_camera_one_picture_and_continuous(open_tab, server: Server) -> None:
    page = open_tab(server.address, permissions=["camera"]).page
    asked = requests_of(page)
    page.locator("#prompt").fill(PROMPT)
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Take the picture").click()
    page.locator("#panel").wait_for()
    assert page.locator("#live").is_hidden() and "camera.jpg" in page.locator("#picture-name").inner_text()
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Continuous").click()
    page.locator("#panel").wait_for()
    while len(asked) < 4:
        page.wait_for_timeout(50)
    page.get_by_role("button", name="Stop the camera").click()
    assert page.evaluate("camera.running") is False
    assert page.locator("#live").is_hidden() and page.locator("#image").is_visible()
    assert {request.kind for request in asked[:4]} == {"upload"}


def test_a_refused_camera_is_told(open_tab, server: Server) -> None:
    page = open_tab(server.address).page
    page.get_by_role("button", name="Camera").click()
    page.get_by_text("The camera was refused").wait_for()
    assert page.locator("#invitation").is_visible()


def test_asks_for_the_token_and_sends_a_forgotten_picture_again(open_tab, locked_server: Server) -> None:
    page = open_tab(locked_server.address).page
    asked = requests_of(page)
    dialog = page.locator("#token-dialog")
    dialog.wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("The server answers only with its token").wait_for()
    page.get_by_role("button", name="Try again").click()
    page.get_by_label("Token", exact=True).fill("not the token of this server")
    page.keyboard.press("Enter")
    page.get_by_text("The server did not take that token").wait_for()
    page.get_by_label("Token", exact=True).fill(locked_server.token)
    page.keyboard.press("Enter")
    page.get_by_text(locked_server.model).wait_for()
    assert dialog.is_hidden() and page.locator("#message").is_hidden()
    page.set_input_files("#file", CAT)
    look_for(page, "cat")
    look_for(page, "dog")
    assert [request.kind for request in asked] == ["upload", "id", "upload"]  # this server keeps no features
    assert page.locator("#message").is_hidden()


def test_a_sentence(open_tab, server: Server, detector: Detector) -> None:
    sentence = "[a cat] beside [a red remote control]"
    tab = open_tab(server.address)
    page = tab.page
    page.set_input_files("#file", CAT)
    page.get_by_text("Sentence", exact=True).click()
    page.get_by_text("Phrases in [brackets]").wait_for()
    assert page.locator(".chip:visible").first.inner_text() == sentence
    asked = requests_of(page)
    page.locator("#prompt").fill("[a cat] beside [a r")
    page.locator("#status").get_by_text("closing ]").wait_for()
    assert asked == []
    page.locator("#prompt").fill(sentence)
    page.locator("#legend .name").nth(1).wait_for()
    expected = detector.detect([CAT], Prompt.from_sentence(sentence))[0]
    assert page.locator("#legend .name-text").all_inner_texts() == ["a cat", "a red remote control"]
    assert sorted(visible_names(page)) == sorted(expected.above(0.5).names)
    page.locator("#prompt").fill("a] cat")
    page.locator("#error").get_by_text("closes none").wait_for()
    page.get_by_text("Names", exact=True).first.click()
    page.locator("#legend .name").get_by_text("a] cat").wait_for()
    assert page.locator("#error").is_hidden()


def test_a_link_with_a_sentence(open_tab, server: Server) -> None:
    page = open_tab(server.address + "?sentence=%5Ba+cat%5D%20on%20a%20sofa").page
    page.set_input_files("#file", CAT)
    page.locator("#panel").wait_for()
    assert page.locator("#as-sentence").is_checked() and page.locator("#prompt").input_value() == "[a cat] on a sofa"
    assert page.locator("#legend .name-text").all_inner_texts() == ["a cat"]
