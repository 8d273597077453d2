"""The service as an ASGI application: its routes, its errors, its page."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from glip_export import __version__
from glip_export.serving import schema
from glip_export.serving.answers import (
    BAD_REQUEST,
    FORBIDDEN,
    INTERNAL,
    UNAUTHORIZED,
    ServiceError,
    error_response,
    json_response,
)
from glip_export.serving.detection import ClientGoneError, DetectionService
from glip_export.serving.hosts import Hosts
from glip_export.serving.metrics import CONTENT_TYPE
from glip_export.serving.page_files import PageFile, read_page
from glip_export.serving.scheduler import Scheduler
from glip_export.serving.security import Security, is_authorized, is_from_another_site
from glip_export.serving.settings import Settings

log = logging.getLogger("glip_export.serving")

CLIENT_GONE = 499  # counted only: nobody reads it
PREPARE_THREADS = 2


def make_app(scheduler: Scheduler, settings: Settings, token: str | None = None, hosts: Hosts | None = None) -> FastAPI:
    """The service over a scheduler that was started; it closes the scheduler when it ends.

    token: what requests below /v1/ must bear. hosts: by which names it may be called, by default as one that listens
    on this machine only.
    """
    service = DetectionService(scheduler, settings, PREPARE_THREADS)
    metrics = scheduler.metrics

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()
        scheduler.close()

    app = FastAPI(
        title="GLIP detection",
        description="Detects in pictures what a prompt names.",
        version=__version__,
        docs_url=None,  # its page would load from another host
        redoc_url=None,
        lifespan=lifespan,
    )
    # For the schema only: `check_token` compares, and answers as all errors are answered.
    bearer = [Depends(HTTPBearer(auto_error=False))] if token else []
    app.add_middleware(
        Security,
        max_header_bytes=settings.max_header_bytes,
        max_bytes=settings.max_bytes,
        hosts=hosts or Hosts(),
    )

    def check_sender(request: Request) -> None:
        if is_from_another_site(request.headers.get("sec-fetch-site")):
            raise ServiceError(FORBIDDEN, "pages of other sites may not use this server")
        if not is_authorized(request.headers.get("authorization"), token):
            raise ServiceError(UNAUTHORIZED, "this server asks for a token: Authorization: Bearer TOKEN")

    def count(request: Request, status: int) -> None:
        route = request.scope.get("route")
        metrics.requests.labels(getattr(route, "path", "other"), str(status)).inc()

    @app.post(
        "/v1/detect",
        dependencies=bearer,
        response_model=schema.DetectAnswer,
        responses=schema.RESPONSES,
        openapi_extra=schema.REQUEST_BODY,
        summary="Detect what a prompt names in one or several pictures",
    )
    async def detect(request: Request) -> Response:
        try:
            check_sender(request)
            document = await service.detect(request)
        except (ClientGoneError, ClientDisconnect):
            metrics.gone.inc()
            count(request, CLIENT_GONE)
            return Response(status_code=CLIENT_GONE)
        except ServiceError as error:
            if error.status != HTTPStatus.REQUEST_TIMEOUT:  # whose body stands still
                await service.uploads.discard(request)
            raise
        count(request, HTTPStatus.OK)
        return json_response(document)

    @app.get(
        "/v1/model",
        dependencies=bearer,
        response_model=schema.ModelAnswer,
        responses={401: schema.RESPONSES[401]},
    )
    async def model(request: Request) -> Response:
        """What this server runs, and its limits."""
        check_sender(request)
        count(request, HTTPStatus.OK)
        return json_response(_model(scheduler, settings))

    @app.get("/healthz")
    async def healthz() -> Response:
        """Whether the process lives."""
        return json_response({"status": "alive"})

    @app.get("/readyz", responses={503: {"description": "shutting down"}})
    async def readyz() -> Response:
        """Whether requests are accepted."""
        if scheduler.is_closing:
            return json_response({"status": "shutting down"}, HTTPStatus.SERVICE_UNAVAILABLE)
        return json_response({"status": "ready"})

    @app.get("/metrics")
    async def metrics_text() -> Response:
        """Prometheus' text format."""
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})

    # HEAD as GET; the server leaves the body out.
    for path, endpoint in (
        ("/v1/model", model),
        ("/healthz", healthz),
        ("/readyz", readyz),
        ("/metrics", metrics_text),
    ):
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)

    def refused(request: Request, error: ServiceError) -> Response:
        metrics.errors.labels(error.code).inc()
        count(request, error.status)
        return error_response(error)

    @app.exception_handler(ServiceError)
    async def on_service_error(request: Request, error: ServiceError) -> Response:
        return refused(request, error)

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        return refused(request, ServiceError(BAD_REQUEST, str(error.detail), error.status_code))

    @app.exception_handler(Exception)
    async def on_exception(request: Request, error: Exception) -> Response:
        # Starlette raises it again once this is answered, and the server logs it.
        return refused(request, ServiceError(INTERNAL, "the server failed on this request; its log says why"))

    for path, file in read_page().items():
        app.add_api_route(f"/{path}", _file_route(file), methods=["GET", "HEAD"], include_in_schema=False)
    return app


def _file_route(file: PageFile) -> Any:
    async def page_file() -> Response:
        return Response(file.content, media_type=file.media_type, headers={"Cache-Control": "no-cache"})

    return page_file


def _model(scheduler: Scheduler, settings: Settings) -> dict[str, Any]:
    detector = scheduler.batch.detector
    limits = ("max_bytes", "max_pixels", "max_pictures", "max_names", "max_characters", "deadline_ms")
    return {
        "name": detector.config.name,
        "backend": detector.session.name,
        "version": __version__,
        "classes_default": None,
        **{name: getattr(settings, name) for name in limits},
    }
