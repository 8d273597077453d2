"""The body of POST /v1/detect: multipart/form-data or JSON, checked against the server's limits."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from glip_export.errors import PromptError, quoted
from glip_export.phrases import ground, lost_phrase
from glip_export.prompt import Prompt, checked_text
from glip_export.serving import base64_text
from glip_export.serving.answers import BAD_PROMPT, BAD_REQUEST, TOO_LARGE, ServiceError
from glip_export.serving.prompts import prompt_from_json
from glip_export.serving.settings import Settings

JSON = "application/json"
MULTIPART = "multipart/form-data"
MEDIA_TYPES = (JSON, MULTIPART)
_FIELDS = ("image", "prompt", "name", "sentence", "threshold", "deadline_ms")
_JSON_FIELDS = ("images", "prompt", "sentence", "threshold", "deadline_ms")
_JSON_PROMPT = re.compile(r'\s*(\[\s*["{]|[{]\s*")')  # of a form; other texts with brackets are names
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ImageId:
    """A picture that the server may hold, by the SHA-256 of its bytes."""

    key: str


@dataclass(frozen=True, eq=False)
class Payload:
    """A request as it was meant."""

    images: tuple[bytes | ImageId, ...]
    prompt: Prompt
    threshold: float
    deadline_ms: int | None
    notes: tuple[str, ...] = ()  # what a person should know of the sentence


def media_type(content_type: str) -> str:
    """The type of a body that is understood; raises ServiceError (415)."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in MEDIA_TYPES:
        raise ServiceError(BAD_REQUEST, f"the body is {MULTIPART} or {JSON}, not {quoted(content_type)}", status=415)
    return kind


def parse(body: bytes, content_type: str, settings: Settings) -> Payload:
    """A body of one of MEDIA_TYPES; raises ServiceError."""
    fields = _from_json(body) if media_type(content_type) == JSON else _from_multipart(body, content_type, settings)
    images = fields.get("images")
    if not isinstance(images, list) or not images:
        raise ServiceError(BAD_REQUEST, "give one picture or more: parts named image, or a JSON list named images")
    if len(images) > settings.max_pictures:
        raise ServiceError(TOO_LARGE, f"{len(images)} pictures; at most {settings.max_pictures} a request are accepted")
    prompt, notes = _asked(fields, settings)
    return Payload(
        tuple(image if isinstance(image, bytes) else _image(image, n) for n, image in enumerate(images, start=1)),
        prompt,
        _threshold(fields.get("threshold", 0.0)),
        _deadline(fields.get("deadline_ms")),
        notes,
    )


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise ServiceError(BAD_REQUEST, "the body is no valid JSON") from None
    if not isinstance(document, dict):
        raise ServiceError(BAD_REQUEST, 'the JSON is an object: {"images": [{"data": "<base64>"}], "prompt": "cat"}')
    unknown = sorted(set(document) - set(_JSON_FIELDS))
    if unknown:
        raise ServiceError(
            BAD_REQUEST,
            f"there is no {quoted(unknown[0])} in a request: it has {', '.join(_JSON_FIELDS)}",
        )
    return document


def _image(entry: object, number: int) -> bytes | ImageId:
    """{"data": base64, or a data: URL of it} or {"id": SHA-256}."""
    if isinstance(entry, dict) and len(entry) == 1:
        ((key, value),) = entry.items()
        if key == "id" and isinstance(value, str) and _ID.fullmatch(value):
            return ImageId(value)
        if key == "data" and isinstance(value, str):
            try:
                return base64_text.decode(value)
            except ValueError as error:
                raise ServiceError(BAD_REQUEST, f"picture {number}: its data is no valid base64: {error}") from None
    raise ServiceError(
        BAD_REQUEST, f'picture {number} is {{"data": "<base64>"}} or {{"id": "<SHA-256 of its bytes, in hexadecimal>"}}'
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the JSON, in which the last of two would win without a word."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ServiceError(BAD_REQUEST, f"the JSON has {quoted(key)} more than once")
        found[key] = value
    return found


class _Form:
    """Collects the parts of a multipart body."""

    def __init__(self, max_parts: int) -> None:
        self.parts: list[tuple[str, bytes]] = []
        self._max_parts = max_parts
        self._headers: dict[bytes, bytes] = {}
        self._name = b""
        self._value = b""
        self._data = bytearray()

    def callbacks(self) -> dict[str, Any]:
        """For python_multipart's parser."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= self._max_parts:
            raise ServiceError(TOO_LARGE, f"the form has more than {self._max_parts} parts: too many names or pictures")
        self._headers, self._data = {}, bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name not in _FIELDS:
            raise ServiceError(BAD_REQUEST, f"there is no {quoted(name)} in a form: it has {', '.join(_FIELDS)}")
        self.parts.append((name, bytes(self._data)))


def _from_multipart(body: bytes, content_type: str, settings: Settings) -> dict[str, Any]:
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise ServiceError(BAD_REQUEST, "the form's Content-Type names no boundary")
    form = _Form(settings.max_pictures + settings.max_names + len(_FIELDS))
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise ServiceError(BAD_REQUEST, "the form is no valid multipart/form-data") from None
    if form.parts and not _is_closed(body, boundary):
        raise ServiceError(BAD_REQUEST, "the form is cut off: its last boundary is missing")
    fields: dict[str, Any] = {"images": [data for name, data in form.parts if name == "image"]}
    names = [_text(data, "name") for name, data in form.parts if name == "name"]
    for key in ("prompt", "sentence", "threshold", "deadline_ms"):
        values = [_text(data, key) for name, data in form.parts if name == key]
        if len(values) > 1:
            raise ServiceError(BAD_REQUEST, f"the form has {key} {len(values)} times")
        if values:
            fields[key] = _number(values[0], key) if key in ("threshold", "deadline_ms") else values[0]
    if names and "prompt" in fields:
        raise ServiceError(BAD_REQUEST, "the form has a prompt and names: give one of them")
    if names:
        fields["prompt"] = names
    elif "prompt" in fields and _JSON_PROMPT.match(fields["prompt"]):
        fields["prompt"] = _json_prompt(fields["prompt"])
    return fields


def _json_prompt(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise ServiceError(BAD_PROMPT, "the prompt begins as JSON, and is no valid JSON") from None


def _is_closed(body: bytes, boundary: bytes) -> bool:
    return b"--" + boundary + b"--" in body[-len(boundary) - 256 :]


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ServiceError(BAD_REQUEST, f"{name} is no valid UTF-8") from None


def _number(text: str, name: str) -> float | int:
    try:
        return int(text) if name == "deadline_ms" else float(text)
    except ValueError:
        raise ServiceError(BAD_REQUEST, f"{name} is a number, not {quoted(text)}") from None


def _asked(fields: Mapping[str, Any], settings: Settings) -> tuple[Prompt, tuple[str, ...]]:
    """The prompt, or that of the sentence, and what a person should know of it."""
    if "sentence" in fields and "prompt" in fields:
        raise ServiceError(BAD_REQUEST, "the request has a prompt and a sentence: give one of them")
    try:
        if "sentence" in fields:
            return _of_sentence(fields["sentence"], settings)
        return prompt_from_json(fields.get("prompt"), settings.max_names, settings.max_characters), ()
    except PromptError as error:
        raise ServiceError(BAD_PROMPT, str(error)) from None


def _of_sentence(text: object, settings: Settings) -> tuple[Prompt, tuple[str, ...]]:
    if not isinstance(text, str):
        raise PromptError(f'the sentence is a text, "[a cat] beside [a cup]", not {quoted(text)}')
    if len(text) > settings.max_characters:
        raise PromptError(f"the sentence has {len(text)} characters; at most {settings.max_characters} are accepted")
    caption, spans, lost = ground(checked_text(text))
    if len(spans) > settings.max_names:
        raise PromptError(f"the sentence has {len(spans)} phrases; at most {settings.max_names} are accepted")
    return Prompt.from_spans(caption, spans), tuple(lost_phrase(phrase) for phrase in lost)


def _threshold(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:  # NaN is neither
        raise ServiceError(BAD_REQUEST, f"threshold is a number from 0 to 1, not {quoted(value)}")
    return float(value)


def _deadline(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= math.inf:
        raise ServiceError(BAD_REQUEST, f"deadline_ms is a whole number of milliseconds from 1, not {quoted(value)}")
    return value
