"""The first start: a gateway that nobody has a key for makes one, and shows it once."""

from __future__ import annotations

import sys

from app.assembly.generated_keys import GeneratedKeys
from app.errors import UsageError
from app.forms.grants import described, new_grant, read_key
from app.settings import Settings
from app.store.redis_client import StoreDown
from app.telemetry.logging import EventLog


async def begin_with_a_key(settings: Settings, keys: GeneratedKeys, log: EventLog) -> None:
    """Make a key where there never was one. Only this machine can use it: a listener for others needs keys on purpose.

    Raises:
        UsageError: the listener is for others, and there is no valid key.
    """
    if settings.keys or keys.ring.keys:
        return
    try:
        is_first = not await keys.issuer.count()
    except StoreDown:
        return  # there may be keys; until that is known nobody is let in
    if not settings.listen.is_loopback:
        raise UsageError(
            f"{settings.path}: keys: expected at least one, because the listener is not on loopback; "
            "name one in the file, or make one with thalamus keys create"
        )
    if is_first:
        await _show_a_new_key(settings, keys)
    else:
        log.write("keys.missing", meaning="nobody can call; make a key with thalamus keys create")


async def _show_a_new_key(settings: Settings, keys: GeneratedKeys) -> None:
    grant = new_grant()
    issued = await keys.issuer.create("first", grant.plain(), "the first start")
    key = read_key(issued.record.id, issued.record.grant)
    models = [model.name for model in settings.catalog.models]
    lines = ["There was no key, so this one was made. It is shown this once:", "", f"  {issued.secret.reveal()}", ""]
    lines += [f"  {line}" for line in described(key, models, tuple(settings.profiles))]
    print("\n".join(lines), file=sys.stderr, flush=True)
