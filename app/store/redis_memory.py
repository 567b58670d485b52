"""What Redis does when its memory is full: it must refuse to write, and drop nothing that was spent."""

from __future__ import annotations

from app.store.redis_client import RedisClient, StoreDown

KEEPS_ALL = "noeviction"


async def evicts_by(client: RedisClient) -> str | None:
    """The policy by which it drops keys; None where it drops none, or does not say."""
    try:
        # Those who run Redis for others often refuse CONFIG, and seldom this.
        memory = await client.ask("INFO", "memory")
    except StoreDown:
        return None
    policy = memory.get("maxmemory_policy", KEEPS_ALL)
    return None if policy == KEEPS_ALL or not memory.get("maxmemory") else str(policy)
