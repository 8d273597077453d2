"""The request and the answers in words of OpenAPI; what a body really holds is checked in `payload`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from glip_export.serving.answers import CODES
from glip_export.serving.payload import JSON, MULTIPART

BOX = "x1, y1, x2, y2 in the pixels of the picture as given, upright where its EXIF turns it"


class ImageSize(BaseModel):
    """A picture of the request."""

    id: str = Field(description="SHA-256 of its bytes; names it in a later request while the server holds it")
    width: int
    height: int


class Detection(BaseModel):
    """One object."""

    name: str
    label: int = Field(description="index of the name in classes")
    score: float
    box: tuple[float, float, float, float] = Field(description=BOX)


class PictureResult(BaseModel):
    """One picture's detections, by falling score."""

    image: ImageSize
    classes: list[str]
    detections: list[Detection]


class Phrase(BaseModel):
    """A class of a sentence."""

    name: str
    spans: list[tuple[int, int]] = Field(description="its characters in the caption, the end exclusive")


class DetectAnswer(BaseModel):
    """Every picture's result, each as if it were asked for alone."""

    results: list[PictureResult]
    caption: str | None = Field(None, description="of a sentence: the text that was asked, without brackets")
    phrases: list[Phrase] | None = Field(None, description="of a sentence, in the order of the labels")
    timing_ms: dict[str, float] = Field(
        description="queue, image, text, head and total; total begins with the body read"
    )
    cached: list[bool] = Field(description="of each picture, whether the server held it")
    warnings: list[str] = Field(
        description="what a person should know of the prompt, such as words unknown to the model"
    )


class ModelAnswer(BaseModel):
    """What the server runs, and its limits."""

    name: str
    backend: str
    version: str
    classes_default: list[str] | None
    max_bytes: int = Field(description="of a request's body")
    max_pixels: int = Field(description="of a picture")
    max_pictures: int = Field(description="a request")
    max_names: int = Field(description="a prompt")
    max_characters: int = Field(description="a prompt")
    deadline_ms: int


class ErrorBody(BaseModel):
    """Why a request was not answered."""

    code: str = Field(json_schema_extra={"enum": list(CODES)})
    message: str = Field(description="one line for a person")


class ErrorAnswer(BaseModel):
    """As every error is answered."""

    error: ErrorBody


_WORDS = {
    "type": "object",
    "properties": {"prefix": {"type": "string"}, "name": {"type": "string"}, "suffix": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
    "description": "how a name stands in the caption, kept as written; it is scored on the name alone",
}
_SPAN = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2}
_PROMPT = {
    "oneOf": [
        {"type": "string"},
        {"type": "array", "items": {"oneOf": [{"type": "string"}, _WORDS]}, "minItems": 1},
        {
            "type": "object",
            "properties": {
                "caption": {"type": "string"},
                "spans": {
                    "type": "array",
                    "items": {"oneOf": [_SPAN, {"type": "array", "items": _SPAN, "minItems": 1}]},
                    "minItems": 1,
                },
            },
            "required": ["caption", "spans"],
            "additionalProperties": False,
            "description": "a caption and the characters [start, end) of each phrase, or several of them",
        },
    ],
    "description": 'names with stops between, "cat. remote control"; or a list of names, for names with stops or other '
    "words around them; or a caption and its phrases",
}
_SENTENCE = {
    "type": "string",
    "description": 'in place of prompt: a sentence with its phrases in brackets, "[a cat] beside [a red remote '
    'control]", or without brackets, to look for its noun phrases',
}
_THRESHOLD = {
    "type": "number",
    "minimum": 0,
    "maximum": 1,
    "default": 0,
    "description": "detections from this score on",
}
_DEADLINE = {"type": "integer", "minimum": 1, "description": "answer within so many milliseconds, or not at all"}
_IMAGE = {
    "oneOf": [
        {
            "type": "object",
            "properties": {
                "data": {
                    "type": "string",
                    "contentEncoding": "base64",
                    "description": "line breaks may be in it, and data:image/png;base64, before it",
                }
            },
            "required": ["data"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"id": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
            "required": ["id"],
            "additionalProperties": False,
        },
    ]
}

REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1},
                        "prompt": {
                            "type": "string",
                            "description": 'names with stops between, "cat. remote control"; or JSON as in the other '
                            "body, a list of texts and objects or an object",
                        },
                        "name": {"type": "array", "items": {"type": "string"}, "description": "in place of prompt"},
                        "sentence": _SENTENCE,
                        "threshold": _THRESHOLD,
                        "deadline_ms": _DEADLINE,
                    },
                    "required": ["image"],
                }
            },
            JSON: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "images": {"type": "array", "items": _IMAGE, "minItems": 1},
                        "prompt": _PROMPT,
                        "sentence": _SENTENCE,
                        "threshold": _THRESHOLD,
                        "deadline_ms": _DEADLINE,
                    },
                    "required": ["images"],
                    "oneOf": [{"required": ["prompt"]}, {"required": ["sentence"]}],
                    "additionalProperties": False,
                }
            },
        },
    }
}

_ERRORS = {
    400: "bad_image, bad_prompt or bad_request",
    401: "unauthorized",
    403: "forbidden: a page of another site asked, or the Host is none of the server's names",
    404: "unknown_image: send its data again",
    408: "the body took too long",
    413: "too_large",
    415: "the body is of another type",
    429: "busy: try again after Retry-After seconds",
    500: "internal",
    503: "shutting down",
    504: "deadline",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text} for status, text in _ERRORS.items()
}
