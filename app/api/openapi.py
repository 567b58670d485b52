"""The OpenAPI document of what callers see: control routes from FastAPI, operations from the tables that read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse

from app.api.operations import Operation
from app.api.policy import PUBLIC, needs

routes = APIRouter()


@routes.get("/openapi.json", name="openapi")
@needs(PUBLIC)
async def openapi(http_request: HttpRequest) -> JSONResponse:
    """The document; on the admin listener, so that the public one tells no more than it must."""
    return JSONResponse(http_request.app.state.openapi)


def document(app: FastAPI, operations: Mapping[str, Operation]) -> dict[str, Any]:
    """All paths of a plane."""
    written = app.openapi()
    written["info"]["title"] = "Thalamus"
    for path, operation in operations.items():
        written["paths"][path] = {"post": _described(operation)}
    return written


def _described(operation: Operation) -> dict[str, Any]:
    fields = {name: {"description": f"Must be {one.expected}."} for name, one in operation.fields.items()}
    body = {"type": "object", "properties": fields, "required": ["model"], "additionalProperties": False}
    return {
        "operationId": operation.rule.operation,
        "summary": operation.summary,
        "security": [{"key": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "An answer in OpenAI's form, or its stream."}},
    }
