# The two hot messages of the wire: the Fetch response, read in place, and the Produce request, written around the
# batches. Both are flexible versions: compact lengths are unsigned varints of n + 1 (0 is null), and each struct ends
# in tagged fields.

cdef class FetchedPartition:
    def __repr__(self):
        return (
            f"FetchedPartition({self.topic or self.topic_id!r}[{self.partition}], error_code={self.error_code},"
            f" bytes={self.end - self.start})"
        )


cdef class FetchFrame:
    def __repr__(self):
        return (
            f"FetchFrame(correlation_id={self.correlation_id}, error_code={self.error_code},"
            f" partitions={self.partitions})"
        )


cdef int ok(Fault fault, const Cursor *c) except -1:
    """The one place where a framing fault becomes an exception."""
    if fault:
        raise FrameError(f"fetch response: {FAULT_TEXT[fault]} at byte {c.pos}")
    return 0


cdef int64_t compact_length(Cursor *c) except -2:
    """A compact length or count; -1 is null."""
    cdef uint32_t value = 0
    ok(get_uvarint(c, &value), c)
    return <int64_t>value - 1


cdef int skip_tags(Cursor *c) except -1:
    cdef uint32_t count = 0, tag = 0, size = 0, i
    ok(get_uvarint(c, &count), c)
    for i in range(count):
        ok(get_uvarint(c, &tag), c)
        ok(get_uvarint(c, &size), c)
        ok(skip(c, size), c)
    return 0


def frame_buffer(Py_ssize_t size):
    """A bytearray whose bytes are whatever memory held: for a frame that is read into it whole."""
    return PyByteArray_FromStringAndSize(NULL, size)


def fetch_response(frame, int version):
    """Parse one Fetch response of version 12 to 17 (FetchResponse.json); records stay where they are in the frame."""
    cdef Py_buffer buffer
    cdef Cursor c
    cdef FetchFrame out = FetchFrame.__new__(FetchFrame)
    cdef int64_t topics, i
    if not 12 <= version <= 17:
        raise ValueError(f"fetch response version {version} is not one of 12 to 17")
    out.partitions = []
    PyObject_GetBuffer(frame, &buffer, PyBUF_SIMPLE)
    try:
        c = Cursor(<const uint8_t *>buffer.buf, 0, buffer.len)
        ok(get_i32(&c, &out.correlation_id), &c)
        skip_tags(&c)
        ok(get_i32(&c, &out.throttle_ms), &c)
        ok(get_i16(&c, &out.error_code), &c)
        ok(get_i32(&c, &out.session_id), &c)
        topics = compact_length(&c)
        if topics < 0:
            ok(BAD_LENGTH, &c)
        for i in range(topics):
            fetched_topic(&c, version, out.partitions)
        skip_tags(&c)
        if c.pos != c.end:
            ok(BAD_REST, &c)
    finally:
        PyBuffer_Release(&buffer)
    return out


cdef int fetched_topic(Cursor *c, int version, list out) except -1:
    cdef object topic = None, topic_id = None
    cdef Py_ssize_t start
    cdef int64_t length, count, i
    if version >= 13:
        start = c.pos
        ok(skip(c, 16), c)
        topic_id = PyBytes_FromStringAndSize(<const char *>c.base + start, 16)
    else:
        length = compact_length(c)
        start = c.pos
        ok(skip(c, length), c)
        try:
            topic = PyBytes_FromStringAndSize(<const char *>c.base + start, c.pos - start).decode()
        except UnicodeDecodeError:
            raise FrameError(f"fetch response: the topic name at byte {start} is not UTF-8") from None
    count = compact_length(c)
    if count < 0:
        ok(BAD_LENGTH, c)
    for i in range(count):
        out.append(fetched_partition(c, topic, topic_id))
    return skip_tags(c)


cdef FetchedPartition fetched_partition(Cursor *c, object topic, object topic_id):
    cdef FetchedPartition out = FetchedPartition.__new__(FetchedPartition)
    cdef int64_t count, length, i, producer_id = 0, first_offset = 0
    out.topic = topic
    out.topic_id = topic_id
    ok(get_i32(c, &out.partition), c)
    ok(get_i16(c, &out.error_code), c)
    ok(get_i64(c, &out.high_watermark), c)
    ok(get_i64(c, &out.last_stable_offset), c)
    ok(get_i64(c, &out.log_start_offset), c)
    out.aborted = []
    count = compact_length(c)
    for i in range(count):
        ok(get_i64(c, &producer_id), c)
        ok(get_i64(c, &first_offset), c)
        skip_tags(c)
        out.aborted.append((producer_id, first_offset))
    ok(get_i32(c, &out.preferred_read_replica), c)
    length = compact_length(c)
    out.start = c.pos
    if length > 0:
        ok(skip(c, length), c)
    out.end = c.pos
    partition_tags(c, out)
    return out


cdef int partition_tags(Cursor *c, FetchedPartition out) except -1:
    """Tag 0: diverging epoch; tag 1: current leader; -1 in either field means unknown, and unknown is None."""
    cdef uint32_t count = 0, tag = 0, size = 0, i
    cdef int32_t first = 0, second = 0
    cdef int64_t offset = 0
    cdef Cursor body
    ok(get_uvarint(c, &count), c)
    for i in range(count):
        ok(get_uvarint(c, &tag), c)
        ok(get_uvarint(c, &size), c)
        body = Cursor(c.base, c.pos, c.pos)
        ok(skip(c, size), c)
        body.end = c.pos
        if tag == 0:
            ok(get_i32(&body, &first), &body)
            ok(get_i64(&body, &offset), &body)
            skip_tags(&body)
            out.diverging = (first, offset) if first >= 0 and offset >= 0 else None
        elif tag == 1:
            ok(get_i32(&body, &first), &body)
            ok(get_i32(&body, &second), &body)
            skip_tags(&body)
            out.current_leader = (first, second) if first >= 0 and second >= 0 else None
    return 0


cdef class _Writer:
    """Small fields between large buffers, as a list for sendmsg."""

    cdef bytearray small
    cdef list parts
    cdef int64_t size

    def __cinit__(self):
        self.small = bytearray()
        self.parts = []

    cdef int i16(self, int16_t value) except -1:
        cdef uint8_t raw[2]
        store16(raw, <uint16_t>value)
        self.small += PyBytes_FromStringAndSize(<char *>raw, 2)
        return 0

    cdef int i32(self, int32_t value) except -1:
        cdef uint8_t raw[4]
        store32(raw, <uint32_t>value)
        self.small += PyBytes_FromStringAndSize(<char *>raw, 4)
        return 0

    cdef int uvarint(self, uint64_t value) except -1:
        cdef uint8_t raw[10]
        cdef uint8_t *stop = put_uvarint(raw, value)
        self.small += PyBytes_FromStringAndSize(<char *>raw, stop - raw)
        return 0

    cdef int compact(self, bytes data) except -1:
        self.uvarint(len(data) + 1)
        self.small += data
        return 0

    cdef int pass_on(self, object data, Py_ssize_t size) except -1:
        """A large buffer, not copied."""
        self.cut()
        self.parts.append(data if isinstance(data, (bytes, memoryview)) else memoryview(data))
        self.size += size
        return 0

    cdef int cut(self) except -1:
        self.size += len(self.small)
        self.parts.append(bytes(self.small))
        self.small = bytearray()
        return 0


def produce_request(int version, int32_t correlation_id, client_id, transactional_id, int32_t timeout_ms, topics):
    """One Produce request of version 9 to 13 (ProduceRequest.json), acks=-1, as buffers for sendmsg."""
    cdef _Writer out = _Writer()
    cdef object topic, partitions, data
    cdef int32_t partition
    cdef Py_ssize_t size
    cdef bytes name
    if not 9 <= version <= 13:
        raise ValueError(f"produce request version {version} is not one of 9 to 13")
    out.i32(0)
    out.i16(0)
    out.i16(<int16_t>version)
    out.i32(correlation_id)
    # Request header v2 keeps the client id in its old, not compact, form.
    if client_id is None:
        out.i16(-1)
    else:
        name = client_id.encode()
        if len(name) > 32767:
            raise ValueError("the client id is longer than 32767 bytes")
        out.i16(<int16_t>len(name))
        out.small += name
    out.uvarint(0)
    if transactional_id is None:
        out.uvarint(0)
    else:
        out.compact(transactional_id.encode())
    out.i16(-1)
    out.i32(timeout_ms)
    out.uvarint(len(topics) + 1)
    for topic, partitions in topics:
        if version >= 13:
            name = topic
            if len(name) != 16:
                raise ValueError("a topic id has 16 bytes")
            out.small += name
        else:
            out.compact(topic.encode())
        out.uvarint(len(partitions) + 1)
        for partition, data in partitions:
            out.i32(partition)
            size = memoryview(data).nbytes
            out.uvarint(size + 1)
            out.pass_on(data, size)
            out.uvarint(0)
        out.uvarint(0)
    out.uvarint(0)
    out.cut()
    if out.size - 4 > 0x7FFFFFFF:
        raise ValueError(f"a request of {out.size} bytes does not fit its 4-byte size")
    # The size is known last and stands first.
    out.parts[0] = (out.size - 4).to_bytes(4, "big") + out.parts[0][4:]
    return out.parts
