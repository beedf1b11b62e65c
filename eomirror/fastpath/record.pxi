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


cdef Fault add_to_runs(Rewrite *job, int64_t offset) noexcept nogil:
    """Source offsets rise strictly: an offset continues the last run or begins a new one beyond it."""
    cdef void *grown
    cdef Run *last
    if job.run_count:
        last = &job.runs[job.run_count - 1]
        if offset == last.first + last.count:
            last.count += 1
            return FINE
    if job.run_count == job.run_room:
        grown = realloc(job.runs, sizeof(Run) * <size_t>(job.run_room * 2 + 16))
        if grown == NULL:
            return NO_MEMORY
        job.runs = <Run *>grown
        job.run_room = job.run_room * 2 + 16
    job.runs[job.run_count] = Run(offset, 1)
    job.run_count += 1
    return FINE


cdef Fault rewrite_records(Cursor *c, Rewrite *job, uint8_t *out) noexcept nogil:
    """Copy the records at or above the position with dense offset deltas and timestamps relative to the first one kept.

    out must have room for rewrite_room(...) bytes: an offset delta never grows, a timestamp delta and the record's
    length may.
    """
    cdef const Scanned *batch = job.batch
    cdef uint8_t *at = out
    cdef Record record
    cdef int64_t timestamp = 0, offset, delta
    cdef int32_t i, previous = -1
    cdef Fault fault
    for i in range(batch.count):
        fault = record_at(c, batch, previous, &record, &timestamp)
        if fault:
            return fault
        previous = record.offset_delta
        offset = batch.base_offset + record.offset_delta
        if offset < job.position:
            continue
        if job.kept == 0:
            job.first_timestamp = timestamp
            job.max_timestamp = timestamp
        elif timestamp > job.max_timestamp:
            job.max_timestamp = timestamp
        if sub_overflows(timestamp, job.first_timestamp, &delta):
            return BAD_TIMESTAMP
        fault = add_to_runs(job, offset)
        if fault:
            return fault
        at = put_record_head(at, record.attributes, delta, job.kept, record.end - record.rest)
        memcpy(at, c.base + record.rest, record.end - record.rest)
        at += record.end - record.rest
        job.kept += 1
    if c.pos != c.end:
        return BAD_REST
    job.written = at - out
    return FINE


cdef uint8_t *put_record_head(
    uint8_t *at, uint8_t attributes, int64_t timestamp_delta, int32_t offset_delta, Py_ssize_t rest
) noexcept nogil:
    at = put_varint(at, <int32_t>(1 + varlong_size(timestamp_delta) + varint_size(offset_delta) + rest))
    at[0] = attributes
    at = put_varlong(at + 1, timestamp_delta)
    return put_varint(at, offset_delta)


cdef Py_ssize_t rewrite_room(Py_ssize_t payload, int32_t count) noexcept nogil:
    """Upper bound of a rewritten payload: a timestamp delta may grow from 1 to 10 bytes, the length by 1 with it."""
    return payload + 10 * <Py_ssize_t>count
