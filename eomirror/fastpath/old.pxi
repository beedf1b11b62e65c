# The formats before Kafka 0.11, magic 0 and 1, turned into records of magic 2. Layout: LegacyRecord.java.
#
#   0 offset (8)       16 magic (1)                     key length (4), key, value length (4), value;
#   8 length (4)       17 attributes (1)                a length of -1 is null
#  12 CRC-32 (4)       18 timestamp (8), magic 1 only
#
# A log entry is one message. If its attributes name a codec it is a wrapper: its value unpacks to the real messages, and
# its offset is the last one's. Inside a wrapper of magic 0 offsets are absolute; of magic 1 they are relative to a first
# one that follows from the last, so a log that was compacted reads right. The CRC covers magic to the end and doesn't
# cover the offset; wrappers and what is in them each have one.

cdef extern from *:
    """
    /* xxHash, 32 bits, seed 0, of fewer than 16 bytes: what checks the header of an LZ4 frame */
    static uint32_t eo_turn(uint32_t x, int by) { return x << by | x >> (32 - by); }

    static uint32_t eo_short_xxh32(const uint8_t *p, size_t n) {
        uint32_t h = 374761393u + (uint32_t)n;
        for (; n >= 4; p += 4, n -= 4) {
            uint32_t word = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
            h = eo_turn(h + word * 3266489917u, 17) * 668265263u;
        }
        while (n--) h = eo_turn(h + *p++ * 374761393u, 11) * 2654435761u;
        h = (h ^ h >> 15) * 2246822519u;
        h = (h ^ h >> 13) * 3266489917u;
        return h ^ h >> 16;
    }
    """
    uint32_t eo_short_xxh32(const uint8_t *p, size_t n) noexcept nogil


cdef void scan_old(const uint8_t *p, int64_t expected, bint check_crc, Scanned *out) noexcept nogil:
    """Judge a whole entry of magic 0 or 1 whose offset is in out.base_offset, as far as that goes without unpacking.

    A wrapper's first offset is not known before, so its base is the lowest that it can be.
    """
    cdef int64_t offset = out.base_offset
    out.attributes = p[17] & (CODEC_MASK | LOG_APPEND_TIME if out.magic else CODEC_MASK)
    out.leader_epoch = -1
    out.last_offset_delta = 0
    out.count = 1
    out.base_timestamp = -1
    out.max_timestamp = -1
    out.producer_id = -1
    if add_overflows(offset, 1, &out.next_offset):
        out.next_offset = -1
        out.fault = BAD_OFFSETS
        return
    if out.attributes & CODEC_MASK:
        out.base_offset = expected
    if check_crc and eo_old_crc(p + 16, out.size - 16) != <uint32_t>load32(p + 12):
        out.fault = BAD_CRC
    elif out.attributes & CODEC_MASK > CODEC_LZ4:
        out.fault = BAD_CODEC


cdef Fault get_part(Cursor *c, Py_ssize_t *start, int32_t *size) noexcept nogil:
    cdef Fault fault = get_i32(c, size)
    if fault:
        return fault
    start[0] = c.pos
    return FINE if size[0] == -1 else skip(c, size[0])


cdef Fault get_message(Cursor *c, Message *out) noexcept nogil:
    """The entry at the cursor, wholly validated but for its CRC; the cursor moves behind it."""
    cdef int32_t size
    cdef Cursor body
    cdef Fault fault = get_i64(c, &out.offset)
    if not fault:
        fault = get_i32(c, &size)
    if fault:
        return fault
    body = Cursor(c.base, c.pos, c.pos)
    fault = skip(c, size)
    if fault:
        return fault
    body.end = c.pos
    if size < OLD_MESSAGE_MIN:
        return BAD_SIZE
    out.magic = <int8_t>body.base[body.pos + 4]
    out.attributes = body.base[body.pos + 5]
    if out.magic < 0 or out.magic > 1:
        return BAD_WRAPPER
    body.pos += 6
    out.timestamp = -1
    if out.magic == 1:
        fault = get_i64(&body, &out.timestamp)
    if not fault:
        fault = get_part(&body, &out.key, &out.key_size)
    if not fault:
        fault = get_part(&body, &out.value, &out.value_size)
    if fault:
        return fault
    return FINE if body.pos == body.end else BAD_LENGTH


cdef Fault take_census(Cursor c, Census *out) noexcept nogil:
    """Check every message of an entry, and learn what has to be known before the first is written."""
    cdef Message message
    cdef Py_ssize_t start
    cdef Fault fault
    while c.pos < c.end:
        start = c.pos
        fault = get_message(&c, &message)
        if fault:
            return fault
        if eo_old_crc(c.base + start + 16, c.pos - start - 16) != <uint32_t>load32(c.base + start + 12):
            return BAD_CRC
        if message.attributes & CODEC_MASK:
            return BAD_WRAPPER
        if message.offset < 0:
            return BAD_OFFSETS
        if out.count == 0:
            out.first = message.offset
        elif message.offset <= out.last:
            return BAD_DELTA
        out.last = message.offset
        out.count += 1
    return FINE if out.count else BAD_WRAPPER


cdef Fault put_messages(
    Cursor c, const Census *census, const Message *wrapper, Scanned *batch, uint8_t *out, Py_ssize_t *written
) noexcept nogil:
    """Write every message as a record of the batch, whose timestamps are filled in; wrapper is NULL if there is none."""
    cdef Message message
    cdef uint8_t *at = out
    cdef int64_t delta
    cdef int32_t offset_delta, i
    cdef Py_ssize_t rest
    cdef Fault fault
    for i in range(census.count):
        fault = get_message(&c, &message)
        if fault:
            return fault
        # LogAppendTime: the broker has stamped the wrapper alone.
        if wrapper != NULL and wrapper.attributes & LOG_APPEND_TIME and wrapper.magic and message.magic:
            message.timestamp = wrapper.timestamp
        if i == 0:
            batch.base_timestamp = message.timestamp
            batch.max_timestamp = message.timestamp
        if sub_overflows(message.timestamp, batch.base_timestamp, &delta):
            return BAD_TIMESTAMP
        batch.max_timestamp = max(batch.max_timestamp, message.timestamp)
        offset_delta = <int32_t>(message.offset - census.first)
        rest = varint_size(message.key_size) + max(message.key_size, 0)
        rest += varint_size(message.value_size) + max(message.value_size, 0) + 1
        at = put_record_head(at, <int32_t>(head_size(delta, offset_delta) + rest), 0, delta, offset_delta)
        at = put_part(at, c.base + message.key, message.key_size)
        at = put_part(at, c.base + message.value, message.value_size)
        at[0] = 0
        at += 1
    written[0] = at - out
    return FINE


cdef uint8_t *put_part(uint8_t *at, const uint8_t *data, int32_t size) noexcept nogil:
    at = put_varint(at, size)
    if size > 0:
        memcpy(at, data, size)
        at += size
    return at


cdef Fault place_offsets(const Census *census, const Scanned *item, bint relative, Scanned *out) noexcept nogil:
    """The batch's base offset and last delta; it ends where the entry says."""
    cdef int64_t last = item.next_offset - 1
    if census.last > last:
        return BAD_OFFSETS
    out.base_offset = census.first + (last - census.last if relative else 0)
    if out.base_offset < item.base_offset:
        return BAD_OFFSETS
    if last - out.base_offset > 0x7FFFFFFF:
        return BAD_DELTA
    out.last_offset_delta = <int32_t>(last - out.base_offset)
    return FINE


cdef object unpack_wrapped(int codec, int8_t magic, const uint8_t *p, Py_ssize_t size):
    """The messages in a wrapper, as a bytearray.

    The first writers of LZ4 took the header's checksum over the magic number too, so Kafka's readers don't look at it
    in magic 0 (KafkaLZ4BlockInputStream.java). It is made right here, in a copy.
    """
    cdef bytearray copy
    cdef uint8_t *header
    cdef Py_ssize_t checksum
    if codec != CODEC_LZ4 or magic != 0 or size < 15:
        return unpack_payload(codec, p, size)
    copy = PyByteArray_FromStringAndSize(<const char *>p, size)
    header = <uint8_t *>PyByteArray_AS_STRING(copy)
    checksum = 14 if header[4] & 0x08 else 6
    header[checksum] = <uint8_t>(eo_short_xxh32(header + 4, checksum - 4) >> 8)
    return unpack_payload(codec, header, size)


cdef Fault convert(
    Cursor c, const Scanned *item, const Message *wrapper, Scanned *batch, uint8_t *out, Py_ssize_t *written
) noexcept nogil:
    cdef Census census
    cdef Fault fault
    memset(&census, 0, sizeof(census))
    fault = take_census(c, &census)
    if not fault:
        fault = place_offsets(&census, item, wrapper != NULL and item.magic == 1, batch)
    if fault:
        return fault
    batch.count = census.count
    return put_messages(c, &census, wrapper, batch, out, written)


cdef bytearray convert_old(const uint8_t *base, const Scanned *item, Scanned *out):
    """An entry of magic 0 or 1 as uncompressed records of magic 2, and in out the header that they would have.

    out.attributes has the entry's codec, in which they are to be compressed again. Raises _Undecodable.
    """
    cdef int codec = item.attributes & CODEC_MASK
    cdef Cursor c = Cursor(base, item.start, item.start + item.size)
    cdef Message message
    cdef const Message *wrapper = NULL
    cdef object unpacked
    cdef bytearray records
    cdef uint8_t *room
    cdef Py_ssize_t written = 0
    cdef Fault fault
    memset(out, 0, sizeof(out[0]))
    out.start = item.start
    out.size = item.size
    out.magic = 2
    out.next_offset = item.next_offset
    out.leader_epoch = -1
    out.attributes = <int16_t>codec
    out.producer_id = -1
    if codec != CODEC_NONE:
        fault = get_message(&c, &message)
        if fault:
            raise corrupt(FAULT_TEXT[fault])
        if message.value_size < 0:
            raise corrupt(FAULT_TEXT[BAD_WRAPPER])
        wrapper = &message
        unpacked = unpack_wrapped(codec, item.magic, base + message.value, message.value_size)
        c = Cursor(<const uint8_t *>PyByteArray_AS_STRING(unpacked), 0, len(unpacked))
    elif item.size > MAX_UNPACKED:
        raise too_much(item.size)
    # A message is at least 26 bytes, and at most 6 shorter than the record that it becomes.
    records = PyByteArray_FromStringAndSize(NULL, c.end - c.pos + (c.end - c.pos) // 4)
    room = <uint8_t *>PyByteArray_AS_STRING(records)
    if c.end - c.pos >= GIL_BYTES:
        with nogil:
            fault = convert(c, item, wrapper, out, room, &written)
    else:
        fault = convert(c, item, wrapper, out, room, &written)
    if fault:
        raise corrupt(FAULT_TEXT[fault])
    PyByteArray_Resize(records, written)
    return records
