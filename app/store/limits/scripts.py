"""What Redis does for limits that gateways share. Time is Redis's own, so that gateways need not agree on it.

thalamus:limits:<key>   hash: r, rs   requests left, and the limit they are left of; t, ts   the same of tokens;
                              at      milliseconds of Redis's clock when that was so;
                              n       requests in flight; h:<holder>   those of one holder;
                              seen    when it was last looked whether holders are there
thalamus:holders        sorted set: processes of gateways, by when each told last that it is there
"""

from __future__ import annotations

from app.store.redis_client import Script

HOLDERS = "thalamus:holders"
# A holder tells each second. What it held is free again this long after it told last.
GONE_AFTER_MS = 10_000
LOOK_EVERY_MS = 500
# What nobody asks about: buckets are full after a minute, and no request lasts so long.
KEPT_MS = 3_600_000
# Nobody waits, and no debt is kept, for longer: a year.
MOST_MS = 366 * 86_400_000
# Larger numbers are no integers to Redis, and what it is told of them is an error or garbage.
MOST_WHOLE = 1e15

OK, CONCURRENCY, REQUESTS, TOKENS = range(4)
"""Verdicts: taken, or the limit that does not allow it."""

# KEYS: the key's hash, thalamus:holders. ARGV: holder; the limits: requests and tokens a minute, concurrency, 0 for
# none; whether a place is wanted (1 or 0), and tokens for it; then what is told of the past, whatever the verdict:
# places given back (negative: places held), and requests and tokens used (negative: less than was taken).
# Answers: verdict, milliseconds to wait, thousandths of requests and of tokens left.
# A value of another type is thrown away: this state may be lost.
TAKE = Script(
    f"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local field = 'h:' .. ARGV[1]
local kept = redis.pcall('HMGET', KEYS[1], 'r', 'rs', 't', 'ts', 'at', 'n', 'seen', field)
if kept.err then
  redis.call('DEL', KEYS[1])
  kept = {{}}
end
local function whole(number) return math.floor(math.max(-{MOST_WHOLE}, math.min(number, {MOST_WHOLE}))) end
local passed_s = math.max(0, now - (tonumber(kept[5]) or now)) / 1000

local function filled(level, was, size)
  level, was = tonumber(level), tonumber(was) or 0
  if size == 0 then return 0 end
  if not level or was == 0 then return size end
  level = math.min(was, level + passed_s * was / 60)
  if was ~= size and level > 0 then level = level / was * size end
  return level
end

local rs, ts, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local wanted, tokens, back = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local r = math.min(rs, filled(kept[1], kept[2], rs) - tonumber(ARGV[8]))
local t = math.min(ts, filled(kept[3], kept[4], ts) - tonumber(ARGV[9]))
local mine, seen = tonumber(kept[8]) or 0, tonumber(kept[7]) or 0
back = math.min(back, mine)
local n = math.max(0, (tonumber(kept[6]) or 0) - back)
mine = mine - back

if wanted == 1 and most > 0 and n >= most and math.abs(now - seen) >= {LOOK_EVERY_MS} then
  seen, n = now, mine
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'h:' and all[i] ~= field then
      local told = redis.pcall('ZSCORE', KEYS[2], string.sub(all[i], 3))
      if type(told) == 'string' and tonumber(told) > now - {GONE_AFTER_MS} then
        n = n + tonumber(all[i + 1])
      else
        redis.call('HDEL', KEYS[1], all[i])
      end
    end
  end
end

local verdict, wait_ms = {OK}, 0
if wanted == 1 then
  local missing_r, missing_t = math.min(1, rs) - r, math.min(tokens, ts) - t
  if most > 0 and n >= most then
    verdict = {CONCURRENCY}
  elseif rs > 0 and missing_r > 1e-4 then
    verdict, wait_ms = {REQUESTS}, missing_r / rs * 60000
  elseif ts > 0 and missing_t > 1e-4 then
    verdict, wait_ms = {TOKENS}, missing_t / ts * 60000
  else
    r, t, n, mine = r - 1, t - tokens, n + 1, mine + 1
  end
end

redis.call('HSET', KEYS[1], 'r', r, 'rs', rs, 't', t, 'ts', ts, 'at', now, 'n', n, 'seen', seen, field, mine)
if mine == 0 then redis.call('HDEL', KEYS[1], field) end
local debt_ms = math.max(0, rs > 0 and -r / rs or 0, ts > 0 and -t / ts or 0) * 60000
redis.call('PEXPIRE', KEYS[1], whole(math.min({KEPT_MS} + debt_ms, {MOST_MS})))
return {{verdict, math.ceil(math.min(wait_ms, {MOST_MS})), whole(r * 1000), whole(t * 1000)}}
"""
)

# KEYS: thalamus:holders. ARGV: holder, and the name that it had before or ''.
# Answers: whether it is new here (1 or 0), and how many there are, this one among them.
BEAT = Script(
    f"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local new = redis.pcall('ZADD', KEYS[1], now, ARGV[1])
if type(new) == 'table' then
  if not string.find(new.err, 'WRONGTYPE') then return new end
  redis.call('DEL', KEYS[1])
  new = redis.call('ZADD', KEYS[1], now, ARGV[1])
end
redis.call('ZREM', KEYS[1], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - {GONE_AFTER_MS})
redis.call('PEXPIRE', KEYS[1], {KEPT_MS})
return {{new, redis.call('ZCARD', KEYS[1])}}
"""
)
