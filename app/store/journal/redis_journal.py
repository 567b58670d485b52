"""The journal and what was spent in Redis, which all gateways share: a batch is one script, so all of it or nothing.

thalamus:journal                    stream of records, field `r`
thalamus:spools                     hash: how far each spool was applied
thalamus:decision:<decision>        where in the stream its record is, for a week
thalamus:feedback:<decision>        what its caller thinks of it
thalamus:spent:<key>:<period>       hash: `spent` in USD, and what `app.store.money.redis_bank` keeps in it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from app.store.journal.kept import DAY_S, KEEP, Batch, Keep, Kept, told_feedback
from app.store.redis_client import RedisClient, Script

PREFIX = "thalamus:"
STREAM, SPOOLS = PREFIX + "journal", PREFIX + "spools"
DECISION, FEEDBACK, SPENT = PREFIX + "decision:", PREFIX + "feedback:", PREFIX + "spent:"
# No caller waits for a batch of records, and it takes longer than what callers wait for.
PATIENCE_S = 1.0
# Of memory, a record takes 2 KB, and a decision that can be looked up another 200 bytes.
RECORDS = 200_000
FOUND_FOR_DAYS = 7
# Who looks back further does so in steps, which take a millisecond each.
LOOKED_BACK = 100
# Long enough for somebody to ask what a month has cost.
SPENT_KEPT_DAYS = 100

# KEYS: stream, hash of spools, prefix of decisions, prefix of feedback, prefix of money.
# ARGV: spool, number of its last row in the batch, most records, seconds that a decision is found, that feedback is
# kept, and that money is; number of ended requests, then for each: number of its row, decision ("" if none), record,
# USD, key, day, month, which of both it was held of ("" if neither); then for each feedback: number of its row,
# decision, time, payload.
# A command that timed out may still be done later than one that came after it: so each row is looked at by its number.
APPLY = Script("""
local spool, till = ARGV[1], tonumber(ARGV[2])
local applied = tonumber(redis.call('HGET', KEYS[2], spool) or '0')
if applied >= till then return applied end

-- A script that fails has done what it did before: so a value of another type is met before anything is written.
local at, seen = 8, {}
redis.call('XLEN', KEYS[1])
for _ = 1, tonumber(ARGV[7]) do
  for number = 5, 6 do
    local spent = KEYS[5] .. ARGV[at + 4] .. ':' .. ARGV[at + number]
    if not seen[spent] then seen[spent] = redis.call('HEXISTS', spent, 'spent') end
  end
  at = at + 8
end
while ARGV[at] do
  redis.call('GET', KEYS[4] .. ARGV[at + 1])
  at = at + 4
end

local sums, held = {}, {}
at = 8
for _ = 1, tonumber(ARGV[7]) do
  local seq, decision, record, usd, key = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  if seq > applied then
    local place = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'r', record)
    if decision ~= '' then redis.call('SET', KEYS[3] .. decision, place, 'EX', ARGV[4]) end
    for number = 5, 6 do
      local spent = KEYS[5] .. key .. ':' .. ARGV[at + number]
      sums[spent] = (sums[spent] or 0) + tonumber(usd)
      if ARGV[at + 7] == ARGV[at + number] then held[spent] = (held[spent] or 0) + tonumber(usd) end
    end
  end
  at = at + 8
end
for spent, usd in pairs(sums) do
  if usd > 0 then
    redis.call('HINCRBYFLOAT', spent, 'spent', string.format('%.12f', usd))
    if held[spent] and redis.call('HEXISTS', spent, 'lease:' .. spool) == 1 then
      redis.call('HINCRBYFLOAT', spent, 'lease:' .. spool, string.format('-%.12f', held[spent]))
    end
    redis.call('EXPIRE', spent, ARGV[6])
  end
end
while ARGV[at] do
  if tonumber(ARGV[at]) > applied then
    local name = KEYS[4] .. ARGV[at + 1]
    local known = redis.call('GET', name)
    if not known or tonumber(cjson.decode(known).time) <= tonumber(ARGV[at + 2]) then
      redis.call('SET', name, ARGV[at + 3], 'EX', ARGV[5])
    end
  end
  at = at + 4
end
redis.call('HSET', KEYS[2], spool, till)
return applied
""")

# KEYS: stream. ARGV: seconds that records are kept.
TRIM = Script("""
local now = redis.call('TIME')
return redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f', (tonumber(now[1]) - tonumber(ARGV[1])) * 1000))
""")

# KEYS: prefix of decisions, stream, prefix of feedback. ARGV: decision.
FIND = Script("""
local place = redis.call('GET', KEYS[1] .. ARGV[1])
if not place then return false end
local found = redis.call('XRANGE', KEYS[2], place, place)
if not found[1] then return false end
return {found[1][2][2], redis.call('GET', KEYS[3] .. ARGV[1])}
""")

# KEYS: stream. ARGV: where to begin, and how many records to look back from there.
# Returns how many there are, and the place of the oldest of them.
LOOK_BACK = Script("""
local found = redis.call('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', ARGV[2])
return {#found, found[1] and found[#found][1] or false}
""")


class RedisJournal:
    """A `JournalStore` in Redis. The client is its owner's to close."""

    # A script holds everybody else up, this one for about a millisecond.
    batch_rows = 100

    def __init__(self, client: RedisClient, keep: Keep = KEEP) -> None:
        self._client, self._keep = client, keep

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def applied(self, spool: str) -> int:
        return int(await self._client.ask("HGET", SPOOLS, spool) or 0)

    async def apply(self, batch: Batch) -> None:
        keep_s = int(self._keep.days * DAY_S)
        found_s = min(keep_s, FOUND_FOR_DAYS * DAY_S)
        values: list[Any] = [
            batch.spool,
            batch.until,
            self._keep.records or RECORDS,
            found_s,
            keep_s,
            SPENT_KEPT_DAYS * DAY_S,
        ]
        values.append(len(batch.ended))
        for one in batch.ended:
            values += (one.seq, one.decision_id or "", one.record, one.usd, one.key_id, *one.periods, one.held_in or "")
        for told in batch.feedback:
            values += (told.seq, told.decision_id, told.at, told.payload)
        await self._client.run(APPLY, (STREAM, SPOOLS, DECISION, FEEDBACK, SPENT), *values)

    async def forget(self, spool: str) -> None:
        await self._client.ask("HDEL", SPOOLS, spool)

    async def find(self, decision_id: str) -> Kept | None:
        found = await self._client.run(FIND, (DECISION, STREAM, FEEDBACK), decision_id)
        if not found:
            return None
        record = orjson.loads(found[0])
        feedback = told_feedback(found[1]) if len(found) > 1 and found[1] else None
        return Kept(record["key"], record, feedback)

    async def feedback(self, decision_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        if not decision_ids:
            return {}
        found = await self._client.ask("MGET", *[FEEDBACK + one for one in decision_ids])
        return {one: told_feedback(payload) for one, payload in zip(decision_ids, found, strict=True) if payload}

    async def after(self, place: str | None, most: int) -> list[tuple[str, bytes]]:
        found = await self._client.ask("XRANGE", STREAM, f"({place}" if place else "-", "+", "COUNT", most)
        return [_place_and_record(entry) for entry in found or []]

    async def place_before(self, latest: int) -> str | None:
        if latest >= await self._client.ask("XLEN", STREAM):
            return None
        place, left = "+", latest + 1
        while left:
            count, oldest = await self._client.run(LOOK_BACK, (STREAM,), place, min(left, LOOKED_BACK))
            if count < min(left, LOOKED_BACK):
                # The oldest went meanwhile.
                return None
            place, left = f"({oldest.decode()}", left - count
        return place[1:]

    async def trim(self, now: float) -> None:  # noqa: ARG002
        """By Redis' own clock, as its places are."""
        await self._client.run(TRIM, (STREAM,), int(self._keep.days * DAY_S))


def _place_and_record(entry: Any) -> tuple[str, bytes]:
    place, fields = entry
    # redis-py makes a dictionary of the fields of some commands.
    record = fields[b"r"] if isinstance(fields, dict) else fields[1]
    return place.decode(), record
