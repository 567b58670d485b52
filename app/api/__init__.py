"""HTTP in and out; nothing else knows HTTP. Two planes: one for callers, one for operators."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI

from app.api import openapi
from app.api.connection.doors import Doors
from app.api.connection.front import Front, Patience
from app.api.connection.wire import protocol
from app.api.edge import Edge
from app.api.operations import OPERATIONS, Operation
from app.api.policy import Policy
from app.api.routes import admin, health, keys, metrics, models, routing
from app.api.routes.admin import Running
from app.store.keys.key import ADMIN_SCOPES, SCOPES


@dataclass(frozen=True, slots=True)
class Plane:
    """What one listener answers."""

    app: FastAPI
    """The control routes."""
    front: Front

    @property
    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn makes connections with."""
        return protocol(self.front)


def data_plane(doors: Doors, patience: Patience | None = None, max_connections: int = 1 << 20) -> Plane:
    """What callers see."""
    front = Front(doors, OPERATIONS, patience or Patience(), max_connections)
    groups = (models.routes, routing.routes, health.routes)
    return Plane(_application(groups, doors, OPERATIONS, SCOPES - ADMIN_SCOPES), front)


def admin_plane(doors: Doors, data: Plane, running: Running) -> Plane:
    """What operators see, on a listener of their own."""
    groups = (metrics.routes, health.routes, openapi.routes, admin.routes, keys.routes)
    application = _application(groups, doors, {}, SCOPES)
    application.state.running = running
    application.state.openapi = openapi.document(data.app, data.front.operations)
    return Plane(application, Front(doors, {}))


def _application(
    groups: Iterable[APIRouter], doors: Doors, operations: Mapping[str, Operation], scopes: Collection[str]
) -> FastAPI:
    routes = [route for group in groups for route in group.routes]
    application = FastAPI(routes=routes, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    application.add_middleware(Edge, policy=Policy(application.routes, operations, scopes), doors=doors)
    return application
