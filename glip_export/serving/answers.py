"""What the service answers: the JSON of a request's detections, and of its errors."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse

from glip_export.errors import GlipExportError, ImageError, PromptError

BAD_IMAGE = "bad_image"
BAD_PROMPT = "bad_prompt"
BAD_REQUEST = "bad_request"
TOO_LARGE = "too_large"
UNKNOWN_IMAGE = "unknown_image"
UNAUTHORIZED = "unauthorized"
FORBIDDEN = "forbidden"
BUSY = "busy"
DEADLINE = "deadline"
INTERNAL = "internal"

_STATUS = {
    BAD_IMAGE: HTTPStatus.BAD_REQUEST,
    BAD_PROMPT: HTTPStatus.BAD_REQUEST,
    BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UNKNOWN_IMAGE: HTTPStatus.NOT_FOUND,
    UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    FORBIDDEN: HTTPStatus.FORBIDDEN,
    BUSY: HTTPStatus.TOO_MANY_REQUESTS,
    DEADLINE: HTTPStatus.GATEWAY_TIMEOUT,
    INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}
CODES = tuple(_STATUS)


class ServiceError(Exception):
    """A request that is answered with an error: a code for programs and one line for a person."""

    def __init__(self, code: str, message: str, status: int | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = int(status or _STATUS[code])
        self.headers: dict[str, str] = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if self.status == HTTPStatus.UNAUTHORIZED:
            self.headers["WWW-Authenticate"] = "Bearer"


def service_error(error: GlipExportError, picture: str = "") -> ServiceError:
    """A mistake in a request as its answer; `picture` says which one, where there are several."""
    if isinstance(error, ImageError):
        return ServiceError(BAD_IMAGE, f"{picture}{error}".replace("the given bytes", "the picture"))
    if isinstance(error, PromptError):
        return ServiceError(BAD_PROMPT, str(error))
    return ServiceError(INTERNAL, "the model failed on this request; the server's log says why")


def error_response(error: ServiceError) -> JSONResponse:
    """As all errors are answered."""
    return json_response({"error": {"code": error.code, "message": error.message}}, error.status, error.headers)


def json_response(
    content: Mapping[str, Any], status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An answer that nothing between server and client keeps."""
    return JSONResponse(content, status, {"Cache-Control": "no-store", **(headers or {})})
