# Finding whole batches and judging them, before anything of them is used. Layout: DefaultRecordBatch.java (magic 2).
#
#   0 base offset (8)        17 crc (4)               27 base timestamp (8)     51 producer epoch (2)
#   8 length (4)             21 attributes (2)        35 max timestamp (8)      53 base sequence (4)
#  12 leader epoch (4)       23 last offset delta (4) 43 producer id (8)        57 record count (4)
#  16 magic (1)                                                                 61 records
#
# The CRC covers 21 to the end. What lies before it is guarded by other means: offsets must not go back, the length is
# proved by the CRC itself.

cdef enum:
    LOG_OVERHEAD = 12
    HEADER_SIZE = 61
    CHECKED_FROM = 21           # the first byte under the CRC
    OLD_MESSAGE_MIN = 14        # the smallest length of a magic 0 message; magic 1 adds a timestamp
    MIN_RECORD = 7              # length, attributes, two deltas, two lengths, header count: a byte each

    CODEC_MASK = 0x07
    CODEC_MAX = 4
    LOG_APPEND_TIME = 0x08
    TRANSACTIONAL = 0x10
    CONTROL = 0x20
    DELETE_HORIZON = 0x40


cdef bint scan_batch(Cursor *c, int64_t expected, bint check_crc, Scanned *out) noexcept nogil:
    """The batch at the cursor, which moves behind it; False when there is no whole one left, which is no fault.

    expected: the lowest base offset that may follow. With check_crc off only the header's own shape is judged.
    """
    cdef Py_ssize_t left = c.end - c.pos
    cdef const uint8_t *p = c.base + c.pos
    cdef int32_t length
    cdef int8_t magic
    if left < LOG_OVERHEAD:
        return False
    out.start = c.pos
    out.size = 0
    out.base_offset = load64(p)
    out.next_offset = -1
    out.magic = 2
    out.payload_crc = 0
    out.payload_power = 0
    out.fault = FINE
    length = load32(p + 8)
    if length < OLD_MESSAGE_MIN:
        out.fault = BAD_SIZE
        return True
    if left < 17:
        return False
    magic = <int8_t>p[16]
    if magic < 0 or magic > 2:
        out.fault = BAD_MAGIC
        return True
    out.magic = magic
    if left - LOG_OVERHEAD < length:
        return False
    out.size = LOG_OVERHEAD + <Py_ssize_t>length
    if out.base_offset < expected or out.base_offset < 0:
        out.fault = BAD_OFFSETS
        return True
    if magic < 2:
        c.pos += out.size
        scan_old(p, expected, check_crc, out)
        return True
    if out.size < HEADER_SIZE:
        out.fault = BAD_SIZE
        return True
    c.pos += out.size
    out.leader_epoch = load32(p + 12)
    out.attributes = load16(p + 21)
    out.last_offset_delta = load32(p + 23)
    out.base_timestamp = load64(p + 27)
    out.max_timestamp = load64(p + 35)
    out.producer_id = load64(p + 43)
    out.count = load32(p + 57)
    if out.last_offset_delta < 0 or add_overflows(
        out.base_offset, <int64_t>out.last_offset_delta + 1, &out.next_offset
    ):
        out.next_offset = -1
        out.fault = BAD_OFFSETS
        return True
    if check_crc:
        out.payload_crc = crc_update(0, p + HEADER_SIZE, out.size - HEADER_SIZE)
        out.payload_power = crc_power(out.size - HEADER_SIZE)
        if header_crc(p, out.payload_power, out.payload_crc) != <uint32_t>load32(p + 17):
            out.fault = BAD_CRC
            return True
    if out.count < 0 or out.count > <int64_t>out.last_offset_delta + 1:
        out.fault = BAD_COUNT
    elif out.count == 0 and out.size > HEADER_SIZE:
        out.fault = BAD_REST
    elif out.attributes & CODEC_MASK > CODEC_MAX:
        out.fault = BAD_CODEC
    return True


cdef uint32_t header_crc(const uint8_t *batch, uint32_t payload_power, uint32_t payload_crc) noexcept nogil:
    """The CRC of a batch whose header is in place, from its payload's."""
    return crc_append(crc_update(0, batch + CHECKED_FROM, HEADER_SIZE - CHECKED_FROM), payload_power, payload_crc)


cdef Fault scan_all(Cursor *c, ScanList *found) noexcept nogil:
    """Every whole batch of the range, up to and including the first with a fault; items are the caller's to free."""
    cdef int64_t expected = 0
    cdef Scanned *item
    cdef void *grown
    while c.pos < c.end:
        if found.count == found.room:
            grown = realloc(found.items, sizeof(Scanned) * <size_t>(found.room * 2 + 16))
            if grown == NULL:
                return NO_MEMORY
            found.items = <Scanned *>grown
            found.room = found.room * 2 + 16
        item = &found.items[found.count]
        if not scan_batch(c, expected, True, item):
            found.incomplete = True
            return FINE
        found.count += 1
        if item.fault:
            return FINE
        expected = item.next_offset
    return FINE


cdef class Scan:
    """The batches found in one range of a frame; owns the list, borrows the frame."""

    cdef ScanList found

    def __dealloc__(self):
        free(self.found.items)

    cdef int run(self, const uint8_t *base, Py_ssize_t start, Py_ssize_t end) except -1:
        cdef Cursor c = Cursor(base, start, end)
        cdef Fault fault
        # One release for the whole range, not one per batch: taking the GIL back can cost a switch interval.
        if end - start >= GIL_BYTES:
            with nogil:
                fault = scan_all(&c, &self.found)
        else:
            fault = scan_all(&c, &self.found)
        if fault:
            raise MemoryError()
        return 0


def next_offset(frame, Py_ssize_t start, Py_ssize_t end, int64_t position):
    """(offset after the last whole batch, its leader epoch) by the headers alone; (position, -1) if it lies beyond."""
    cdef Py_buffer buffer
    cdef Cursor c
    cdef Scanned item
    cdef int64_t after = position, expected = 0
    cdef int32_t epoch = -1
    PyObject_GetBuffer(frame, &buffer, PyBUF_SIMPLE)
    try:
        check_range(start, end, buffer.len)
        c = Cursor(<const uint8_t *>buffer.buf, start, end)
        while scan_batch(&c, expected, False, &item):
            if item.fault:
                break
            expected = item.next_offset
            if expected > after:
                after = expected
                epoch = item.leader_epoch
    finally:
        PyBuffer_Release(&buffer)
    return after, epoch


cdef int check_range(Py_ssize_t start, Py_ssize_t end, Py_ssize_t size) except -1:
    if not 0 <= start <= end <= size:
        raise ValueError(f"range {start}..{end} is not inside a frame of {size} bytes")
    return 0
