"""Whether this process lives, and whether it should be sent requests. Says nothing else to who asks without a key."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse

from app.api.call import call_of
from app.api.policy import PUBLIC, needs

routes = APIRouter()

# As load balancers usually ask.
RETRY_AFTER_S = 2


@routes.get("/healthz", name="healthz")
@needs(PUBLIC)
async def healthz() -> JSONResponse:
    """The event loop runs."""
    return JSONResponse({"status": "ok"})


@routes.get("/readyz", name="readyz")
@needs(PUBLIC)
async def readyz(http_request: HttpRequest) -> JSONResponse:
    """Requests will be answered: at least one backend is there, and the gateway is not about to stop."""
    gateway = call_of(http_request).gateway
    if gateway.ready():
        return JSONResponse({"status": "ok"})
    status = "draining" if gateway.draining else "no backend"
    return JSONResponse({"status": status}, 503, {"retry-after": str(RETRY_AFTER_S)})
