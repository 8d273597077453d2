"""A request's prompt in all its forms: names with words around them, a caption with spans, a sentence."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from http_service import AMPLE_MS, Service, running_service
from raw_http import detect, form, request

from glip_export import phrases
from glip_export.client import Client
from glip_export.errors import ServerError
from glip_export.prompt import Prompt
from glip_export.serving.settings import Settings

SETTINGS = Settings(max_names=4, max_characters=200, deadline_ms=AMPLE_MS)
HOLES = {"prefix": "there are some ", "name": "holes", "suffix": " on the road"}
TAGGED = [("mr.", "NN"), ("smith", "NN"), ("and", "CC"), ("a", "DT"), ("cat", "NN")]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service(settings=SETTINGS) as running:
        yield running


def as_json(**fields: object) -> bytes:
    document = {"images": [{"data": base64.b64encode(b"photo").decode()}], **fields}
    return request(body=json.dumps(document).encode(), headers={"Content-Type": "application/json"})


def as_form(**fields: str) -> bytes:
    return request("/v1/detect", *form([("image", b"photo"), *((key, text.encode()) for key, text in fields.items())]))


@pytest.mark.parametrize(
    "prompt",
    [["traffic light", HOLES], [{"name": "cat"}, HOLES], {"caption": "a cat on a mat", "spans": [[0, 5], [[9, 14]]]}],
)
def test_a_prompt_as_json_and_in_a_form(service: Service, prompt: list[object] | dict[str, object]) -> None:
    expected = (
        Prompt.from_spans(prompt["caption"], prompt["spans"])  # type: ignore[arg-type]
        if isinstance(prompt, dict)
        else Prompt.of(prompt)  # type: ignore[arg-type]
    )
    for data in (as_json(prompt=prompt), as_form(prompt=f" {json.dumps(prompt)}")):
        document = service.ask(data).json()
        assert document["results"][0]["classes"] == list(expected.names)
        assert document.get("caption") == expected.caption


def test_a_text_of_a_form_with_other_brackets_is_names(service: Service) -> None:
    for text in ("[a cat]. dog", "{cat. dog"):
        document = service.ask(as_form(prompt=text)).json()
        assert document["results"][0]["classes"] == list(Prompt.of(text).names)


def test_a_sentence_in_brackets(service: Service) -> None:
    for data in (as_json(sentence="[A cat] on [a mat]"), as_form(sentence="[A cat] on [a mat]")):
        document = service.ask(data).json()
        assert document["results"][0]["classes"] == ["A cat", "a mat"]
        assert document["results"][0]["detections"][0]["name"] == "A cat"
        assert document["caption"] == "A cat on a mat"
        assert document["phrases"] == [{"name": "A cat", "spans": [[0, 5]]}, {"name": "a mat", "spans": [[9, 14]]}]
        assert document["warnings"] == []


def test_the_noun_phrases_of_a_sentence(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phrases, "_nltk_tagger", lambda: lambda text: TAGGED)
    document = service.ask(as_json(sentence="Mr. Smith and a cat")).json()
    assert document["caption"] == "mr. smith and a cat" and document["results"][0]["classes"] == ["a cat"]
    (warning,) = document["warnings"]
    assert warning.startswith("'mr smith' is not looked for")


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (as_json(prompt="cat", sentence="[a cat]"), "bad_request", "a prompt and a sentence: give one of them"),
        (as_form(name="cat", sentence="[a cat]"), "bad_request", "a prompt and a sentence: give one of them"),
        (as_json(sentence=["a cat"]), "bad_prompt", "the sentence is a text"),
        (as_json(sentence="[a [red] cat]"), "bad_prompt", "opens inside another"),
        (as_json(sentence="[a]" * 5), "bad_prompt", "5 phrases; at most 4"),
        (as_form(sentence="[a]" * 70), "bad_prompt", "210 characters; at most 200"),
        (as_json(sentence="[a \ud800]"), "bad_prompt", "surrogate"),
        (as_json(prompt=[{"name": "cat", "colour": "red"}]), "bad_prompt", "name 1 of the prompt is {'name': 'cat'"),
        (as_json(prompt=[{"prefix": "a" * 200, "name": "cat"}]), "bad_prompt", "203 characters"),
        (as_json(prompt=["cat", {"prefix": "a ", "name": " "}]), "bad_prompt", "name 2 of the prompt is empty"),
        (as_json(prompt={"caption": "a cat"}), "bad_prompt", "the prompt is a text, "),
        (as_json(prompt={"caption": "a cat", "spans": [[0, 6]]}), "bad_prompt", "outside the caption"),
        (as_json(prompt={"caption": "a cat", "spans": [[0, 1]] * 5}), "bad_prompt", "5 names; at most 4"),
        (as_json(prompt={"caption": "a cat", "spans": [[[0, 1]] * 20_001]}), "bad_prompt", "more than 10000 spans"),
        (as_json(prompt={"caption": "a" * 201, "spans": [[0, 1]]}), "bad_prompt", "201 characters"),
        (as_json(prompt=[[[]]]), "bad_prompt", "name 1 of the prompt is [[]]"),
        (as_form(prompt='["cat", '), "bad_prompt", "no valid JSON"),
        (as_form(prompt='[{"name": "a", "name": "b"}]'), "bad_request", "'name' more than once"),
    ],
)
def test_refusals(service: Service, data: bytes, code: str, words: str) -> None:
    reply = service.ask(data)
    assert reply.status == 400, reply
    error = reply.json()["error"]
    assert error["code"] == code and "\n" not in error["message"]
    assert words in error["message"]
    assert service.ask(detect(b"photo", "cat")).status == 200  # and goes on


def test_the_client_sends_every_kind_of_prompt(service: Service) -> None:
    with Client(service.url) as client:
        for prompt in (
            "[cat. dog",
            ["U.S. flag", "[cat"],
            ["traffic light", HOLES],
            Prompt.from_sentence("[a cat] on [a] caterpillar"),
            Prompt.from_spans("a cat and a dog", [[(0, 1), (10, 11)], (12, 15)]),
        ):
            for cached in (False, True):
                (found,) = client.detect([b"photo"], prompt, cached=cached)
                assert found.classes == Prompt.of(prompt).names
        with pytest.raises(ServerError, match="5 names"):
            client.detect([b"photo"], Prompt.from_sentence("[a]" * 5))
