"""Who calls, without HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.api.access import Access
from app.domain.preferences import Profile
from app.store.keys.key import Key
from tests.fakes.world import catalog, model

FREE = Key("free", models=("*",), flags_in_prompt=True, max_priority="high", chat_template_kwargs=True)


@dataclass
class FakeCall:
    """A call with a key that may do everything, to models called small and large, unless told otherwise."""

    key: Key = FREE
    headers: Mapping[str, str] = field(default_factory=dict)
    access: Access = field(
        default_factory=lambda: Access(catalog(model("small"), model("large")), {"default": Profile()})
    )
    request_id: str = "req-1"
