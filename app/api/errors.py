"""Errors as OpenAI's clients know them. The last handler of all turns what is left into a 500 that tells nothing."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from app.errors import GatewayError, Internal

ALWAYS = ((b"cache-control", b"private, no-store"), (b"x-content-type-options", b"nosniff"))
"""Headers of every answer."""


def error_body(error: GatewayError) -> bytes:
    """OpenAI's error object with its four keys, and `details` where there are any."""
    body: dict[str, Any] = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    if error.details is not None:
        body["details"] = error.details
    return json.dumps({"error": body}, ensure_ascii=False).encode(errors="replace")


def error_response(error: GatewayError) -> Response:
    return Response(error_body(error), error.status, error.headers(), "application/json")


def internal(request_id: str) -> Internal:
    """A bug of ours: the caller gets an id to report, and nothing else."""
    return Internal(f"the gateway failed; report the request id {request_id} to its operator")
