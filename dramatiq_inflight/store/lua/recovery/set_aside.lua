-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A recoverer cannot decode a payload that it has claimed: keep it, whole, where people look for it.
--
--@ keys  record_key waiting running aside history counts
--@ args  me id generation:int why
--
--    running: of the dead incarnation
--    why: the error, for the history
--
-- returns aside, or fenced (it is not ours any more)
--
-- I2: the payload moves; it is never dropped.

local record = load(record_key)
if not is_claim(record, me, generation) then
    return 'fenced'
end
put_aside(record_key, waiting, running, aside, id)
note_message(history, counts, 'set_aside', id, record, '', 'why', why)
return 'aside'
