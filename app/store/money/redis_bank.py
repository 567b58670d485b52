"""The bank of all gateways on one Redis: one script per exchange, and a mark that tells when Redis has lost its data.

    thalamus:bank                       hash: `epoch` (drawn by the first holder), `heard` (when any holder last spoke),
                                        `count` (how often one did), `closed_until` (when lending begins)
    thalamus:accounts                   sorted set: accounts that there are, by the second in which they were begun
    thalamus:spent:<key>:<period>       hash: `spent`, which the journal adds to, and for each holder `lease:` (lent and
                                        not yet spent), `got:` (lent in all, less what came back), `seen:` and `turn:`;
                                        `listed`, where it is among the accounts

How it works: who finds no mark, or another one than it knows, leaves a new one. Nothing is lent then until every holder
that lives has had time to come back and say what was spent and lent, which each exchange does. It is the same for who
finds that nobody has spoken for long, because nobody could.

Redis may also lose a part: it comes back with older data, or it evicts keys that expire some day. Holders say how far
the count had come when they last heard of it, in which turn they heard of an account, and what was spent by then: where
Redis has less, that is a loss too, and of what it has of this holder the claim is the newer. Neither mark nor list ever
expire, so an account that is listed and does not know that was evicted.
"""

from __future__ import annotations

import secrets

from app.store.money.accounts import SHARE, SILENT_S, Claim, Standing
from app.store.redis_client import LEFT_ALONE_S, RedisClient, Script, StoreDown

MARK, ACCOUNTS, SPENT = "thalamus:bank", "thalamus:accounts", "thalamus:spent:"
# All that live speak once a second; those that had left Redis alone, some seconds later.
QUIET_S = LEFT_ALONE_S + 1.0
# As the journal keeps it.
KEPT_S = 100 * 86_400
# Longer than anybody speaks of a month.
LISTED_S = 40 * 86_400

# KEYS: mark. ARGV: the epoch that is known ("" for none), the count that was heard, an epoch to begin with, seconds
# that nothing is lent after a loss, seconds after which a holder is dead.
# Returns the epoch, the count, and the seconds for which nothing is lent yet.
HELLO = Script("""
local function number(value) return tonumber(value or '0') end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local mark = redis.call('HMGET', KEYS[1], 'epoch', 'heard', 'count', 'closed_until')
local epoch, count, closed_until = mark[1], number(mark[3]), number(mark[4])
if not epoch or (epoch == ARGV[1] and count < number(ARGV[2])) then epoch = ARGV[3] end
-- All were away for long, or Redis is empty: who comes first, were it somebody new, must not take the others for dead.
if (ARGV[1] ~= '' and ARGV[1] ~= epoch) or now - number(mark[2]) > ARGV[5] / 2 then
  closed_until = math.max(closed_until, now + ARGV[4])
end
count = string.format('%.0f', math.max(count, number(ARGV[2])) + 1)
redis.call('HSET', KEYS[1], 'epoch', epoch, 'count', count, 'heard', string.format('%.6f', now),
  'closed_until', string.format('%.6f', closed_until))
return {epoch, count, string.format('%.6f', math.max(0, closed_until - now))}
""")

# KEYS: mark, account, list of accounts. ARGV: epoch, holder, turn, limit, held, own, spent, most, least, back, share of
# a slice, seconds after which a holder is dead, seconds that the account is kept, seconds that it is listed, the turn
# and the count that were heard, an epoch to begin with, seconds that nothing is lent after a loss.
# Returns `lost` where the mark is another one, else: the count, held, own, spent, lent to all, whether anything is lent
# now.
EXCHANGE = Script("""
local function number(index) return tonumber(ARGV[index]) end
local function text(value) return string.format('%.17g', value) end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local mark = redis.call('HMGET', KEYS[1], 'epoch', 'count', 'closed_until')
if mark[1] ~= ARGV[1] or tonumber(mark[2] or '0') < number(16) then return {'lost'} end
local count, lends = redis.call('HINCRBY', KEYS[1], 'count', 1), now >= tonumber(mark[3] or '0')
local holder, account = ARGV[2], {}
local fields = redis.call('HGETALL', KEYS[2])
for at = 1, #fields, 2 do account[fields[at]] = fields[at + 1] end
local turn, spent = tonumber(account['turn:' .. holder] or '0'), tonumber(account['spent'] or '0')
if turn >= number(3) then return {'late'} end

local is_older = turn < number(15)
if is_older or number(7) > spent + 1e-9 or (not account['listed'] and redis.call('ZSCORE', KEYS[3], KEYS[2])) then
  if lends then redis.call('HSET', KEYS[1], 'epoch', ARGV[17]) end
  redis.call('HSET', KEYS[1], 'closed_until', string.format('%.6f', now + ARGV[18]))
  lends = false
end
if not account['listed'] then
  redis.call('ZADD', KEYS[3], string.format('%.0f', now), KEYS[2])
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now - ARGV[14]))
end
if number(7) > spent then
  spent = number(7)
  redis.call('HSET', KEYS[2], 'spent', text(spent))
end
local others = 0
for field, value in pairs(account) do
  local other = string.match(field, '^lease:(.*)$')
  if other and other ~= holder then
    if lends and now - tonumber(account['seen:' .. other] or '0') > number(12) then
      redis.call('HDEL', KEYS[2], field, 'got:' .. other, 'seen:' .. other, 'turn:' .. other)
    else
      -- Below zero is who has spent more than it was lent, which is in what was spent.
      others = others + math.max(0, tonumber(value))
    end
  end
end
local held, own = number(5), number(6)
if account['got:' .. holder] and not is_older then
  held, own = tonumber(account['got:' .. holder]), tonumber(account['lease:' .. holder] or '0')
end
local left, most, granted = number(4) - spent - others - math.max(0, own), number(8), 0
if lends and most > 0 and left + 1e-9 >= math.max(number(9), 1e-9) then
  granted = math.max(0, math.min(math.max(most, number(11) * left), left))
end
held, own = held + granted - number(10), own + granted - number(10)
redis.call('HSET', KEYS[2], 'listed', 1, 'got:' .. holder, text(held), 'lease:' .. holder, text(own),
  'seen:' .. holder, string.format('%.6f', now), 'turn:' .. holder, ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[13])
return {string.format('%.0f', count), text(held), text(own), text(spent), text(others + math.max(0, own)),
  lends and '1' or '0'}
""")


class RedisBank:
    """A `Bank` in Redis. The client is its owner's to close."""

    forgets = True

    def __init__(self, client: RedisClient, holder: str, silent_s: float = SILENT_S, quiet_s: float = QUIET_S) -> None:
        """`holder` names this process; after a loss nothing is lent for `quiet_s`."""
        self._client, self._holder, self._silent_s, self._quiet_s = client, holder, silent_s, quiet_s
        self._epoch, self._count = "", 0

    async def hello(self) -> float:
        known = (self._epoch, self._count, secrets.token_hex(8), self._quiet_s, self._silent_s)
        epoch, count, wait_s = await self._client.run(HELLO, [MARK], *known)
        self._epoch = epoch.decode()
        self._heard(count)
        return float(wait_s)

    async def exchange(self, claim: Claim) -> Standing:
        answer = await self._asked(claim)
        if answer[0] == b"lost":
            await self.hello()
            answer = await self._asked(claim)
        if len(answer) == 1:
            raise StoreDown(answer[0].decode())
        count, *standing = answer
        self._heard(count)
        held_usd, own_usd, spent_usd, lent_usd, lends = map(float, standing)
        return Standing(held_usd, own_usd, spent_usd, lent_usd, bool(lends))

    async def aclose(self) -> None:
        """Nothing is open."""

    def _heard(self, count: bytes) -> None:
        self._count = max(self._count, int(count))

    async def _asked(self, claim: Claim) -> list[bytes]:
        answer: list[bytes] = await self._client.run(
            EXCHANGE,
            [MARK, f"{SPENT}{claim.key_id}:{claim.period}", ACCOUNTS],
            self._epoch,
            self._holder,
            claim.turn,
            *map(repr, (claim.limit_usd, claim.held_usd, claim.own_usd, claim.spent_usd)),
            *map(repr, (claim.most_usd, claim.least_usd, claim.back_usd)),
            SHARE,
            self._silent_s,
            KEPT_S,
            LISTED_S,
            claim.heard_turn,
            self._count,
            secrets.token_hex(8),
            self._quiet_s,
        )
        return answer
