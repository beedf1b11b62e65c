# Records inside a batch. Layout: DefaultRecord.java. All lengths and deltas are zigzag varints.
#
#   length | attributes (1) | timestamp delta | offset delta | key length | key | value length | value | header count, then
#   for each header (key length | key | value length | value); a length of -1 is null, which a header's key may not be

cdef Fault get_bytes(Cursor *c, bint nullable, Py_ssize_t *start, int32_t *size) noexcept nogil:
    cdef Fault fault = get_varint(c, size)
    if fault:
        return fault
    start[0] = c.pos
    if size[0] == -1 and nullable:
        return FINE
    return skip(c, size[0])


cdef Fault get_record(Cursor *c, Record *out) noexcept nogil:
    """The record at the cursor, wholly validated; the cursor moves behind it."""
    cdef int32_t length, size, i
    cdef Py_ssize_t start
    cdef Fault fault
    cdef Cursor body
    fault = get_varint(c, &length)
    if fault:
        return fault
    body = Cursor(c.base, c.pos, c.pos)
    fault = skip(c, length)
    if fault:
        return fault
    body.end = c.pos
    out.end = body.end
    if length < MIN_RECORD - 1:
        return BAD_LENGTH
    out.attributes = body.base[body.pos]
    body.pos += 1
    fault = get_varlong(&body, &out.timestamp_delta)
    if fault:
        return fault
    fault = get_varint(&body, &out.offset_delta)
    if fault:
        return fault
    out.rest = body.pos
    fault = get_bytes(&body, True, &out.key, &out.key_size)
    if fault:
        return fault
    fault = get_bytes(&body, True, &out.value, &out.value_size)
    if fault:
        return fault
    out.counter = body.pos
    fault = get_varint(&body, &out.header_count)
    if fault:
        return fault
    if out.header_count < 0:
        return BAD_LENGTH
    out.headers = body.pos
    # Each header takes two bytes at least, so a hostile count ends at the record's end.
    for i in range(out.header_count):
        fault = get_bytes(&body, False, &start, &size)
        if fault:
            return fault
        fault = get_bytes(&body, True, &start, &size)
        if fault:
            return fault
    return FINE if body.pos == body.end else BAD_LENGTH


cdef Fault record_at(
    Cursor *c, const Scanned *batch, int32_t previous_delta, Record *out, int64_t *timestamp
) noexcept nogil:
    """The next record of a batch with its timestamp, in its place: deltas rise and stay inside the batch."""
    cdef Fault fault = get_record(c, out)
    if fault:
        return fault
    if out.offset_delta <= previous_delta or out.offset_delta > batch.last_offset_delta:
        return BAD_DELTA
    if batch.attributes & LOG_APPEND_TIME:
        timestamp[0] = batch.max_timestamp
    elif add_overflows(batch.base_timestamp, out.timestamp_delta, timestamp):
        return BAD_TIMESTAMP
    return FINE


cdef Fault marker_type(Cursor *c, const Scanned *batch, int16_t *out) noexcept nogil:
    """The type in a control batch's first record (0 abort, 1 commit), or -1 when compaction left only the header.

    The key is int16 version, int16 type; later versions may append (ControlRecordType.java).
    """
    cdef Record record
    cdef int64_t timestamp
    cdef Fault fault
    out[0] = -1
    if batch.count == 0:
        return FINE
    if batch.attributes & CODEC_MASK:
        return BAD_MARKER
    fault = record_at(c, batch, -1, &record, &timestamp)
    if fault:
        return fault
    if record.key_size < 4 or load16(c.base + record.key) < 0:
        return BAD_MARKER
    out[0] = load16(c.base + record.key + 2)
    return FINE


cdef Fault add_to_runs(Draft *draft, int64_t offset) noexcept nogil:
    """Source offsets rise strictly: an offset continues the last run or begins a new one beyond it."""
    cdef void *grown
    cdef Run *last
    if draft.run_count:
        last = &draft.runs[draft.run_count - 1]
        if offset == last.first + last.count:
            last.count += 1
            return FINE
    if draft.run_count == draft.run_room:
        grown = realloc(draft.runs, sizeof(Run) * <size_t>(draft.run_room * 2 + 16))
        if grown == NULL:
            return NO_MEMORY
        draft.runs = <Run *>grown
        draft.run_room = draft.run_room * 2 + 16
    draft.runs[draft.run_count] = Run(offset, 1)
    draft.run_count += 1
    return FINE


cdef Fault make_room(Draft *draft, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t room = draft.used + size
    cdef void *grown
    if room > draft.room:
        # Half as much again, so that a draft's bytes are moved a few times at most.
        room += room // 2
        grown = realloc(draft.bytes, room)
        if grown == NULL:
            return NO_MEMORY
        draft.bytes = <uint8_t *>grown
        draft.room = room
    return FINE


cdef void empty(Draft *draft) noexcept nogil:
    draft.used = HEADER_SIZE
    draft.count = 0
    draft.source_bytes = 0
    draft.run_count = 0


cdef Rewrite rewriting(const Scanned *batch, Cursor records, int64_t position, int64_t until) noexcept nogil:
    cdef Rewrite job
    memset(&job, 0, sizeof(job))
    job.batch = batch
    job.cursor = records
    job.left = batch.count
    job.previous = -1
    job.position = position
    job.until = until
    return job


cdef Fault rewrite_records(Rewrite *job, Draft *draft, const Steps *steps, HeaderList *headers) noexcept nogil:
    """Move the job's records into the draft, behind those that are there; steps is NULL when no recipe is to be applied.

    FINE: the batch is done. DRAFT_FULL: hand the draft out, empty it, and call again. TOO_LARGE: the record at
    job.offset does not fit into an empty draft; everything before it is in drafts. Any other fault is about the whole
    batch: the draft is as it was before the batch, and no record of it was in an earlier one.
    """
    cdef Draft before = draft[0]
    cdef int64_t last_run = draft.runs[draft.run_count - 1].count if draft.run_count else 0
    cdef Fault fault = move_records(job, draft, steps, headers)
    cdef Fault rest
    if (fault == DRAFT_FULL or fault == TOO_LARGE) and not job.checked:
        # What has been handed out cannot be taken back, so a batch that is bad further on must be known to be.
        rest = check_rest(job)
        if rest:
            fault = rest
        job.checked = True
    if fault and fault != DRAFT_FULL and fault != TOO_LARGE:
        draft.used = before.used
        draft.count = before.count
        draft.first_timestamp = before.first_timestamp
        draft.max_timestamp = before.max_timestamp
        draft.source_bytes = before.source_bytes
        draft.run_count = before.run_count
        if draft.run_count:
            draft.runs[draft.run_count - 1].count = last_run
    return fault


cdef Fault move_batches(Span *span, Draft *draft, const Steps *steps, HeaderList *headers) noexcept nogil:
    """rewrite_records for the kept batches of a span, which stands at the one that a fault is about."""
    cdef const Scanned *item
    cdef Fault fault
    while span.at < span.end:
        if span.verdicts[span.at] >= KEPT:
            item = &span.items[span.at]
            if not span.begun:
                span.job = rewriting(
                    item, Cursor(span.base, item.start + HEADER_SIZE, item.start + item.size), span.position, span.until
                )
                span.begun = True
            fault = rewrite_records(&span.job, draft, steps, headers)
            if fault:
                return fault
            span.begun = False
        span.at += 1
    return FINE


cdef Fault check_rest(const Rewrite *job) noexcept nogil:
    cdef Rewrite ahead = job[0]
    cdef Record record
    cdef int64_t timestamp = 0
    cdef Fault fault
    while ahead.left:
        fault = record_at(&ahead.cursor, ahead.batch, ahead.previous, &record, &timestamp)
        if fault:
            return fault
        ahead.previous = record.offset_delta
        ahead.left -= 1
    return FINE if ahead.cursor.pos == ahead.cursor.end else BAD_REST


cdef Fault move_records(Rewrite *job, Draft *draft, const Steps *steps, HeaderList *headers) noexcept nogil:
    cdef const Scanned *batch = job.batch
    cdef Cursor *c = &job.cursor
    cdef Py_ssize_t start, length, size, tail
    cdef Record record
    cdef int64_t timestamp = 0, offset, delta
    cdef uint8_t *at
    cdef Fault fault
    while job.left:
        start = c.pos
        fault = record_at(c, batch, job.previous, &record, &timestamp)
        if fault:
            return fault
        offset = batch.base_offset + record.offset_delta
        if job.position <= offset < job.until:
            if draft.count == 0:
                draft.first_timestamp = timestamp
                draft.max_timestamp = timestamp
            if sub_overflows(timestamp, draft.first_timestamp, &delta):
                c.pos = start
                return DRAFT_FULL
            tail = record.end
            length = head_size(delta, draft.count)
            if steps != NULL:
                fault = apply_steps(steps, c, &record, offset, timestamp, headers)
                if fault and fault != TOO_LARGE:
                    return fault
                length += headers.bytes
                tail = record.counter
            length += tail - record.rest
            # A draft's limit is int32, so a length that is not fits nowhere.
            size = length + (varint_size(<int32_t>length) if length <= draft.limit else VARINT_ROOM)
            if fault == TOO_LARGE or draft.count >= draft.most or draft.used + size > draft.limit:
                c.pos = start
                job.offset = offset
                return DRAFT_FULL if draft.count else TOO_LARGE
            fault = make_room(draft, size)
            if fault:
                return fault
            fault = add_to_runs(draft, offset)
            if fault:
                return fault
            if timestamp > draft.max_timestamp:
                draft.max_timestamp = timestamp
            at = put_record_head(draft.bytes + draft.used, <int32_t>length, record.attributes, delta, draft.count)
            memcpy(at, c.base + record.rest, tail - record.rest)
            if steps != NULL:
                put_headers(at + (tail - record.rest), headers)
            draft.used += size
            draft.count += 1
            if not job.started:
                job.started = True
                draft.source_bytes += batch.size
        job.previous = record.offset_delta
        job.left -= 1
    return FINE if c.pos == c.end else BAD_REST


cdef inline int head_size(int64_t timestamp_delta, int32_t offset_delta) noexcept nogil:
    """Bytes between a record's length and its key."""
    return 1 + varlong_size(timestamp_delta) + varint_size(offset_delta)


cdef inline uint8_t *put_record_head(
    uint8_t *at, int32_t length, uint8_t attributes, int64_t timestamp_delta, int32_t offset_delta
) noexcept nogil:
    at = put_varint(at, length)
    at[0] = attributes
    return put_varint(put_varlong(at + 1, timestamp_delta), offset_delta)
