-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A recoverer cannot decode a payload that it has claimed: keep it, whole, where people look for it.
--
-- KEYS  1 record   2 waiting   3 running:<dead>   4 aside   5 history   6 counts
-- ARGV  1 me   2 message id   3 generation
-- returns aside, or fenced (it is not ours any more)
--
-- I2: the payload moves; it is never dropped.

local record = load(KEYS[1])
if not record or record.state ~= 'recovering' or record.owner ~= ARGV[1]
    or record.generation ~= tonumber(ARGV[3]) then
    return 'fenced'
end
redis.call('HSET', KEYS[4], ARGV[2], redis.call('GET', KEYS[1]))
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[2])
note_message(KEYS[5], KEYS[6], 'set_aside', ARGV[2], record, '')
return 'aside'
