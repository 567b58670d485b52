"""Which kind of call a body is for that is only to be explained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from app.api.access import Access
from app.api.routes.routing import _asked
from app.domain.models import Card
from app.domain.preferences import Profile
from app.errors import InvalidRequest
from tests.fakes.call import FakeCall
from tests.fakes.world import catalog, model

ABILITIES = {
    "small": {"chat", "completion", "responses"},
    "emb": {"embeddings"},
    "both": {"embeddings", "responses"},
}
CATALOG = catalog(
    *(replace(model(name), card=Card(4096, frozenset(abilities))) for name, abilities in ABILITIES.items())
)
USER = {"role": "user", "content": "hi"}


@dataclass
class Explained(FakeCall):
    """A call with this body."""

    body: dict[str, Any] = field(default_factory=dict)

    async def json(self) -> dict[str, Any]:
        return self.body


def call(body: dict[str, Any]) -> Any:
    return Explained(access=Access(CATALOG, {"default": Profile()}), body=body)


@pytest.mark.parametrize(
    ("body", "operation"),
    [
        ({"model": "auto", "messages": [USER]}, "chat"),
        ({"model": "auto", "prompt": "hi"}, "completion"),
        ({"model": "auto", "input": "hi"}, "responses"),
        ({"model": "small", "input": "hi"}, "responses"),
        ({"model": "emb", "input": "hi"}, "embeddings"),
        ({"model": "emb", "input": [1, 2]}, "embeddings"),
        ({"model": "small", "input": ["hi", "there"]}, "embeddings"),
        ({"model": "both", "input": "hi"}, "responses"),
        ({"model": "both", "input": [USER]}, "responses"),
        ({"model": "both", "input": "hi", "dimensions": 3}, "embeddings"),
    ],
    ids=str,
)
async def test_a_body_is_for_the_call_that_its_fields_and_its_model_tell(body: dict[str, Any], operation: str) -> None:
    assert (await _asked(call(body))).operation == operation


async def test_embeddings_of_no_model_by_name_are_refused_as_such() -> None:
    with pytest.raises(InvalidRequest, match="embeddings of different models cannot be compared"):
        await _asked(call({"model": "auto", "input": ["hi"]}))
