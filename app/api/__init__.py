"""HTTP in and out; nothing else knows HTTP. Two applications: one for callers, one for operators."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, FastAPI

from app.api import admin, chat, health, metrics, models, routing
from app.api.admin import Operations
from app.api.edge import Doors, Edge
from app.api.policy import Policy


def data_plane(doors: Doors) -> FastAPI:
    """What callers see."""
    return _application((chat.routes, models.routes, routing.routes, health.routes), doors)


def admin_plane(doors: Doors, operations: Operations) -> FastAPI:
    """What operators see, on a listener of their own."""
    application = _application((metrics.routes, health.routes, admin.routes), doors)
    application.state.metrics = doors.telemetry.metrics
    application.state.operations = operations
    return application


def _application(groups: Iterable[APIRouter], doors: Doors) -> FastAPI:
    routes = [route for group in groups for route in group.routes]
    application = FastAPI(routes=routes, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    application.add_middleware(Edge, policy=Policy(application.routes), doors=doors)
    return application
