# Internal topics: small batches written and read record by record.

def build_batch(
    records, *, int64_t timestamp_ms, int64_t producer_id, int16_t producer_epoch, int32_t base_sequence, str codec
):
    """One transactional record batch of (key, value) or (key, value, headers) with one timestamp, ready for a Produce request."""
    cdef int number
    cdef Py_ssize_t room = HEADER_SIZE
    cdef int32_t i = 0
    cdef bytearray out
    cdef uint8_t *p
    cdef uint8_t *at
    cdef Stamp stamp = Stamp(producer_id, producer_epoch, base_sequence, 0)
    cdef bytes key, value, name, held
    cdef uint32_t payload_crc
    cdef Py_ssize_t size, rest
    cdef tuple record, headers
    if codec == "none":
        number = CODEC_NONE
    elif codec == "lz4":
        number = CODEC_LZ4
    else:
        raise ValueError(f"codec {codec!r} is neither none nor lz4")
    if not records:
        raise ValueError("a batch without records: the broker refuses it")
    if producer_id < 0 or producer_epoch < 0 or base_sequence < 0:
        raise ValueError("producer id, producer epoch and base sequence start at 0")
    for record in records:
        key, value = record[0], record[1]
        headers = record[2] if len(record) > 2 else ()
        room += 32 + (0 if key is None else len(key)) + (0 if value is None else len(value))
        for name, held in headers:
            room += 10 + len(name) + (0 if held is None else len(held))
    if room > MAX_UNPACKED:
        raise ValueError(f"a batch of {room} bytes, more than {MAX_UNPACKED}")
    out = PyByteArray_FromStringAndSize(NULL, room)
    p = <uint8_t *>PyByteArray_AS_STRING(out)
    at = p + HEADER_SIZE
    for record in records:
        key, value = record[0], record[1]
        headers = record[2] if len(record) > 2 else ()
        rest = bytes_size(key) + bytes_size(value) + varint_size(<int32_t>len(headers))
        for name, held in headers:
            rest += bytes_size(name) + bytes_size(held)
        at = put_record_head(at, <int32_t>(head_size(0, i) + rest), 0, 0, i)
        at = put_varint(put_bytes(put_bytes(at, key), value), <int32_t>len(headers))
        for name, held in headers:
            at = put_bytes(put_bytes(at, name), held)
        i += 1
    size = at - p
    if number == CODEC_NONE:
        PyByteArray_Resize(out, size)
    else:
        out = bytearray(HEADER_SIZE) + pack_payload(number, p + HEADER_SIZE, size - HEADER_SIZE)
        size = len(out)
    p = <uint8_t *>PyByteArray_AS_STRING(out)
    payload_crc = crc_update(0, p + HEADER_SIZE, size - HEADER_SIZE)
    write_header(
        p, size, <int16_t>number, timestamp_ms, timestamp_ms, i, &stamp, crc_power(size - HEADER_SIZE), payload_crc
    )
    assert_sendable(p, size, i - 1)
    return bytes(out)


cdef Py_ssize_t bytes_size(bytes data):
    return 1 if data is None else varint_size(<int32_t>len(data)) + len(data)


cdef uint8_t *put_bytes(uint8_t *at, bytes data):
    if data is None:
        return put_varint(at, -1)
    at = put_varint(at, <int32_t>len(data))
    memcpy(at, PyBytes_AS_STRING(data), len(data))
    return at + len(data)


def read_records(frame, Py_ssize_t start, Py_ssize_t end, aborted, int64_t position=0):
    """The committed records of frame[start:end] at or above the position, control batches and aborted ones left out."""
    cdef Py_buffer buffer
    cdef Scan scan = Scan.__new__(Scan)
    cdef AbortedIndex index = AbortedIndex(aborted)
    cdef list out = []
    cdef const Scanned *item
    cdef const uint8_t *base
    cdef Py_ssize_t i
    cdef int64_t at = position
    cdef int16_t marker
    cdef Fault fault
    if position < 0:
        raise ValueError("position starts at 0")
    PyObject_GetBuffer(frame, &buffer, PyBUF_SIMPLE)
    try:
        check_range(start, end, buffer.len)
        base = <const uint8_t *>buffer.buf
        scan.run(base, start, end)
        if scan.found.incomplete and scan.found.count == 0:
            raise BatchError("CORRUPT_BATCH", position, None, FAULT_TEXT[NO_WHOLE_BATCH])
        for i in range(scan.found.count):
            item = &scan.found.items[i]
            fault = item.fault
            if not fault:
                fault = OLD_MAGIC if item.magic < 2 else read_marker(base, item, &marker)
            if fault:
                raise fault_error(item, at, fault)
            if not index.drops(item, marker) and not item.attributes & CONTROL and item.count and item.next_offset > at:
                read_batch(base, item, position, out)
            if item.next_offset > at:
                at = item.next_offset
    finally:
        PyBuffer_Release(&buffer)
    return out


cdef int read_batch(const uint8_t *base, const Scanned *item, int64_t position, list out) except -1:
    cdef Cursor c = Cursor(base, item.start + HEADER_SIZE, item.start + item.size)
    cdef Record record
    cdef object unpacked
    cdef int64_t timestamp = 0
    cdef int32_t i, previous = -1
    cdef Fault fault
    if item.attributes & CODEC_MASK:
        try:
            unpacked = unpack_payload(item.attributes & CODEC_MASK, base + c.pos, item.size - HEADER_SIZE)
        except _Undecodable as error:
            raise batch_error(item, position, error.reason, error.detail) from None
        c = Cursor(<const uint8_t *>PyByteArray_AS_STRING(unpacked), 0, len(unpacked))
    for i in range(item.count):
        fault = record_at(&c, item, previous, &record, &timestamp)
        if fault:
            raise fault_error(item, position, fault)
        previous = record.offset_delta
        if item.base_offset + record.offset_delta >= position:
            out.append((
                item.base_offset + record.offset_delta,
                timestamp,
                take(&c, record.key, record.key_size),
                take(&c, record.value, record.value_size),
                read_headers(&c, &record),
            ))
    if c.pos != c.end:
        raise fault_error(item, position, BAD_REST)
    return 0


cdef list read_headers(const Cursor *c, const Record *record):
    """The headers of a record that get_record has validated."""
    cdef Cursor body = Cursor(c.base, record.headers, record.end)
    cdef Py_ssize_t start
    cdef int32_t size, i
    cdef list out = []
    cdef object name
    for i in range(record.header_count):
        if get_bytes(&body, False, &start, &size):
            raise AssertionError("a validated record does not parse")
        name = take(c, start, size)
        if get_bytes(&body, True, &start, &size):
            raise AssertionError("a validated record does not parse")
        out.append((name, take(c, start, size)))
    return out


cdef object take(const Cursor *c, Py_ssize_t start, int32_t size):
    return None if size < 0 else PyBytes_FromStringAndSize(<const char *>c.base + start, size)
