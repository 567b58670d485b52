"""Keys as the journal has them, by id, and as people call them, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.settings import StorePlace


async def names_of_keys(place: StorePlace) -> Mapping[str, str]:
    """The name of each key by its id, those that have ended too; a key of the configuration has none beside its id.

    Raises:
        StoreDown: they cannot be read now.
    """
    from app.assembly.generated_keys import connected, opened_keys

    async with connected(place) as redis, opened_keys(place, redis) as opened:
        generated = {record.id: record.name for record in await opened.issuer.list()}
    return generated | dict.fromkeys(place.keys, "")


def ids_of(key: str, names: Mapping[str, str]) -> frozenset[str]:
    """All keys that have this id or name."""
    return frozenset(key_id for key_id, name in names.items() if key in (key_id, name))


def called(key_id: str, names: Mapping[str, str]) -> str:
    """A key's id, with its name if it has one."""
    name = names.get(key_id)
    return f"{key_id} ({name})" if name else key_id
