-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A message that had its process to itself is about to get company: from now on a death cannot convict it.
--
--@ keys  record_key heartbeats
--@ args  me ttl:ms run:int origin
--
-- returns {answer, known}; answers: kept, fenced, gone
--
-- I3: only the owner, by its run, changes its record.

local record = load(record_key)
local known = beat(heartbeats, me, clock(), ttl)
if not record then
    return {'gone', known}
end
if not is_run(record, me, run, origin) then
    return {'fenced', known}
end
local payload = payload_of(record_key, record)
record.alone = 0
save_running(record_key, record, payload)
return {'kept', known}
