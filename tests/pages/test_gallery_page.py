"""The gallery from file://: every box of the JSON, a slider and names that filter, and nothing asked of a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glip_export.cli.detect import run
from glip_export.cli.detect_output import Wanted
from glip_export.cli.detect_prompt import read_prompt
from glip_export.cli.detect_source import LocalSource
from glip_export.results.detections import Detections
from glip_export.results.drawing import _contrast, class_color
from glip_export.results.gallery import GalleryPicture, write_gallery

PICTURES = Path(__file__).parents[2] / "glip_export" / "data" / "pictures"
VISIBLE = ".box:not([hidden])"


@pytest.fixture(scope="module")
def detected(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[list[dict]]]:
    """The address of a gallery that `glip-export detect` wrote, and the detections of its pictures."""
    folder = tmp_path_factory.mktemp("gallery")
    page, report = folder / "gallery.html", folder / "detections.json"
    pictures = [PICTURES / "cat.jpg", PICTURES / "rocket.jpg"]
    prompt = "cat. remote control"
    run(
        pictures,
        read_prompt(prompt),
        LocalSource(tiny_bundle, "onnxruntime", batch_size=1),
        Wanted(0.6, None, report, page),
    )
    results = json.loads(report.read_text())["results"]
    return page.as_uri(), [result["detections"] for result in results]


def count(detections: list[dict], threshold: float, hidden: str = "") -> int:
    return sum(d["score"] >= threshold and d["name"] != hidden for d in detections)


def test_every_box_and_the_slider(open_tab, detected) -> None:
    address, results = detected
    tab = open_tab(address)
    figures = tab.page.locator("figure")
    for threshold in (None, 0, 0.62, 1):
        if threshold is not None:
            tab.page.locator("#score").fill(str(threshold))
        shown = [figures.nth(index).locator(VISIBLE).count() for index in range(2)]
        assert shown == [count(detections, 0.6 if threshold is None else threshold) for detections in results]
    assert sum(map(len, results)) > 50
    assert tab.console == []
    assert [url for url in tab.requests if not url.startswith("data:")] == [address]


def test_boxes_lie_where_they_were_found(open_tab, detected) -> None:
    address, results = detected
    tab = open_tab(address)
    tab.page.locator("#score").fill("0")
    figure = tab.page.locator("figure").first
    picture = figure.locator("img").bounding_box()
    with Image.open(PICTURES / "cat.jpg") as image:
        scale = picture["width"] / image.width
        assert picture["height"] / image.height == pytest.approx(scale, rel=0.01)
    best = figure.locator(".box").last.bounding_box()  # drawn last
    x1, y1, x2, y2 = results[0][0]["box"]
    found = [best["x"] - picture["x"], best["y"] - picture["y"], best["width"], best["height"]]
    assert found == pytest.approx([x1 * scale, y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale], abs=1)


def test_names_filter(open_tab, detected) -> None:
    address, results = detected
    tab = open_tab(address)
    tab.page.locator("#score").fill("0")
    names = tab.page.locator("#legend .name")
    numbers = [sum(d["name"] == name for r in results for d in r) for name in ("cat", "remote control")]
    assert names.all_inner_texts() == [f"cat\n{numbers[0]}", f"remote control\n{numbers[1]}"]
    names.first.click()
    assert names.first.get_attribute("aria-pressed") == "false"
    assert tab.page.locator(VISIBLE).count() == numbers[1]
    assert tab.page.locator("#totals").inner_text().startswith(f"{numbers[1]} boxes in ")
    names.first.click()
    assert tab.page.locator(VISIBLE).count() == sum(numbers)


def test_enlarged_and_walked_through_by_keys(open_tab, detected) -> None:
    address, results = detected
    tab = open_tab(address)
    figure = tab.page.locator("figure").first
    figure.get_by_role("button", name="Enlarge").focus()
    tab.page.keyboard.press("Enter")
    assert figure.locator(".list").is_visible()
    tab.page.keyboard.press("Tab")
    first, second = results[0][:2]
    for detection in (first, second):
        row = tab.page.locator(":focus")
        assert row.get_attribute("aria-label").startswith(f"{detection['name']}, score {detection['score']:.2f}")
        tag = figure.locator(".tag.active")
        assert tag.inner_text() == f"{detection['name']} {detection['score']:.2f}"
        tab.page.keyboard.press("ArrowDown")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_and_is_accessible(open_tab, detected, scheme: str) -> None:
    tab = open_tab(detected[0], width=360, height=740, color_scheme=scheme)
    assert tab.width() <= 360
    tab.page.get_by_role("button", name="Enlarge").first.click()
    assert tab.width() <= 360
    assert tab.barriers() == []
    ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(246, 246, 243)", "dark": "rgb(20, 23, 26)"}[scheme]


def test_names_are_text(open_tab, tmp_path: Path) -> None:
    names = (
        "</script><script>document.title='run'</script>",
        '<img src=x onerror="document.title=1">',
        "<!--",
        "a&amp;b",
    )
    boxes = np.array([[1, 1, 20 + label, 30] for label in range(4)], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.arange(4), names, (40, 60))
    picture = GalleryPicture('"><script>document.title=2</script>.jpg', np.zeros((40, 60, 3), np.uint8), found)
    write_gallery(tmp_path / "page.html", [picture], ". ".join(names), "<b>source</b>")
    tab = open_tab((tmp_path / "page.html").as_uri())
    assert tab.page.locator("#legend .name-text").all_inner_texts() == list(names)
    assert tab.page.title() == "Detections: " + ". ".join(names)
    assert tab.page.locator(".file").inner_text() == picture.name
    assert tab.page.locator(".source").inner_text() == "<b>source</b>"
    assert tab.page.locator("script").count() == 2
    assert tab.console == []


def test_colours_are_those_of_the_drawn_pictures(open_tab, detected) -> None:
    tab = open_tab(detected[0])
    pairs = tab.page.evaluate("[...Array(400).keys()].map((label) => [labelColor(label), inkOn(labelColor(label))])")
    expected = [[list(class_color(label)), list(_contrast(class_color(label)))] for label in range(400)]
    assert pairs == expected
