# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Mutations of the scripts: each drops a check, or swaps what must not be swapped, and must be noticed."""

from __future__ import annotations

from typing import NamedTuple

from dramatiq_inflight.store.declarations import COMMON, SOURCES, assembled

from .real import texts

__all__ = ["MUTATIONS", "Mutation", "mutated"]


class Mutation(NamedTuple):
    """A text that stands in a script exactly once, and its replacement."""

    script: str
    name: str
    old: str
    new: str


MUTATIONS = (
    # start.lua
    Mutation("start", "no copy is stale", "same and generation < record.generation and not named", "false"),
    Mutation("start", "a take-over bumps the generation", "math.max(generation, before.generation)", "before.generation + 1"),
    Mutation("start", "the generation falls with an old copy", "math.max(generation, before.generation)", "generation"),
    Mutation("start", "the run does not grow", "(before and before.run or 0) + 1", "(before and before.run or 1)"),
    Mutation("start", "a duplicate leaves no mark", "record.contended = 1\n        save_running(", "save_running("),
    Mutation("start", "what runs here runs twice", "if here ~= 'no' then", "if false then"),
    Mutation("start", "what the broker has forgotten is not copied", "forget_copy(record)", ""),
    Mutation("start", "what was handed back here is skipped", "here == 'ended' and same", "here ~= 'running' and same"),
    Mutation("start", "what was handed back here is a duplicate", "same and here ~= 'handed_back'", "same"),
    Mutation("start", "completed copies run again", "record.state == 'completed' then\n    if same", "record.state == 'completed' then\n    if false"),
    Mutation("start", "a failed enqueue runs beside its retry", "if origin ~= '' and origin == record.origin then", "if false then"),
    Mutation("start", "a poisoned message runs", "return answer('poisoned')\n    end\n    return run(record.crashes", "return run(record.crashes, record.drains, 1)\n    end\n    return run(record.crashes"),
    Mutation("start", "a poisoned message is complete", "return answer('poisoned')\n    end\n    return run(record.crashes", "return answer('completed')\n    end\n    return run(record.crashes"),
    Mutation("start", "a living owner is not asked", "believed_for(heartbeats, record.owner, now, ttl)\n", "0\n"),
    Mutation("start", "a take-over charges nobody", "charge(record, was_draining(heartbeats, owner), cause_of(heartbeats, owner))", "false"),
    Mutation("start", "a given-away delivery of what is over runs", "local over = not record or SETTLED[record.state]", "local over = not record"),
    Mutation("start", "what the broker does not have runs without a payload", "return {'payload'} --", "payload = '' --"),
    Mutation("start", "a claim forgets the payload", "record, payload, now + ttl)", "record, '', now + ttl)"),
    Mutation("start", "a given-away delivery runs", "held == 0 and (stored == 1 or given_away or", "false and (stored == 1 or given_away or"),
    Mutation("start", "a verdict that was delivered again runs", "elseif condemned then", "elseif false then"),
    Mutation("start", "the deadline stays when the copy runs", "if before and WAITING[before.state] then", "if false then"),
    Mutation("start", "it is not listed as running", "redis.call('ZADD', running, record.started, id)\n", ""),
    Mutation("start", "another copy of a dead letter is a replay", "same and tries ~= record.tries", "false"),
    Mutation("start", "the copy that runs is not known", "tailored = tailored, tries = tries", "tailored = tailored"),
    Mutation("start", "short: it does not renew when that is due", "if not due and here", "if here"),
    Mutation("start", "short: what runs here runs twice", "if not due and here == 'no' then", "if not due then"),
    Mutation("start", "short: the dead start messages", " and tonumber(deadline) > now", ""),
    Mutation("start", "short: who is unknown starts messages", "deadline and tonumber(deadline) > now", "not deadline or tonumber(deadline) > now"),
    Mutation("start", "short: a given-away delivery runs", "redis.call('SISMEMBER', broker_acks, copy) == 1\n        and redis", "redis"),
    Mutation("start", "short: what the broker has forgotten runs", "\n        and redis.call('HEXISTS', broker_messages, copy) == 1", ""),
    Mutation("start", "short: a record is overwritten", ", 'NX')", ")"),
    Mutation("start", "short: it is not listed as running", "redis.call('ZADD', running, started, id)", ""),
    Mutation("start", "short: the payload is forgotten", "(broker_acks and '' or payload)", "''"),
    Mutation("start", "short: the payload is copied", "(broker_acks and '' or payload)", "redis.call('HGET', broker_messages or record_key, copy)"),
    Mutation("start", "what the broker has forgotten loses its payload", "record.kept_in == '' and payload or ''", "broker_acks and '' or payload"),
    Mutation("start", "a claim leaves the payload to the broker", "if payload == '' and broker_messages then", "if false then"),
    Mutation("start", "short: the copy that runs is not known", "tailored, tries, 0, 0,", "tailored, 0, 0, 0,"),
    Mutation("start", "short: the generation falls with a copy", "1, generation, 0, limit", "1, 1, 0, limit"),
    Mutation("start", "short: it is not alone", "alone and 1 or 0, tailored, tries", "0, tailored, tries"),
    Mutation("start", "short: its recovery takes no copy", "tailored, tries, 0, 0,", "0, tries, 0, 0,"),
    # complete.lua
    Mutation("complete", "short: it does not renew when that is due", "if not due and not contended", "if not contended"),
    Mutation("complete", "short: another copy is forgotten", "not due and not contended and", "not due and"),
    Mutation("complete", "short: what is unacknowledged is forgotten", "and not unacked and remember == 0", "and remember == 0"),
    Mutation("complete", "short: a lost delivery is not remembered", " or redis.call('SISMEMBER', broker_acks, copy) == 1)", " or true)"),
    Mutation("complete", "short: anybody's run is its own", "if owner == me and tonumber", "if owner and tonumber"),
    Mutation("complete", "short: any run is its own", "tonumber(number) == run and", "tonumber(number) and"),
    Mutation("complete", "short: a run of another enqueue is its own", " and (origin == '' or origin == its_origin)", ""),
    Mutation("complete", "short: recovered records are forgotten", '",(%d+),1,%d+,', '",(%d+),%d+,%d+,'),
    Mutation("complete", "short: contended records are forgotten", "[^,]+,0,%d,", "[^,]+,%d,%d,"),
    Mutation("complete", "short: the record stays", "'DEL', record_key, checkpoint)\n    ", "'DEL', checkpoint)\n    "),
    Mutation("complete", "short: it stays listed as running", "checkpoint)\n        redis.call('ZREM', running, id)", "checkpoint)"),
    Mutation("common", "any run is its own", "record.run == run\n", "true\n"),
    Mutation("common", "anybody's run is its own", "record.owner == me and record.run == run", "record.run == run"),
    Mutation("common", "a run of another enqueue is its own", "(origin == '' or origin == record.origin)", "true"),
    Mutation("complete", "a late success settles nothing", "and is_to_start(record) then", "and false then"),
    Mutation("complete", "what it has retaken is another's", "or is_retaken(record, me, run, origin, started)", ""),
    Mutation("complete", "a lost delivery is not remembered", "if lost or contended then\n", "if contended then\n"),
    Mutation("complete", "what is unacknowledged is forgotten", "or remember, unacked or remember > 0)", "or remember)"),
    Mutation("complete", "another enqueue is settled", "not again and origin == record.origin and", "not again and"),
    Mutation("complete", "it stays listed as running", "remember > 0)\n    redis.call('ZREM', running, id)", "remember > 0)"),
    Mutation("complete", "it does not beat", "local known = beat(heartbeats, me, now, ttl)", "local known = 1"),
    # release.lua, await_copy.lua, shorten_retention.lua, clear_alone.lua
    Mutation("release", "its origin may run again", "record.state = state", "record.state = 'let_go'"),
    Mutation("release", "another copy is forgotten", "if contended then", "if false then"),
    Mutation("release", "a dead letter is no dead letter", "record.state = state", "record.state = state == 'let_go' and 'let_go' or 'released'"),
    Mutation("await_copy", "a second delivery of what failed runs", "give_up(record)", "record.tries, record.deaths = 0, 0"),
    Mutation("await_copy", "who ran it has it back", "record.forced = 1", ""),
    Mutation("await_copy", "the copy to come has no number", "record.tries = record.tries + 1", ""),
    Mutation("await_copy", "the payload is forgotten", "record, payload, now", "record, '', now"),
    Mutation("await_copy", "it is due only later", "now + delay", "now + 60000"),
    Mutation("shorten_retention", "any run is forgotten", "record.run == row.run", "true"),
    Mutation("shorten_retention", "what is contended is forgotten", "and record.contended == 0", ""),
    Mutation("shorten_retention", "what runs is forgotten", "SETTLED[record.state] and ", ""),
    Mutation("clear_alone", "it stays alone", "record.alone = 0\n", ""),
    Mutation("clear_alone", "anybody is let in", "not is_run(record, me, run, origin)", "record.state ~= 'running'"),
    # claim.lua
    Mutation("claim", "the living are robbed", "(believed > 0 or (doubted", "((doubted"),
    Mutation("claim", "the owner is not checked", "dead == '' or record.owner ~= dead", "dead == ''"),
    Mutation("claim", "the payload is forgotten", "record, payload, now + hold)", "record, '', now + hold)"),
    Mutation("claim", "the generation stays", "give_up(record)", "record.tries, record.deaths = 0, 0"),
    Mutation("claim", "what is still queued is made stale", "take_claim(record, me, now)\n", "take_claim(record, me, now)\n    record.generation = record.generation + (again and 1 or 0)\n"),
    Mutation("claim", "two copies have one number", "record.tries = record.tries + 1", ""),
    Mutation("claim", "a living recoverer's claim is taken", "if not due and believed_for(heartbeats, record.owner, now, ttl) > 0 then", "if false then"),
    Mutation("claim", "another thread's claim is taken", "(due or leftovers) and 'claimed'", "'claimed'"),
    Mutation("claim", "what was refused does not wait", "return due and 'claimed' or 'waits'", "return 'claimed'"),
    Mutation("claim", "no recoverer's death is counted", "record.deaths = record.deaths + 1", ""),
    Mutation("claim", "a recoverer's shutdown is counted", "lives == 0 and not was_draining(heartbeats, record.owner)", "lives == 0"),
    Mutation("claim", "deaths of recoverers are forgotten", "elseif not again then\n        record.deaths = 0", "else\n        record.deaths = 0"),
    Mutation("claim", "nobody is charged", "charge(record, drained, cause) and 1 or 0", "0"),
    Mutation("claim", "a draining worker's death counts", "charge(record, drained, cause)", "charge(record, false, cause)"),
    Mutation("claim", "what is poisoned runs again", "    if record.owner ~= '' or not again then", "    record.dead_letter = 0\n    if record.owner ~= '' or not again then"),
    Mutation("claim", "no deadline is waited for", "not deadline or tonumber(deadline) <= now", "true"),
    Mutation("claim", "closed connections convict", "(believed > 0 or (doubted and is_convicted(record, drained)))", "believed > 0"),
    # confirm_copies.lua
    Mutation("confirm_copies", "it is not seen whether the claim holds", "is_claim(record, me, row.generation)", "record and record.generation == row.generation"),
    Mutation("confirm_copies", "it is not seen whose claim it is", "is_claim(record, me, row.generation)", "record and record.state == 'recovering' and record.generation == row.generation"),
    Mutation("confirm_copies", "it is not seen which claim it is", "is_claim(record, me, row.generation)", "record and record.state == 'recovering' and record.owner == me"),
    Mutation("confirm_copies", "a poison verdict is forgotten", "record.dead_letter == 1 and 'poisoned' or 'requeued'", "'requeued'"),
    Mutation("confirm_copies", "the payload is forgotten", "local payload = payload_of(record_key, record)", "local payload = ''"),
    Mutation("confirm_copies", "what was taken back is not listed", " or record.owner == dead", ""),
    Mutation("confirm_copies", "the dead worker keeps it", "redis.call('ZREM', running, id)", ""),
    Mutation("confirm_copies", "the deaths stay", "copy, 0\n", "copy, record.deaths\n"),
    # return_claims.lua
    Mutation("return_claims", "it is not seen whose claim it is", "is_claim(record, me, row.generation)", "record and record.state == 'recovering' and record.generation == row.generation"),
    Mutation("return_claims", "it is not seen which claim it is", "is_claim(record, me, row.generation)", "record and record.state == 'recovering' and record.owner == me"),
    Mutation("return_claims", "the payload is forgotten", "payload_of(row.record_key, record), 0", "'', 0"),
    Mutation("return_claims", "it keeps the claim", "record.owner, record.deaths, record.now = '', 0, now", "record.deaths, record.now = 0, now"),
    Mutation("return_claims", "its try does not count", "record.tries = record.tries + 1", ""),
    Mutation("return_claims", "what may have arrived is no try", "row.why ~= 'untried'", "row.why == 'refused'"),
    Mutation("return_claims", "what was not tried waits", "payload_of(row.record_key, record), 0", "payload_of(row.record_key, record), 60000"),
    # return_to_broker.lua
    Mutation("return_to_broker", "the living are robbed", "if lives_for(heartbeats, dead, now, ttl) ~= 0 then\n    return {0}\nend\n", ""),
    Mutation("return_to_broker", "a draining worker's death counts", "was_draining(heartbeats, dead)", "false"),
    Mutation("return_to_broker", "the generation grows", "record.state, record.owner, record.contended, record.now = 'requeued', '', 1, now", "record.generation = record.generation + 1\n            record.state, record.owner, record.contended, record.now = 'requeued', '', 1, now"),
    Mutation("return_to_broker", "the payload is forgotten", "local payload = payload_of(record_key, record)", "local payload = ''"),
    Mutation("return_to_broker", "what the broker does not hold waits", "elseif not held then", "elseif false then"),
    Mutation("return_to_broker", "a convicted message runs again", "(convicted or record.tailored == 1)", "record.tailored == 1"),
    Mutation("return_to_broker", "a living recoverer's claim is taken", "result = 'busy'\n    elseif record", "result = 'to_claim'\n    elseif record"),
    Mutation("return_to_broker", "no other copy is reckoned with", "'requeued', '', 1, now", "'requeued', '', 0, now"),
    Mutation("return_to_broker", "closed connections convict", "doubted and is_convicted(record, drained)", "false"),
    Mutation("return_to_broker", "the owner is not checked", " or record.owner ~= dead", ""),
    Mutation("return_to_broker", "nobody learns what was given away", "redis.call('ZADD', handed, now, dead)", ""),
    # reassert.lua
    Mutation("reassert", "another's record is overwritten", "elseif is_to_start(record) and record.origin == origin", "elseif record.origin == origin"),
    Mutation("reassert", "a poison verdict is overwritten", "(record.dead_letter == 0 or record.state == 'recovering')", "true"),
    Mutation("reassert", "a claim's verdict stays", "tries, 0\n", "tries, record.dead_letter\n"),
    Mutation("reassert", "the charge is not taken back", "record.crashes = record.crashes - 1", "record.crashes = record.crashes"),
    Mutation("reassert", "the run does not grow", "'running', me, record.run + 1, 1, copy", "'running', me, record.run, 1, copy"),
    Mutation("reassert", "it is retaken without its copy", "'running', me, record.run + 1, 1, copy", "'running', me, record.run + 1, 1, record.copy"),
    Mutation("reassert", "another enqueue's record is overwritten", "if not SETTLED[record.state] then", "if false then"),
    Mutation("reassert", "a copy that was stale is counted on", "        copy, record.tailored = '', 1", "        copy = copy"),
    Mutation("reassert", "the copy that runs is not known", "alone, tries, 0", "alone, record.tries, 0"),
    Mutation("reassert", "the deadline stays", "redis.call('ZREM', waiting, id)\n    note_message", "note_message"),
    Mutation("reassert", "any run keeps it", "run == 0 and record.run or run, origin", "record.run, origin"),
    Mutation("reassert", "what it has retaken is another's", "or is_retaken(record, me, run, origin, started)", ""),
    Mutation("common", "any start is its own", "is_run(record, me, run + 1, origin) and record.started == started", "is_run(record, me, run + 1, origin)"),
    Mutation("reassert", "what the broker lost is counted on", "if is_all then\n        forget_copy(record)", "if is_all then"),
    Mutation("reassert", "what the broker has lost since is counted on", "is_all and broker_acks and record.copy ~= ''", "false"),
    Mutation("reassert", "it is alone again", "record.alone == 1 and alone == 0", "false"),
    # defer.lua, extend_deadlines.lua, close_unstarted.lua, extend_deadline.lua, set_aside.lua
    Mutation("defer", "any copy will do", "record.copy ~= copy", "false"),
    Mutation("defer", "the copy keeps its id", "record.copy, record.contended = '', 1", "record.contended = 1"),
    Mutation("defer", "the payload is forgotten", "local payload = payload_to_keep(record_key, record)", "local payload = ''"),
    Mutation("defer", "the payload is left to the broker", "payload_to_keep(record_key, record)", "payload_of(record_key, record)"),
    Mutation("extend_deadlines", "any copy will do", " and record.copy == row.copy", ""),
    Mutation("extend_deadlines", "what is held is settled", "if row.what == 'held' then", "if false then"),
    Mutation("extend_deadlines", "what runs is settled", "record.state == 'requeued' and ", ""),
    Mutation("extend_deadlines", "what may be there is not counted", "record.tries, record.now = record.tries + 1, now", "record.now = now"),
    Mutation("extend_deadlines", "what may be there is waited for for ever", "if wait_of(record, wait, LONGEST_WAIT) >= LONGEST_WAIT then", "if false then"),
    Mutation("extend_deadlines", "the payload of what may be there is forgotten", "local payload = payload_of(record_key, record)", "local payload = ''"),
    Mutation("close_unstarted", "any copy was dead-lettered", "record.tries = tries", "record.tries = record.tries"),
    Mutation("close_unstarted", "an old copy settles", " or generation < record.generation", ""),
    Mutation("close_unstarted", "what runs is settled", "not same or not open", "not same"),
    Mutation("close_unstarted", "another enqueue settles", "not same or ", ""),
    Mutation("close_unstarted", "what a living owner runs is settled", "believed_for(heartbeats, record.owner, clock(), ttl) == 0", "true"),
    Mutation("close_unstarted", "the crashes stay", "record.crashes, record.drains = 0, 0\n", ""),
    Mutation("extend_deadline", "what is claimed is held", "record.state ~= 'requeued' or ", ""),
    Mutation("extend_deadline", "what is poisoned is held", "record.dead_letter == 1 or ", ""),
    Mutation("set_aside", "anybody's claim is set aside", "not is_claim(record, me, generation)", "not (record and record.state == 'recovering' and record.generation == generation)"),
    # The scripts of incarnations.
    Mutation("take", "the living are robbed", "alive and not force", "false"),
    Mutation("take", "a living recoverer's claim is taken", "if alive and record.state == 'recovering' then", "if false then"),
    Mutation("take", "who ran it has it back", "alive and 1 or record.forced", "0"),
    Mutation("take", "the payload is forgotten", "record, payload, now + hold)", "record, '', now + hold)"),
    Mutation("take", "the payload is left to the broker", "payload_to_keep(record_key, record)", "payload_of(record_key, record)"),
    Mutation("take", "what the broker is done with is taken", "if payload == '' then", "if false then"),
    Mutation("claim", "the payload is left to the broker", "payload_to_keep(key, record)", "payload_of(key, record)"),
    Mutation("claim", "what the broker is done with is claimed", "    if payload == '' then", "    if false then"),
    Mutation("claim", "what the broker is done with stays listed", "        redis.call('ZREM', running, id)\n        redis.call('ZREM', waiting, id)\n        return {'gone'}", "        return {'gone'}"),
    Mutation("common", "what the broker has replaces what is here", "if payload == '' and record.kept_in", "if record.kept_in"),
    Mutation("reassert", "what the broker has lost has no payload", "kept = payload -- the broker has lost it", ""),
    Mutation("take", "the generation stays", "give_up(record)\n", "record.deaths = 0\n"),
    Mutation("take", "its owner does not hear of it", "    doubt(heartbeats, record.owner)\n", ""),
    Mutation("take", "what is condemned runs", "= 0, 1, dead_letter\n", "= 0, 1, record.dead_letter\n"),
    Mutation("discard", "the living are robbed", "if not force then", "if false then"),
    Mutation("start", "closed connections convict", "wait = doubted_for(heartbeats, record.owner, now)", "wait = 0"),
    Mutation("forget", "who may be back is forgotten", " or doubted_for(heartbeats, dead, now) > 0", ""),
    Mutation("forget", "what is left is forgotten", " or redis.call('ZCARD', running) > 0", ""),
    Mutation("enter", "whoever is not seen enters", "subscribers(count, channel) > 0 and life()", "life()"),
    Mutation("enter", "who does not enter is judged", "    redis.call('HDEL', incarnation, 'life')\n", ""),
    Mutation("enter", "a suspicion holds", "redis.call('HDEL', suspects, me)", "redis.call('HSET', suspects, me, '1 ' .. redis.call('ZSCORE', heartbeats, me) .. ' ' .. now .. ' i')"),
    Mutation("suspect", "whoever is not seen judges", " or subscribers(count, my_channel) == 0", ""),
    Mutation("suspect", "who entered elsewhere judges", "mine[1] ~= server", "false"),
    Mutation("suspect", "the present are suspected", "local present = subscribers(count, its_channel) > 0", "local present = false"),
    Mutation("suspect", "who entered elsewhere is suspected", " or its[1] ~= server", ""),
    Mutation("suspect", "a sign of life does not matter", "if noted ~= state then", "if not noted then"),
    Mutation("suspect", "no patience is waited for", "since ~= absent_since or now < tonumber(since) + patience", "false"),
    Mutation("suspect", "no connection is opened", " or subscribers(count, my_probe) == 0", ""),
    Mutation("suspect", "it cannot be back", "redis.call('ZADD', heartbeats, -tonumber(deadline), UNTIL .. other)\n", ""),
    Mutation("mark_dead", "a proof leaves a doubt", "redis.call('ZREM', heartbeats, UNTIL .. dead) == 1", "false"),
    Mutation("heartbeat", "a shutdown is not told", "if kind == 'draining' and known >= 0 then", "if false then"),
    Mutation("common", "who has left is brought back", "if not deadline then\n        return -1\n    end\n", "deadline = deadline or now\n"),
    Mutation("common", "a beat on its behalf hides a loss", "if on_behalf and known == 0 then", "if false then"),
    Mutation("common", "the dead have not been shutting down", "redis.call('ZREM', heartbeats, TTL .. id)", "redis.call('ZREM', heartbeats, TTL .. id, DRAINING .. id)"),
    # common.lua
    Mutation("common", "a shutdown is forgotten", "now + ttl, me)\n", "now + ttl, me)\n    redis.call('ZREM', heartbeats, DRAINING .. me)\n"),
    Mutation("common", "whoever has lost a message does not hear of it", "if doubted then\n", "if false then\n"),
    Mutation("common", "it hears of a lost message for ever", "        redis.call('ZREM', heartbeats, DOUBTED .. me)\n", ""),
    Mutation("common", "who is forgotten shuts down when it is back", "        DRAINING .. incarnation, DOUBTED .. incarnation)", "        DOUBTED .. incarnation)"),
    Mutation("common", "who is forgotten is doubted when it is back", "DRAINING .. incarnation, DOUBTED .. incarnation)", "DRAINING .. incarnation)"),
    Mutation("common", "a mark is a time", "= -1e12, '-inf'", "= -1e12, '0'"),
    Mutation("common", "the settled never expire", "redis.call('SET', key, dump(record), 'PX', fence_ttl)", "redis.call('SET', key, dump(record))"),
    Mutation("common", "what waits never expires", ", 'PX', string.format('%d', deadline - record.now + WAITING_TTL))", ")"),
    Mutation("common", "what runs still expires", "redis.call('SET', key, dump(record) .. payload)\nend", "redis.call('SET', key, dump(record) .. payload, 'KEEPTTL')\nend"),
    Mutation("common", "contended records are forgotten", "record.generation > 1 or record.contended == 1", "record.generation > 1"),
    Mutation("common", "recovered records are forgotten", "unacked or record.generation > 1 or", "unacked or"),
    Mutation("common", "a settled record keeps its owner", "record.owner, record.dead_letter = '', 0\n        redis.call('SET', key, dump(record), 'PX'", "record.dead_letter = 0\n        redis.call('SET', key, dump(record), 'PX'"),
    Mutation("common", "poison one death too early", "record.crashes + 1 > record.limit", "record.crashes + 1 >= record.limit"),
    Mutation("common", "company convicts", "record.alone == 1 and ", ""),
    Mutation("common", "a shutdown convicts", " and (not drained or record.limit == 'once')", ""),
    Mutation("common", "the dead live on", "deadline >= PROVEN and nobody", "deadline < PROVEN and ttl or nobody"),
    Mutation("common", "the missing are dead", "appear(heartbeats, owner, now, lives)", "lives = 0"),
    Mutation("start", "nobody judges who runs it", "record.started, id)\n    own()", "record.started, id)"),
    Mutation("reassert", "nobody judges who runs it", "appear(heartbeats, me, now, ttl)", ""),
    Mutation("return_to_broker", "who has left is dead", "lives_for(heartbeats, dead, now, ttl) ~= 0", "(lives_for(heartbeats, dead, now, ttl) or 0) ~= 0"),
    Mutation("common", "the last chance is like any other", "not LIMITS[limit] and crashes >= math.max(limit, 1)", "false"),
    Mutation("common", "the deadline of what is closed stays", "record, fence_ttl)\n    redis.call('ZREM', waiting, id)\n", "record, fence_ttl)\n"),
    Mutation("common", "what is set aside is not kept", "    redis.call('HSET', aside, id, redis.call('GET', key))\n", ""),
    Mutation("common", "the copies of what is closed are not skipped", "record.state, record.contended = state, 1\n", "record.state = state\n"),
    Mutation("common", "what another one runs stays listed", "if not record or record.owner ~= me then", "if false then"),
)  # fmt: skip


def mutated(mutation: Mutation) -> dict[str, str]:
    """The scripts with a mutation in one, or in what all have in common.

    Raises:
      AssertionError: The text to be replaced is not there exactly once.
    """
    scripts = texts()
    if mutation.script == "common":
        assert COMMON.count(mutation.old) == 1, f"{mutation}: it is there {COMMON.count(mutation.old)} times"
        changed = COMMON.replace(mutation.old, mutation.new)
        return {name: assembled(name, text, changed) for name, text in SOURCES.items()}
    own = SOURCES[mutation.script]
    assert own.count(mutation.old) == 1, f"{mutation}: it is there {own.count(mutation.old)} times"
    return {**scripts, mutation.script: assembled(mutation.script, own.replace(mutation.old, mutation.new))}
