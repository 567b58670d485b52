"""What Prometheus reads, on the admin listener."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from app.api.policy import PUBLIC, needs
from app.api.routes.admin import running

routes = APIRouter()


@routes.get("/metrics", name="metrics")
@needs(PUBLIC)
async def metrics(http_request: HttpRequest) -> Response:
    """All series."""
    return Response(await running(http_request).metrics(), media_type=CONTENT_TYPE_LATEST)
