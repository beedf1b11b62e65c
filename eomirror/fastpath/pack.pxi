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


cdef int64_t MAX_OFFSET = 0x7FFFFFFFFFFFFFFF


cdef object batch_error(const Scanned *batch, int64_t position, str reason, str detail):
    """A BatchError for one batch; position is where the walk stands, the offset to name when the header gives none."""
    if batch.next_offset < 0:
        return BatchError(reason, position, None, detail)
    cdef int64_t offset = batch.base_offset
    if batch.magic < 2 and offset < position:
        offset = position       # a wrapper's first offset is not known
    # An offset that does not lead past the position would bring the same batch again.
    return BatchError(reason, offset, batch.next_offset if batch.next_offset > position else None, detail)


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


cdef enum:
    # A source batch of fewer bytes is gathered with its neighbours: to write it anew costs less than the Produce request
    # that it saves.
    MERGE_BELOW = 16384
    MERGE_BELOW_COMPRESSED = 4096
    MERGE_UP_TO = 262144        # as long as they have no more bytes than this together,
    MERGE_UNPACKED = 4194304    # and what compressed ones have become so far is less than this
    MERGE_IN_ALL = 33554432     # in one pack(); what compresses well must not cost more than it saves


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
    Recipe recipe=None,
    until=None,
    apart=None,
):
    """Turn the whole batches of frame[start:end] into batches to be produced; patches their headers in place."""
    cdef Py_buffer buffer
    cdef Scan scan = Scan.__new__(Scan)
    cdef Packed packed = Packed.__new__(Packed)
    cdef Stamp stamp = Stamp(producer_id, producer_epoch, base_sequence, max_batch_bytes)
    cdef Walk walk
    if position < 0 or producer_id < 0 or producer_epoch < 0 or base_sequence < 0:
        raise ValueError("position, producer id, producer epoch and base sequence start at 0")
    if apart is not None and apart[2] < 1:
        raise ValueError(f"{apart[2]} records in a batch: the number starts at 1")
    packed.batches = []
    packed.next_offset = position
    packed.last_leader_epoch = -1
    PyObject_GetBuffer(frame, &buffer, PyBUF_WRITABLE)
    try:
        check_range(start, end, buffer.len)
        scan.run(<const uint8_t *>buffer.buf, start, end)
        walk = Walk(memoryview(frame), recipe, packed)
        walk.set(<uint8_t *>buffer.buf, &scan.found, position, MAX_OFFSET if until is None else until, &stamp)
        walk.merge = True
        walk.apart_first, walk.apart_next, walk.apart_most = (0, 0, 1) if apart is None else apart
        try:
            walk.judge(AbortedIndex(aborted))
            walk.forward()
        except BatchError as error:
            packed.error = error
        walk.account()
        packed.next_sequence = stamp.sequence
        if packed.error is None and not walk.halted:
            packed.incomplete = scan.found.incomplete
            if scan.found.incomplete and scan.found.count == 0:
                packed.error = BatchError("CORRUPT_BATCH", position, None, FAULT_TEXT[NO_WHOLE_BATCH])
    finally:
        PyBuffer_Release(&buffer)
    return packed


cdef class Walk:
    """One pack(): judges the batches of a range, then hands them out one by one or gathered. Borrows everything."""

    cdef uint8_t *base
    cdef const Scanned *items
    cdef uint8_t *verdicts      # owned; of the first `judged` items
    cdef Py_ssize_t found
    cdef Py_ssize_t judged
    cdef bint halted            # the next item begins at or behind `until`
    cdef int64_t position
    cdef int64_t until
    cdef Stamp *stamp
    cdef object view
    cdef Recipe recipe
    cdef Packed packed
    cdef bint merge             # neighbours may become one batch
    cdef int64_t apart_first    # the records of batches that reach into
    cdef int64_t apart_next     # this range are sent apart,
    cdef int32_t apart_most     # so many in a batch
    cdef Reencoder reencoder

    def __init__(self, view, recipe, packed):
        self.view = view
        self.recipe = recipe
        self.packed = packed

    def __dealloc__(self):
        free(self.verdicts)

    cdef int set(self, uint8_t *base, ScanList *found, int64_t position, int64_t until, Stamp *stamp) except -1:
        self.base = base
        self.items = found.items
        self.found = found.count
        self.position = position
        self.until = until
        self.stamp = stamp
        self.verdicts = <uint8_t *>malloc(found.count + 1)
        if self.verdicts == NULL:
            raise MemoryError()
        return 0

    cdef int judge(self, AbortedIndex index) except -1:
        """What each batch is, up to the first bad one or to `until`."""
        cdef const Scanned *item
        cdef int16_t marker
        cdef bint aborted
        cdef Verdict verdict
        while self.judged < self.found:
            item = &self.items[self.judged]
            if item.fault or read_marker(self.base, item, &marker):
                return 0
            if item.base_offset >= self.until:
                self.halted = True
                return 0
            aborted = index.drops(item, marker)
            if item.next_offset <= self.position:
                verdict = BEHIND
            elif item.attributes & CONTROL:
                verdict = MARKER
            elif aborted:
                verdict = ABORTED
            else:
                verdict = HEADER_ONLY if not item.count else PLAIN if self.is_plain(item) else KEPT
            self.verdicts[self.judged] = verdict
            self.judged += 1
        return 0

    cdef int forward(self) except -1:
        """Hand out what is kept, in order. Raises BatchError at the first bad batch or record, with all before it in
        packed.batches and packed.next_offset where the walk stands."""
        cdef const Scanned *item
        cdef Py_ssize_t i = 0, end
        cdef int16_t marker, kind
        cdef Fault fault
        while i < self.judged:
            end = i + 1
            if self.verdicts[i] >= KEPT:
                end = self.gathered(i, &kind)
                if end == i + 1 and self.verdicts[i] == PLAIN:
                    self.pass_through(&self.items[i])
                else:
                    end = self.reencode(i, end, kind)
            self.pass_over(&self.items[end - 1])
            i = end
        if self.halted:
            if self.until > self.packed.next_offset:
                self.packed.next_offset = self.until
        elif i < self.found:
            item = &self.items[i]
            fault = item.fault
            if not fault:
                fault = read_marker(self.base, item, &marker)
            raise fault_error(item, self.packed.next_offset, fault)
        return 0

    cdef int pass_over(self, const Scanned *item) except -1:
        cdef int64_t after = min(item.next_offset, self.until)
        if after > self.packed.next_offset:
            self.packed.next_offset = after
        return 0

    cdef bint is_plain(self, const Scanned *item) noexcept:
        """Nothing of its records has to change, and it may be sent as it is."""
        return (
            self.recipe is None
            and item.magic == 2
            and item.base_offset >= self.position
            and item.next_offset <= self.until
            and item.count == <int64_t>item.last_offset_delta + 1
            and (item.count <= self.apart_most or not self.is_apart(item))
            and item.size <= self.stamp.max_batch_bytes
            and not item.attributes & LOG_APPEND_TIME
        )

    cdef bint is_apart(self, const Scanned *item) noexcept:
        return item.base_offset < self.apart_next and item.next_offset > self.apart_first

    cdef bint may_gather(self, Py_ssize_t i) noexcept:
        """A large batch is not re-encoded merely because a small one lies beside it."""
        cdef const Scanned *item = &self.items[i]
        cdef Py_ssize_t small = MERGE_BELOW_COMPRESSED if item.attributes & CODEC_MASK else MERGE_BELOW
        return self.merge and not self.is_apart(item) and (item.size < small or self.verdicts[i] != PLAIN)

    cdef Py_ssize_t gathered(self, Py_ssize_t first, int16_t *kind) noexcept:
        """Index after the last batch that becomes one with the first; what is dropped between them does not matter.

        `kind` gets the attributes of what they become. Producers leave a batch uncompressed that would not get smaller,
        so uncompressed ones join a codec's.
        """
        cdef const Scanned *item = &self.items[first]
        cdef bint old = item.magic < 2
        cdef Py_ssize_t size = item.size, end = first + 1, i
        cdef int16_t other
        kind[0] = lasting(item.attributes)
        if not self.may_gather(first):
            return end
        for i in range(first + 1, self.judged):
            if self.verdicts[i] < KEPT:
                continue
            item = &self.items[i]
            size += item.size
            other = lasting(item.attributes)
            if not self.may_gather(i) or (item.magic < 2) != old or (other ^ kind[0]) & ~CODEC_MASK:
                break
            if other & CODEC_MASK and kind[0] & CODEC_MASK and other != kind[0]:
                break
            if size > min(<Py_ssize_t>MERGE_UP_TO, <Py_ssize_t>self.stamp.max_batch_bytes):
                break
            kind[0] |= other
            end = i + 1
        return end

    cdef int pass_through(self, const Scanned *item) except -1:
        cdef Batch batch = Batch.__new__(Batch)
        cdef uint8_t *p = self.base + item.start
        write_header(p, item.size, item.attributes, item.base_timestamp, item.max_timestamp, item.count, self.stamp,
                     item.payload_power, item.payload_crc)
        batch.view = self.view[item.start:item.start + item.size]
        batch.count = item.count
        batch.runs = ((item.base_offset, item.count),)
        batch.max_timestamp = item.max_timestamp
        batch.source_bytes = item.size
        batch.payload_crc = item.payload_crc
        batch.payload_bytes = item.size - HEADER_SIZE
        assert_sendable(p, item.size, item.last_offset_delta)
        hand_out(batch, self.packed, self.stamp)
        return 0

    cdef Py_ssize_t reencode(self, Py_ssize_t first, Py_ssize_t end, int16_t kind) except -1:
        """Write the batches first..end anew as one, or as many as it takes; returns the index behind the last one done.

        One that was only to be gathered, and that cannot be read or is not worth it, is sent as it is, and no more are
        gathered: nobody else has read it either, and its readers may be more lenient than we are.
        """
        cdef Span span
        if self.reencoder is None:
            self.reencoder = Reencoder(self.recipe, self.packed)
            self.reencoder.stamp = self.stamp
        memset(&span, 0, sizeof(span))
        span.base = self.base
        span.items = self.items
        span.verdicts = self.verdicts
        span.at = first
        span.end = end
        span.position = self.position
        span.until = self.until
        self.reencoder.run(&span, kind, self.apart_most if self.is_apart(&self.items[first]) else 0x7FFFFFFF)
        if span.at == end:
            return end
        self.merge = False
        self.pass_through(&self.items[span.at])
        return span.at + 1

    cdef int account(self) except -1:
        """Count what lies below packed.next_offset, however the walk ended."""
        cdef const Scanned *item
        cdef Py_ssize_t i
        cdef int64_t after
        for i in range(self.judged):
            item = &self.items[i]
            after = min(item.next_offset, self.packed.next_offset)
            if after <= max(self.position, item.base_offset):
                continue
            self.packed.last_leader_epoch = item.leader_epoch
            if after < item.next_offset:
                break
            if self.verdicts[i] == MARKER:
                self.packed.control_batches += 1
            elif self.verdicts[i] == ABORTED:
                self.packed.aborted_records += item.count
        return 0


cdef inline int16_t lasting(int16_t attributes) noexcept nogil:
    """What a produced batch keeps of its source's attributes: the codec, and bits that we do not know."""
    return <int16_t>(attributes & ~(LOG_APPEND_TIME | TRANSACTIONAL | CONTROL | DELETE_HORIZON))


cdef int hand_out(Batch batch, Packed packed, Stamp *stamp) except -1:
    packed.batches.append(batch)
    packed.records += batch.count
    stamp.sequence = <int32_t>((<int64_t>stamp.sequence + batch.count) & 0x7FFFFFFF)
    return 0


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
    store16(p + 21, <uint16_t>(lasting(attributes) | TRANSACTIONAL))
    store32(p + 23, <uint32_t>(count - 1))
    store64(p + 27, <uint64_t>base_timestamp)
    store64(p + 35, <uint64_t>max_timestamp)
    store64(p + 43, <uint64_t>stamp.producer_id)
    store16(p + 51, <uint16_t>stamp.producer_epoch)
    store32(p + 53, <uint32_t>stamp.sequence)
    store32(p + 57, <uint32_t>count)
    store32(p + 17, header_crc(p, payload_power, payload_crc))


cdef int assert_sendable(const uint8_t *p, Py_ssize_t size, int64_t source_last_offset_delta) except -1:
    """What the broker does not check for us, read back from the bytes: it stored a batch with wrong inner deltas, and
    it took one without the transactional bit outside of the transaction. The delta compared is the source's own, or,
    of a re-encoded batch, what its runs say.
    """
    cdef uint16_t attributes = <uint16_t>load16(p + 21)
    if (
        load64(p) != 0
        or load32(p + 8) != size - LOG_OVERHEAD
        or load32(p + 57) != source_last_offset_delta + 1
        or load32(p + 23) != source_last_offset_delta
        or not attributes & TRANSACTIONAL
        or attributes & (LOG_APPEND_TIME | CONTROL | DELETE_HORIZON)
    ):
        raise AssertionError("a batch that must not be sent: offsets, count or attributes are wrong")
    return 0
