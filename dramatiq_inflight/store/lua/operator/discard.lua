-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An operator gives a message up: no copy of it is to run any more.
--
-- KEYS  1 record   2 heartbeats   3 waiting   4 running:<owner>   5 aside   6 history   7 counts
--       8 checkpoint
-- ARGV  1 heartbeat ttl ms   2 message id   3 the owner that was read   4 fence ttl ms
--       5 '1': although it runs on a living worker
-- returns discarded, alive (it runs on a living worker), moved (its owner is another by now), settled, or gone
--
-- Its record is as that of a completed one: copies that are met within the fence ttl are skipped, a run that goes on
-- is fenced.

local id = ARGV[2]
local now = clock()
local record = load(KEYS[1])
if not record or record.state == 'damaged' then
    if redis.call('HDEL', KEYS[5], id) + (record and redis.call('DEL', KEYS[1]) or 0) == 0 then
        return 'gone'
    end
    redis.call('ZREM', KEYS[3], id)
    note(KEYS[6], KEYS[7], 'discarded', 'discarded', 'message', id)
    return 'discarded'
elseif SETTLED[record.state] then
    return 'settled'
elseif record.owner ~= ARGV[3] then
    return 'moved'
end
if record.state == 'running' and believed_for(KEYS[2], record.owner, now, tonumber(ARGV[1])) > 0 then
    if ARGV[5] ~= '1' then
        return 'alive'
    end
    doubt(KEYS[2], record.owner)
end
redis.call('DEL', KEYS[8])
local owner = record.owner
record.state, record.contended = 'completed', 1
save_settled(KEYS[1], record, ARGV[4])
redis.call('ZREM', KEYS[3], id)
redis.call('ZREM', KEYS[4], id)
note_message(KEYS[6], KEYS[7], 'discarded', id, record, owner)
return 'discarded'
