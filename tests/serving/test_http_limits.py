"""What the service refuses, with which code and in which words; the real model is not needed for that."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
from http_service import AMPLE_MS, Service, box_of, running_service
from raw_http import detect, form, request
from waiting import wait_until

from glip_export.errors import GlipExportError
from glip_export.runtime.requests import image_key
from glip_export.serving.settings import Settings

TOKEN = "0123456789abcdef-token"
SETTINGS = Settings(
    max_bytes=5000,
    max_pictures=3,
    max_names=4,
    max_characters=100,
    max_queue=3,
    upload_seconds=600,
    deadline_ms=AMPLE_MS,
)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service(settings=SETTINGS) as running:
        yield running


def as_json(**changed: object) -> bytes:
    document = {"images": [{"data": base64.b64encode(b"photo").decode()}], "prompt": "cat", **changed}
    return request(body=json.dumps(document).encode(), headers={"Content-Type": "application/json"})


def as_text(document: bytes) -> bytes:
    return request(body=document, headers={"Content-Type": "application/json"})


def as_form(*parts: tuple[str, bytes]) -> bytes:
    return request("/v1/detect", *form(parts))


IMAGE, PROMPT = ("image", b"photo"), ("prompt", b"cat")
BAD = [
    (as_form(PROMPT), 400, "bad_request", "picture"),
    (as_form(IMAGE), 400, "bad_prompt", "prompt"),
    (as_form(IMAGE, ("prompt", b" . ")), 400, "bad_prompt", "empty"),
    (as_form(IMAGE, PROMPT, ("name", b"dog")), 400, "bad_request", "one of them"),
    (as_form(IMAGE, PROMPT, PROMPT), 400, "bad_request", "2 times"),
    (as_form(IMAGE, ("prompt", b"\xff")), 400, "bad_request", "UTF-8"),
    (as_form(IMAGE, PROMPT, ("threshold", b"high")), 400, "bad_request", "threshold"),
    (as_form(IMAGE, PROMPT, ("threshold", b"1.5")), 400, "bad_request", "threshold"),
    (as_form(IMAGE, PROMPT, ("threshold", b"nan")), 400, "bad_request", "threshold"),
    (as_form(IMAGE, PROMPT, ("deadline_ms", b"0")), 400, "bad_request", "deadline_ms"),
    (as_form(IMAGE, PROMPT, ("colour", b"red")), 400, "bad_request", "colour"),
    (as_form(IMAGE, *[("name", b"cat")] * 5), 400, "bad_prompt", "5 names"),
    (as_form(*[IMAGE] * 4, PROMPT), 413, "too_large", "at most 3"),
    (as_form(("image", b"bad"), PROMPT), 400, "bad_image", "the picture is not a picture"),
    (as_form(IMAGE, ("image", b"bad"), PROMPT), 400, "bad_image", "picture 2: "),
    (as_form(("image", b"x" * 6000), PROMPT), 413, "too_large", "5000 bytes"),
    (as_text(b'{"prompt": "cat", "prompt": "dog"}'), 400, "bad_request", "'prompt' more than once"),
    (as_json(prompt=None), 400, "bad_prompt", "prompt"),
    (as_json(prompt=["a", 1]), 400, "bad_prompt", "text"),
    (as_json(prompt=["cat"] * 5), 400, "bad_prompt", "5 names"),
    (as_json(prompt="a. b. c. d. e"), 400, "bad_prompt", "5 names"),
    (as_json(prompt="a" * 101), 400, "bad_prompt", "101 characters"),
    (as_json(prompt="!" * 90), 400, "bad_prompt", "92 tokens"),
    (as_json(images=[]), 400, "bad_request", "picture"),
    (as_json(images="photo"), 400, "bad_request", "picture"),
    (as_json(images=[{"data": "?"}]), 400, "bad_request", "base64"),
    (as_json(images=[{"data": 1}]), 400, "bad_request", "picture 1"),
    (as_json(images=[{"data": "", "id": ""}]), 400, "bad_request", "picture 1"),
    (as_json(images=[{"id": "0" * 63}]), 400, "bad_request", "picture 1"),
    (as_json(images=[{"id": "0" * 64}]), 404, "unknown_image", "0" * 64),
    (as_json(threshold="0.5"), 400, "bad_request", "threshold"),
    (as_json(threshold=True), 400, "bad_request", "threshold"),
    (as_json(deadline_ms=1.5), 400, "bad_request", "deadline_ms"),
    (as_json(colour="red"), 400, "bad_request", "colour"),
    (request(body=b"[]", headers={"Content-Type": "application/json"}), 400, "bad_request", "object"),
    (request(body=b"{", headers={"Content-Type": "application/json"}), 400, "bad_request", "JSON"),
    (request(body=b"a", headers={"Content-Type": "image/png"}), 415, "bad_request", "image/png"),
    (request(body=b"a"), 415, "bad_request", "multipart/form-data"),
    (request(headers={"X": "a" * 40_000}), 431, "too_large", "headers"),
    (request("/nowhere"), 404, "bad_request", "Not Found"),
    (request("/v1/model"), 405, "bad_request", "Method Not Allowed"),
    (b"no HTTP at all\r\n\r\n", 400, "bad_request", "HTTP"),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 600_000, 400, "bad_request", "headers"),
]  # fmt: skip


SLOW = [
    [b"POST /v1/detect HTTP/1.1\r\nHost: [::1]\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"],
    [b"GET / HTTP/1.1\r\n", b"X: a\r\n", b"X: a\r\n", b"X: a\r\n"],
    [b""],
]


@pytest.mark.parametrize(("data", "status", "code", "words"), BAD)
def test_refusals(service: Service, data: bytes, status: int, code: str, words: str) -> None:
    reply = service.ask(data)
    assert reply.status == status, reply
    error = reply.json()["error"]
    assert set(error) == {"code", "message"} and error["code"] == code
    assert words in error["message"] and "\n" not in error["message"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert service.ask(detect(b"photo", "cat")).status == 200  # and goes on


@pytest.mark.parametrize("parts", SLOW, ids=["body", "headers", "nothing"])
def test_what_does_not_come_in_time_is_refused(parts: list[bytes]) -> None:
    with running_service(settings=replace(SETTINGS, upload_seconds=0.5)) as service:
        reply = service.ask(parts, pause=0.3)
        assert (reply.status, reply.json()["error"]["code"]) == (408, "bad_request")
        assert "0.5 s" in reply.json()["error"]["message"]
        wait_until(lambda: service.ask(detect(b"photo", "cat")).status == 200)  # and goes on; a slow one may be late


def test_answers(service: Service) -> None:
    key = image_key(b"photo")
    for data in (
        detect(b"photo", "cat. dog"),
        as_json(prompt=["cat", "dog"]),
        as_form(IMAGE, ("name", b"cat"), ("name", b"dog")),
    ):
        document = service.ask(data).json()
        assert document["results"] == [
            {
                "image": {"id": key, "width": 20, "height": 10},
                "classes": ["cat", "dog"],
                "detections": [{"name": "cat", "label": 0, "score": 0.9, "box": box_of(key)}],
            }
        ]
        assert list(document["timing_ms"]) == ["queue", "image", "text", "head", "total"]
        assert document["cached"] == [False]
        assert document["warnings"] == []


def test_unk_prompt_is_told_in_the_answer(service: Service) -> None:
    (warning,) = service.ask(as_json(prompt="\u732b. cat")).json()["warnings"]
    assert "no word for '\u732b'" in warning


def test_several_pictures_keep_their_order(service: Service) -> None:
    pictures = [b"one", b"two", b"three"]
    document = service.ask(as_form(*(("image", picture) for picture in pictures), PROMPT)).json()
    assert [one["image"]["id"] for one in document["results"]] == [image_key(picture) for picture in pictures]
    boxes = [one["detections"][0]["box"] for one in document["results"]]
    assert boxes == [box_of(image_key(picture)) for picture in pictures]


def test_a_token_is_asked_for() -> None:
    with running_service(token=TOKEN) as service:
        for header in (None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN):
            reply = service.ask(request("/v1/model", headers={"Authorization": header} if header else {}, method="GET"))
            assert (reply.status, reply.json()["error"]["code"]) == (401, "unauthorized")
            assert reply.headers["www-authenticate"] == "Bearer"
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert service.ask(detect(b"photo", "cat")).status == 401
        assert service.ask(request("/v1/model", headers=bearer, method="GET")).json()["backend"] == "fake"
        body, headers = form([IMAGE, PROMPT])
        assert service.ask(request("/v1/detect", body, {**headers, **bearer})).status == 200
        schema = service.ask(request("/openapi.json", method="GET")).json()
        assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        for path in ("/", "/healthz", "/readyz", "/metrics"):
            assert service.ask(request(path, method="GET")).status == 200


def test_pages_of_other_sites_are_refused(service: Service) -> None:
    body, headers = form([IMAGE, PROMPT])
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        reply = service.ask(request("/v1/detect", body, {**headers, "Sec-Fetch-Site": site}))
        assert reply.status == status, site
        assert status == 200 or reply.json()["error"]["code"] == "forbidden"


def test_bodies_that_are_held_are_bounded() -> None:
    settings = Settings(max_bytes=60_000, max_held_bytes=100_000, deadline_ms=AMPLE_MS)
    with running_service(settings=settings) as service:
        refused = partial(service.value, "glip_errors_total", error="busy")
        with service.held_until(lambda: refused() == 2, service.model.may_prepare):
            replies = service.ask_all([detect(bytes(50_000), "cat")] * 3)
        assert sorted(reply.status for reply in replies) == [200, 429, 429]
        assert {reply.headers.get("retry-after") for reply in replies} == {None, "1"}
        assert service.ask(detect(bytes(50_000), "cat")).status == 200


def test_settings_that_contradict() -> None:
    for changed, word in (
        ({"max_queue": 3}, "--max-queue"),
        ({"max_held_bytes": 9}, "--max-held-bytes"),
        ({"max_batch": 0}, "--max-batch"),
    ):
        with pytest.raises(GlipExportError, match=word):
            Settings(**changed)
