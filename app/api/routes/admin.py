"""What operators may do to a running gateway, on the admin listener, with a key of the scope `admin:config`.

Each of it leaves a line in the log that says whose key it was, as changes of keys do.
Nothing here names a file: a reload reads those that the gateway was started with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse

from app.api.call import call_of
from app.api.policy import needs
from app.store.keys.issuer import Issuer

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
        """Makes and ends keys; its log is for all that operators do."""
        ...

    async def metrics(self) -> bytes:
        """What Prometheus reads."""
        ...

    def leave(self) -> None:
        """Serve on, but have load balancers send no more."""

    def stay(self) -> None:
        """Have them send again."""

    def set_aside(self, replica: str, *, aside: bool) -> Sequence[str]:
        """Send nobody to a replica, or send again; return all that are set aside then.

        Raises:
            UnknownReplica: it is none of the catalogue's.
        """
        ...


@routes.post("/admin/reload", name="reload")
@needs("admin:config")
async def reload(http_request: HttpRequest) -> JSONResponse:
    """Read the configuration again."""
    _log(http_request, "reload")
    return JSONResponse(dict(await running(http_request).reload()))


@routes.post("/admin/drain", name="drain")
@needs("admin:config")
async def drain(http_request: HttpRequest) -> JSONResponse:
    """Be not ready from now on, and close connections with their answers; everything is still served."""
    _log(http_request, "drain")
    running(http_request).leave()
    return JSONResponse({"status": "draining"})


@routes.delete("/admin/drain", name="undrain")
@needs("admin:config")
async def undrain(http_request: HttpRequest) -> JSONResponse:
    """Be ready again."""
    _log(http_request, "undrain")
    running(http_request).stay()
    return JSONResponse({"status": "ok"})


@routes.post("/admin/eject", name="eject")
@needs("admin:config")
async def eject(http_request: HttpRequest) -> JSONResponse:
    """Send nobody to one replica (`?replica=10.0.0.5:8000`) any more; what it is answering goes on."""
    return _set_aside(http_request, "eject", aside=True)


@routes.delete("/admin/eject", name="uneject")
@needs("admin:config")
async def uneject(http_request: HttpRequest) -> JSONResponse:
    """Send it requests again: few at first."""
    return _set_aside(http_request, "uneject", aside=False)


def _set_aside(http_request: HttpRequest, what: str, *, aside: bool) -> JSONResponse:
    replica = http_request.query_params.get("replica", "")
    ejected = running(http_request).set_aside(replica, aside=aside)
    _log(http_request, what, replica=replica)
    return JSONResponse({"ejected": ejected})


def running(http_request: HttpRequest) -> Running:
    """The gateway that the admin plane is about."""
    found: Running = http_request.app.state.running
    return found


def _log(http_request: HttpRequest, what: str, **more: str) -> None:
    call = call_of(http_request)
    running(http_request).issuer.log.write("admin.asked", what=what, by=call.key.id, request_id=call.request_id, **more)
