"""What operators may do to a running gateway, on the admin listener, with a key of the scope `admin:config`.

Nothing here names a file: a reload reads those that the gateway was started with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse

from app.api.policy import needs
from app.store.issuer import Issuer

routes = APIRouter()


class Running(Protocol):
    """The running gateway, seen from outside."""

    async def reload(self) -> Mapping[str, Any]:
        """Take over the configuration as it is in its files now; return its version.

        Raises:
            ConfigRejected: it is wrong; what was before stays.
        """
        ...

    @property
    def issuer(self) -> Issuer:
        """Makes and ends keys."""
        ...

    async def metrics(self) -> bytes:
        """What Prometheus reads."""
        ...

    def leave(self) -> None:
        """Serve on, but have load balancers send no more."""

    def stay(self) -> None:
        """Have them send again."""


@routes.post("/admin/reload", name="reload")
@needs("admin:config")
async def reload(http_request: HttpRequest) -> JSONResponse:
    """Read the configuration again."""
    return JSONResponse(dict(await running(http_request).reload()))


@routes.post("/admin/drain", name="drain")
@needs("admin:config")
async def drain(http_request: HttpRequest) -> JSONResponse:
    """Be not ready from now on, and close connections with their answers; everything is still served."""
    running(http_request).leave()
    return JSONResponse({"status": "draining"})


@routes.delete("/admin/drain", name="undrain")
@needs("admin:config")
async def undrain(http_request: HttpRequest) -> JSONResponse:
    """Be ready again."""
    running(http_request).stay()
    return JSONResponse({"status": "ok"})


def running(http_request: HttpRequest) -> Running:
    """The gateway that the admin plane is about."""
    found: Running = http_request.app.state.running
    return found
