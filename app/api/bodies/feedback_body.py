"""The body of feedback: which decision, and how good its answer was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.errors import InvalidRequest, UnsupportedParameter, shown

DECISION_ID = re.compile("dec-[A-Za-z0-9_-]{1,60}")
SCORE_OF = {"up": 1.0, "down": 0.0}
_FIELDS = ("decision_id", "score", "thumbs")

FEEDBACK_SCHEMA = {
    "type": "object",
    "properties": {
        "decision_id": {
            "type": "string",
            "pattern": f"^{DECISION_ID.pattern}$",
            "description": "As the header x-thalamus-decision-id said.",
        },
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "thumbs": {"type": "string", "enum": list(SCORE_OF)},
    },
    "required": ["decision_id"],
    "oneOf": [{"required": ["score"]}, {"required": ["thumbs"]}],
    "additionalProperties": False,
}
FEEDBACK_BODY = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": FEEDBACK_SCHEMA}}},
}
"""For the OpenAPI document."""


def parse_feedback(body: Mapping[str, Any]) -> dict[str, Any]:
    """`decision_id` and `score`, and `thumbs` if it was that.

    Raises:
        CallerError: a field is missing, unknown or wrong.
    """
    for name in body:
        if name not in _FIELDS:
            raise UnsupportedParameter(
                f"there is no field {shown(name)!r}; known are {', '.join(_FIELDS)}", param=shown(name)
            )
    decision_id = body.get("decision_id")
    if not isinstance(decision_id, str) or not DECISION_ID.fullmatch(decision_id):
        raise InvalidRequest("decision_id must be what the header x-thalamus-decision-id said", param="decision_id")
    if ("score" in body) is ("thumbs" in body):
        raise InvalidRequest("send either score, from 0 to 1, or thumbs, up or down", param="score")
    if "score" in body:
        return {"decision_id": decision_id, "score": _score(body["score"])}
    thumbs = body["thumbs"]
    if not isinstance(thumbs, str) or thumbs not in SCORE_OF:
        raise InvalidRequest("thumbs must be up or down", param="thumbs")
    return {"decision_id": decision_id, "score": SCORE_OF[thumbs], "thumbs": thumbs}


def _score(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidRequest("score must be a number from 0 to 1", param="score")
    return float(value)
