# From a fetched range to batches that may be produced. What is handed out is either a slice of the frame, patched in
# place (pass-through), or a buffer of its own (re-encoded); both carry base offset 0, our producer, and the
# transactional bit.

cdef class Batch:
    def __repr__(self):
        return f"Batch(count={self.count}, runs={self.runs}, bytes={len(self.view)}, reencoded={self.reencoded})"


cdef class Packed:
    def __repr__(self):
        return (
            f"Packed(batches={len(self.batches)}, records={self.records}, next_offset={self.next_offset},"
            f" error={self.error!r})"
        )


# What every batch of one pack() is stamped with.
cdef struct Stamp:
    int64_t producer_id
    int16_t producer_epoch
    int32_t sequence            # of the next batch; wraps after 2^31 - 1 to 0
    int32_t max_batch_bytes


cdef object batch_error(const Scanned *batch, int64_t position, str reason, str detail):
    """A BatchError for one batch; position is where the walk stands, the offset to name when the header gives none."""
    if batch.next_offset < 0:
        return BatchError(reason, position, None, detail)
    # An offset that does not lead past the position would bring the same batch again.
    return BatchError(reason, batch.base_offset, batch.next_offset if batch.next_offset > position else None, detail)


cdef object fault_error(const Scanned *batch, int64_t position, Fault fault):
    if fault == NO_MEMORY:
        return MemoryError()
    return batch_error(batch, position, "UNKNOWN_CODEC" if fault == BAD_CODEC else "CORRUPT_BATCH", FAULT_TEXT[fault])


cdef class AbortedIndex:
    """The broker's list of aborted transactions, consumed in offset order as its reader goes on (CompletedFetch.java).

    An entry opens a drop for its producer id; that producer's ABORT marker ends it. A plain set of ids would go on to
    swallow the same producer's later, committed records.
    """

    cdef list entries
    cdef Py_ssize_t used
    cdef set open_ids

    def __cinit__(self, aborted):
        self.entries = sorted(aborted, key=_first_offset) if len(aborted) > 1 else list(aborted)
        self.open_ids = set()

    cdef bint drops(self, const Scanned *batch, int16_t marker) except -1:
        """Whether the batch belongs to an aborted transaction; marker is its control type, or -1."""
        cdef int64_t last = batch.next_offset - 1
        while self.used < len(self.entries) and self.entries[self.used][1] <= last:
            self.open_ids.add(self.entries[self.used][0])
            self.used += 1
        if not self.open_ids:
            return False
        if batch.attributes & CONTROL:
            if marker == 0:
                self.open_ids.discard(batch.producer_id)
            return False
        return bool(batch.attributes & TRANSACTIONAL) and batch.producer_id in self.open_ids


def _first_offset(entry):
    return entry[1]


cdef Fault read_marker(const uint8_t *base, const Scanned *batch, int16_t *marker) noexcept nogil:
    cdef Cursor c
    marker[0] = -1
    if not batch.attributes & CONTROL:
        return FINE
    c = Cursor(base, batch.start + HEADER_SIZE, batch.start + batch.size)
    return marker_type(&c, batch, marker)


def pack(
    frame,
    Py_ssize_t start,
    Py_ssize_t end,
    int64_t position,
    aborted,
    *,
    int64_t producer_id,
    int16_t producer_epoch,
    int32_t base_sequence,
    int32_t max_batch_bytes,
):
    """Turn the whole batches of frame[start:end] into batches to be produced; patches their headers in place."""
    cdef Py_buffer buffer
    cdef Scan scan = Scan.__new__(Scan)
    cdef AbortedIndex index = AbortedIndex(aborted)
    cdef Packed packed = Packed.__new__(Packed)
    cdef Stamp stamp = Stamp(producer_id, producer_epoch, base_sequence, max_batch_bytes)
    cdef Batch batch
    cdef object view
    if position < 0 or producer_id < 0 or producer_epoch < 0 or base_sequence < 0:
        raise ValueError("position, producer id, producer epoch and base sequence start at 0")
    packed.batches = []
    packed.next_offset = position
    packed.last_leader_epoch = -1
    PyObject_GetBuffer(frame, &buffer, PyBUF_WRITABLE)
    try:
        check_range(start, end, buffer.len)
        scan.run(<const uint8_t *>buffer.buf, start, end)
        view = memoryview(frame)
        try:
            pack_scanned(<uint8_t *>buffer.buf, view, &scan.found, index, &stamp, packed)
        except BatchError as error:
            packed.error = error
            return packed
        finally:
            packed.next_sequence = stamp.sequence
        packed.incomplete = scan.found.incomplete
        if scan.found.incomplete and scan.found.count == 0:
            packed.error = BatchError("CORRUPT_BATCH", position, None, FAULT_TEXT[NO_WHOLE_BATCH])
    finally:
        PyBuffer_Release(&buffer)
    return packed


cdef int pack_scanned(
    uint8_t *base, object view, ScanList *found, AbortedIndex index, Stamp *stamp, Packed packed
) except -1:
    """Judge the batches in order; raises BatchError at the first bad one, with all before it already in packed."""
    cdef const Scanned *item
    cdef int16_t marker
    cdef Py_ssize_t i
    cdef Fault fault
    cdef bint dropped
    cdef Batch batch
    for i in range(found.count):
        item = &found.items[i]
        fault = item.fault
        if not fault:
            fault = read_marker(base, item, &marker)
        if fault:
            raise fault_error(item, packed.next_offset, fault)
        dropped = index.drops(item, marker)
        if item.next_offset <= packed.next_offset:
            continue
        if item.attributes & CONTROL:
            packed.control_batches += 1
        elif dropped:
            packed.aborted_records += item.count
        elif item.count:
            batch = forward(base, view, item, packed.next_offset, stamp)
            if batch is not None:
                packed.batches.append(batch)
                packed.records += batch.count
        packed.next_offset = item.next_offset
        packed.last_leader_epoch = item.leader_epoch
    return 0


cdef Batch forward(uint8_t *base, object view, const Scanned *item, int64_t position, Stamp *stamp):
    """The batch as it will be produced, or None when no record of it is at or above the position."""
    cdef Batch batch
    if (
        item.base_offset >= position
        and item.count == <int64_t>item.last_offset_delta + 1
        and not item.attributes & LOG_APPEND_TIME
    ):
        batch = pass_through(base, view, item, position, stamp)
    else:
        batch = reencode(base, item, position, stamp)
        if batch is None:
            return None
    stamp.sequence = <int32_t>((<int64_t>stamp.sequence + batch.count) & 0x7FFFFFFF)
    return batch


cdef Batch pass_through(uint8_t *base, object view, const Scanned *item, int64_t position, Stamp *stamp):
    cdef Batch batch = Batch.__new__(Batch)
    cdef uint8_t *p = base + item.start
    if item.size > stamp.max_batch_bytes:
        raise too_large(item, position, item.size, stamp)
    write_header(p, item.size, item.attributes, item.base_timestamp, item.max_timestamp, item.count, stamp,
                 item.payload_power, item.payload_crc)
    batch.view = view[item.start:item.start + item.size]
    batch.count = item.count
    batch.runs = ((item.base_offset, item.count),)
    batch.max_timestamp = item.max_timestamp
    batch.source_bytes = item.size
    batch.payload_crc = item.payload_crc
    batch.payload_bytes = item.size - HEADER_SIZE
    assert_sendable(p, item.size, item.last_offset_delta)
    return batch


cdef object too_large(const Scanned *item, int64_t position, Py_ssize_t size, Stamp *stamp):
    detail = f"the batch has {size} bytes, the target takes {stamp.max_batch_bytes}"
    return batch_error(item, position, "RECORD_TOO_LARGE", detail)


cdef void write_header(
    uint8_t *p, Py_ssize_t size, int16_t attributes, int64_t base_timestamp, int64_t max_timestamp, int32_t count,
    Stamp *stamp, uint32_t payload_power, uint32_t payload_crc,
) noexcept nogil:
    """The 61 bytes of a batch to be produced; the payload is in place behind them.

    The delete-horizon bit goes and its base timestamp stays: it is what the records' deltas are counted from.
    """
    store64(p, 0)
    store32(p + 8, <uint32_t>(size - LOG_OVERHEAD))
    store32(p + 12, 0xFFFFFFFF)
    p[16] = 2
    store16(p + 21, <uint16_t>((attributes | TRANSACTIONAL) & ~(LOG_APPEND_TIME | CONTROL | DELETE_HORIZON)))
    store32(p + 23, <uint32_t>(count - 1))
    store64(p + 27, <uint64_t>base_timestamp)
    store64(p + 35, <uint64_t>max_timestamp)
    store64(p + 43, <uint64_t>stamp.producer_id)
    store16(p + 51, <uint16_t>stamp.producer_epoch)
    store32(p + 53, <uint32_t>stamp.sequence)
    store32(p + 57, <uint32_t>count)
    store32(p + 17, header_crc(p, payload_power, payload_crc))


cdef int assert_sendable(const uint8_t *p, Py_ssize_t size, int32_t source_last_offset_delta) except -1:
    """What the broker does not check for us, read back from the bytes: it stored a batch with wrong inner deltas, and
    it took one without the transactional bit outside of the transaction. The delta compared is the source's own.
    """
    cdef uint16_t attributes = <uint16_t>load16(p + 21)
    if (
        load64(p) != 0
        or load32(p + 8) != size - LOG_OVERHEAD
        or load32(p + 57) != <int64_t>source_last_offset_delta + 1
        or load32(p + 23) != source_last_offset_delta
        or not attributes & TRANSACTIONAL
        or attributes & (LOG_APPEND_TIME | CONTROL | DELETE_HORIZON)
    ):
        raise AssertionError("a batch that must not be sent: offsets, count or attributes are wrong")
    return 0


cdef Batch reencode(uint8_t *base, const Scanned *item, int64_t position, Stamp *stamp):
    cdef int codec = item.attributes & CODEC_MASK
    cdef const uint8_t *payload = base + item.start + HEADER_SIZE
    cdef Py_ssize_t size = item.size - HEADER_SIZE
    cdef object unpacked
    if codec != CODEC_NONE:
        try:
            unpacked = unpack_payload(codec, payload, size)
        except _Undecodable as error:
            raise batch_error(item, position, error.reason, error.detail) from None
        payload = <const uint8_t *>PyByteArray_AS_STRING(unpacked)
        size = len(unpacked)
    elif size > MAX_UNPACKED:
        raise batch_error(item, position, "RECORD_TOO_LARGE", f"re-encoding {size} bytes, more than {MAX_UNPACKED}")
    if size // MIN_RECORD < item.count:
        raise fault_error(item, position, ENDS_EARLY)
    return rewrite(payload, size, item, position, stamp)


cdef Batch rewrite(const uint8_t *payload, Py_ssize_t size, const Scanned *item, int64_t position, Stamp *stamp):
    """Walk the unpacked records into a batch of its own; None when the position is past all of them."""
    cdef Rewrite job
    cdef Cursor c = Cursor(payload, 0, size)
    cdef Py_ssize_t room = HEADER_SIZE + rewrite_room(size, item.count)
    cdef bytearray out = PyByteArray_FromStringAndSize(NULL, room)
    cdef uint8_t *p = <uint8_t *>PyByteArray_AS_STRING(out)
    cdef Fault fault
    memset(&job, 0, sizeof(job))
    job.batch = item
    job.position = position
    try:
        if size >= GIL_BYTES:
            with nogil:
                fault = rewrite_records(&c, &job, p + HEADER_SIZE)
        else:
            fault = rewrite_records(&c, &job, p + HEADER_SIZE)
        if fault:
            raise fault_error(item, position, fault)
        if job.kept == 0:
            return None
        return rewritten(out, &job, stamp)
    finally:
        free(job.runs)


cdef Batch rewritten(bytearray out, Rewrite *job, Stamp *stamp):
    cdef Batch batch = Batch.__new__(Batch)
    cdef const Scanned *item = job.batch
    cdef int codec = item.attributes & CODEC_MASK
    cdef uint8_t *p = <uint8_t *>PyByteArray_AS_STRING(out)
    cdef Py_ssize_t i
    cdef uint32_t power
    if codec == CODEC_NONE:
        PyByteArray_Resize(out, HEADER_SIZE + job.written)
    else:
        out = bytearray(HEADER_SIZE) + pack_payload(codec, p + HEADER_SIZE, job.written)
    cdef Py_ssize_t size = len(out)
    if size > stamp.max_batch_bytes:
        raise too_large(item, job.position, size, stamp)
    p = <uint8_t *>PyByteArray_AS_STRING(out)
    batch.payload_bytes = size - HEADER_SIZE
    batch.payload_crc = crc_update(0, p + HEADER_SIZE, batch.payload_bytes)
    power = crc_power(batch.payload_bytes)
    write_header(
        p, size, item.attributes, job.first_timestamp, job.max_timestamp, job.kept, stamp, power, batch.payload_crc
    )
    assert_sendable(p, size, job.kept - 1)
    batch.view = memoryview(out)
    batch.count = job.kept
    batch.runs = tuple([(job.runs[i].first, job.runs[i].count) for i in range(job.run_count)])
    batch.max_timestamp = job.max_timestamp
    batch.source_bytes = item.size
    batch.reencoded = True
    return batch
