-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A run keeps how far it has come, for the next one.
--
--@ keys  record_key heartbeats checkpoint
--@ args  me ttl:ms run:int kept_for:ms origin
--@ rows  | field value
--
-- returns {answer, known}; answers: saved, fenced (another run has the message, or Redis does not know of this one)
--
-- I3: only the owner, by its run.

local record = load(record_key)
local known = beat(heartbeats, me, clock(), ttl)
if not record or not is_run(record, me, run, origin) then
    return {'fenced', known}
end
for _, row in ipairs(rows) do
    redis.call('HSET', checkpoint, row.field, row.value)
end
redis.call('HSET', checkpoint, 'at', clock())
redis.call('PEXPIRE', checkpoint, kept_for)
return {'saved', known}
