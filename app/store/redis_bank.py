"""The bank of all gateways on one Redis: one script per exchange, and a mark that tells when Redis has lost its data.

    thalamus:bank                       hash: `epoch` (drawn by the first holder), `heard` (when any holder last spoke),
                                        `closed_until` (when lending begins)
    thalamus:spent:<key>:<period>       hash: `spent`, which the journal adds to, and for each holder `lease:` (lent and
                                        not yet spent), `got:` (lent in all, less what came back), `seen:` and `turn:`

How it works: who finds no mark, or another one than it knows, leaves a new one. Nothing is lent then until every holder
that lives has had time to come back and say what was spent and lent, which each exchange does. It is the same for who
finds that nobody has spoken for long, because nobody could.
"""

from __future__ import annotations

import secrets

from app.store.accounts import SHARE, SILENT_S, Claim, Standing
from app.store.redis_client import LEFT_ALONE_S, RedisClient, Script, StoreDown

MARK, SPENT = "thalamus:bank", "thalamus:spent:"
# All that live speak once a second; those that had left Redis alone, some seconds later.
QUIET_S = LEFT_ALONE_S + 1.0
# As the journal keeps it.
KEPT_S = 100 * 86_400

# KEYS: mark. ARGV: the epoch that is known ("" for none), one to begin with, seconds that nothing is lent where there
# is no mark, another one, or one that nobody spoke to for long; seconds after which a holder is dead.
# Returns the epoch and the seconds for which nothing is lent yet.
HELLO = Script("""
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local epoch = redis.call('HGET', KEYS[1], 'epoch')
local heard = tonumber(redis.call('HGET', KEYS[1], 'heard') or '0')
local quiet = 0
-- All were away for long, or Redis is empty: who comes first, were it somebody new, must not take the others for dead.
if (ARGV[1] ~= '' and ARGV[1] ~= epoch) or now - heard > ARGV[4] / 2 then quiet = tonumber(ARGV[3]) end
if not epoch then
  epoch = ARGV[2]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
local closed_until = tonumber(redis.call('HGET', KEYS[1], 'closed_until') or '0')
if now + quiet > closed_until and quiet > 0 then closed_until = now + quiet end
redis.call('HSET', KEYS[1], 'heard', string.format('%.6f', now), 'closed_until', string.format('%.6f', closed_until))
return {epoch, string.format('%.6f', math.max(0, closed_until - now))}
""")

# KEYS: mark, account. ARGV: epoch, holder, turn, limit, held, own, spent, most, least, back, share of a slice, seconds
# after which a holder is dead, seconds that the account is kept.
# Returns `lost` where the mark is another one, else: held, own, spent, lent to all, whether anything is lent now.
EXCHANGE = Script("""
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return {'lost'} end
local function number(index) return tonumber(ARGV[index]) end
local function text(value) return string.format('%.17g', value) end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local lends = now >= tonumber(redis.call('HGET', KEYS[1], 'closed_until') or '0')
local holder, account = ARGV[2], {}
local fields = redis.call('HGETALL', KEYS[2])
for at = 1, #fields, 2 do account[fields[at]] = fields[at + 1] end
if tonumber(account['turn:' .. holder] or '0') >= number(3) then return {'late'} end

local spent = tonumber(account['spent'] or '0')
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
if account['got:' .. holder] then
  held, own = tonumber(account['got:' .. holder]), tonumber(account['lease:' .. holder] or '0')
end
local left, most, granted = number(4) - spent - others - math.max(0, own), number(8), 0
if lends and most > 0 and left + 1e-9 >= math.max(number(9), 1e-9) then
  granted = math.max(0, math.min(math.max(most, number(11) * left), left))
end
held, own = held + granted - number(10), own + granted - number(10)
if held ~= 0 or own ~= 0 or account['got:' .. holder] then
  redis.call('HSET', KEYS[2], 'got:' .. holder, text(held), 'lease:' .. holder, text(own),
    'seen:' .. holder, string.format('%.6f', now), 'turn:' .. holder, ARGV[3])
  redis.call('EXPIRE', KEYS[2], ARGV[13])
end
return {text(held), text(own), text(spent), text(others + math.max(0, own)), lends and '1' or '0'}
""")


class RedisBank:
    """A `Bank` in Redis. The client is its owner's to close."""

    def __init__(self, client: RedisClient, holder: str, silent_s: float = SILENT_S) -> None:
        """`holder` names this process."""
        self._client, self._holder, self._silent_s = client, holder, silent_s
        self._epoch = ""

    async def hello(self) -> float:
        known = (self._epoch, secrets.token_hex(8), QUIET_S, self._silent_s)
        epoch, wait_s = await self._client.run(HELLO, [MARK], *known)
        self._epoch = epoch.decode()
        return float(wait_s)

    async def exchange(self, claim: Claim) -> Standing:
        answer = await self._asked(claim)
        if answer[0] == b"lost":
            await self.hello()
            answer = await self._asked(claim)
        if len(answer) == 1:
            raise StoreDown(answer[0].decode())
        held_usd, own_usd, spent_usd, lent_usd, lends = map(float, answer)
        return Standing(held_usd, own_usd, spent_usd, lent_usd, bool(lends))

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _asked(self, claim: Claim) -> list[bytes]:
        answer: list[bytes] = await self._client.run(
            EXCHANGE,
            [MARK, f"{SPENT}{claim.key_id}:{claim.period}"],
            self._epoch,
            self._holder,
            claim.turn,
            *map(repr, (claim.limit_usd, claim.held_usd, claim.own_usd, claim.spent_usd)),
            *map(repr, (claim.most_usd, claim.least_usd, claim.back_usd)),
            SHARE,
            self._silent_s,
            KEPT_S,
        )
        return answer
