"""The OpenAPI document of what callers see: control routes from FastAPI, operations from the tables that read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from app.api.bodies.checks import Schema, object_schema
from app.api.operations import Operation
from app.api.policy import PUBLIC, needs
from app.domain.vocabulary import VOCABULARY

routes = APIRouter()

EXPLAIN = "/v1/routing/explain"
# What every call with a key may hear, what one with a body may, and what one that asks for a model may besides.
_WITH_KEY = {
    400: "The call is not well formed.",
    401: "There is no valid key.",
    403: "The key may not do that.",
    429: "The key is over one of its limits, or has tried too often.",
    503: "Nobody can answer now; see retry-after.",
}
_WITH_BODY = {
    408: "The body was sent too slowly.",
    413: "The body is too large.",
    415: "The body is not plain JSON.",
}
_WITH_MODEL = {
    404: "There is no such model for this key.",
    422: "The constraints leave no model; details say which, and what would admit one.",
    502: "A backend failed.",
    504: "No backend answered in time.",
}
_NOT_FOUND = {404: "There is no such thing, or not for this key."}
_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "Says what to change."},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string", "description": "The failure's one name, also in logs and metrics."},
                "details": {"type": "object"},
            },
        }
    },
}
_ANY_OBJECT: Schema = {"type": "object"}
# What a body cannot do without, beside the model.
_ASKED = ("messages", "prompt", "input")


@routes.get("/openapi.json", name="openapi")
@needs(PUBLIC)
async def openapi(http_request: HttpRequest) -> JSONResponse:
    """The document; on the admin listener, so that the public one tells no more than it must."""
    return JSONResponse(http_request.app.state.openapi)


def document(app: FastAPI, operations: Mapping[str, Operation]) -> dict[str, Any]:
    """All paths of a plane."""
    written = app.openapi()
    written["info"]["title"] = "Thalamus"
    written["components"] = {
        "schemas": {"Error": _ERROR},
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
    }
    for route in app.routes:
        if isinstance(route, Route) and route.path_format in written["paths"]:
            for described in written["paths"][route.path_format].values():
                _complete(described, route)
    bodies = {path: _body(operation) for path, operation in operations.items()}
    if EXPLAIN in written["paths"]:
        written["paths"][EXPLAIN]["post"] |= {
            "requestBody": _json({"anyOf": list(bodies.values())}),
            "responses": _responses(_json_answer(_ANY_OBJECT), _WITH_KEY | _WITH_BODY | _WITH_MODEL),
        }
    for path, operation in operations.items():
        written["paths"][path] = {"post": _described(operation, bodies[path])}
    return written


def _complete(described: dict[str, Any], route: Route) -> None:
    """What FastAPI does not know of a control route: who may call it, and what it says when it refuses."""
    if getattr(route.endpoint, "needed_scope", PUBLIC) == PUBLIC:
        described["responses"]["503"] = _json_answer(_ANY_OBJECT, "Not now.")
        return
    described["security"] = [{"key": []}]
    described["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in route.param_convertors
    ]
    told = _WITH_KEY | (_WITH_BODY if "requestBody" in described else {})
    told = told | (_NOT_FOUND if "{" in route.path or "requestBody" in described else {})
    described["responses"] = _responses(described["responses"]["200"], told)


def _described(operation: Operation, body: Schema) -> dict[str, Any]:
    answer = _json_answer(_ANY_OBJECT, "An answer in OpenAI's form, or its stream.")
    if "stream" in operation.fields:
        answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "operationId": operation.rule.operation,
        "summary": operation.summary,
        "security": [{"key": []}],
        "requestBody": _json(body),
        "responses": _responses(answer, _WITH_KEY | _WITH_BODY | _WITH_MODEL),
    }


def _body(operation: Operation) -> Schema:
    """Null is the same as absent, where absent is allowed."""
    inner = {"routing": VOCABULARY.body_schema, **operation.inner}
    required = ("model", *(name for name in _ASKED if name in operation.fields))
    fields: dict[str, Schema] = {}
    for name, one in operation.fields.items():
        schema = inner.get(name, one.check.schema)
        fields[name] = {
            **(schema if name in required else {"anyOf": [schema, {"type": "null"}]}),
            "description": f"Must be {one.expected}.",
        }
    return object_schema(fields, required)


def _json(schema: Schema) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _json_answer(schema: Schema, description: str = "The answer.") -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _responses(answer: Mapping[str, Any], errors: Mapping[int, str]) -> dict[str, Any]:
    refusals = {
        str(status): _json_answer({"$ref": "#/components/schemas/Error"}, means) for status, means in errors.items()
    }
    return {"200": answer, **dict(sorted(refusals.items()))}
