# Batches that are written anew: gathered, cut, filled up, compressed, and split until each fits the target.


cdef class _Records:
    """Owns the malloc'd bytes of an uncompressed batch; memoryviews of it keep it alive."""

    cdef uint8_t *bytes
    cdef Py_ssize_t size

    def __dealloc__(self):
        free(self.bytes)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.bytes, self.size, True, flags)


cdef bint is_packed(const Scanned *item) noexcept nogil:
    """Its records are not at hand in the frame."""
    return item.attributes & CODEC_MASK or item.magic < 2


cdef class Reencoder:
    """Turns spans of judged batches into batches of their own. Holds one draft and one unpacked payload at a time."""

    cdef Draft draft
    cdef HeaderList headers
    cdef Recipe recipe
    cdef const Steps *steps
    cdef Packed packed
    cdef Stamp *stamp           # borrowed
    cdef Py_ssize_t spent       # bytes of magic 2 unpacked so far
    cdef int16_t attributes     # of what is being written
    cdef object unpacked        # the payload that the span's job reads from,
    cdef Scanned converted      # and the batch, if it was made of an old entry

    def __init__(self, Recipe recipe, Packed packed):
        self.packed = packed
        self.recipe = recipe
        if recipe is not None:
            self.steps = &recipe.steps
            self.headers.values = <uint8_t *>malloc(recipe.steps.value_room + 1)
            if self.headers.values == NULL:
                raise MemoryError()

    def __dealloc__(self):
        free(self.draft.bytes)
        free(self.draft.runs)
        free(self.headers.items)
        free(self.headers.values)

    cdef int run(self, Span *span, int16_t attributes, int32_t most) except -1:
        """The whole span as one batch, or as many as it takes, with these attributes and of at most so many records. It
        stands at its end then, or at a PLAIN batch that is better sent as it is, with everything before it handed out.
        Raises BatchError with packed.next_offset at the bad batch or record, and everything before it handed out."""
        cdef Py_ssize_t end = span.end
        cdef bint unpacks = attributes & CODEC_MASK != 0 or span.items[span.at].magic < 2
        self.attributes = attributes
        self.draft.limit = self.stamp.max_batch_bytes
        if self.attributes & CODEC_MASK:
            self.draft.limit = HEADER_SIZE + MAX_UNPACKED
        self.draft.most = most
        empty(&self.draft)
        while span.at < end:
            if unpacks:
                # Batch by batch: unpacking needs the GIL.
                span.end = span.at + 1
                if self.attributes & CODEC_MASK and self.draft.used >= MERGE_UNPACKED:
                    self.flush()
                if span.verdicts[span.at] == PLAIN and self.spent >= MERGE_IN_ALL:
                    break
                if span.verdicts[span.at] >= KEPT and is_packed(&span.items[span.at]) and not self.unpack(span):
                    break
            if not self.move(span):
                break
            span.end = end
            self.unpacked = None
        self.unpacked = None
        self.flush()
        return 0

    cdef bint unpack(self, Span *span) except -1:
        """False for a PLAIN batch that does not unpack."""
        cdef const Scanned *item = &span.items[span.at]
        cdef const Scanned *batch = item
        cdef Cursor records
        try:
            if item.magic < 2:
                self.unpacked = convert_old(span.base, item, &self.converted)
                batch = &self.converted
            else:
                self.unpacked = unpack_payload(
                    item.attributes & CODEC_MASK, span.base + item.start + HEADER_SIZE, item.size - HEADER_SIZE
                )
        except _Undecodable as error:
            if span.verdicts[span.at] == PLAIN:
                return False
            self.stand_before(span)
            raise batch_error(item, self.packed.next_offset, error.reason, error.detail) from None
        records = Cursor(<const uint8_t *>PyByteArray_AS_STRING(self.unpacked), 0, len(self.unpacked))
        span.job = rewriting(batch, records, span.position, span.until)
        span.begun = True
        if item.magic == 2:
            self.spent += len(self.unpacked)
        return True

    cdef bint move(self, Span *span) except -1:
        """False if it stands at a PLAIN batch that does not parse; nothing of it is in a draft."""
        cdef Fault fault = DRAFT_FULL
        cdef Py_ssize_t size = self.expect(span)
        while fault == DRAFT_FULL:
            if make_room(&self.draft, min(size, self.draft.limit - self.draft.used)):
                raise MemoryError()
            if size >= GIL_BYTES:
                with nogil:
                    fault = move_batches(span, &self.draft, self.steps, &self.headers)
            else:
                fault = move_batches(span, &self.draft, self.steps, &self.headers)
            if fault == DRAFT_FULL:
                self.flush()
        if fault == TOO_LARGE:
            self.flush()
            if self.headers.count > MAX_HEADERS:
                self.too_many_headers(span.job.offset)
            self.too_large(span.job.offset)
        if fault == NO_MEMORY:
            raise MemoryError()
        if fault and span.verdicts[span.at] == PLAIN:
            return False
        if fault:
            self.stand_before(span)
            raise fault_error(&span.items[span.at], self.packed.next_offset, fault)
        return True

    cdef Py_ssize_t expect(self, const Span *span) except -1:
        """About how many bytes the span's records take as they are."""
        cdef Py_ssize_t size = 0, i
        if self.unpacked is not None:
            return len(self.unpacked)
        for i in range(span.at, span.end):
            size += span.items[i].size
        return size

    cdef int stand_before(self, const Span *span) except -1:
        """Everything before items[at] is done: hand it out, and stand there."""
        cdef int64_t after
        self.flush()
        if span.at:
            after = min(span.items[span.at - 1].next_offset, span.until)
            if after > self.packed.next_offset:
                self.packed.next_offset = after
        return 0

    cdef int too_large(self, int64_t offset) except -1:
        self.packed.next_offset = offset
        detail = f"the record alone is more than the {self.stamp.max_batch_bytes} bytes that the target takes in a batch"
        raise BatchError("RECORD_TOO_LARGE", offset, offset + 1, detail)

    cdef int too_many_headers(self, int64_t offset) except -1:
        self.packed.next_offset = offset
        detail = (
            f"the record has {self.headers.count} headers with those that are added, "
            f"more than the {MAX_HEADERS} that can be rewritten"
        )
        raise BatchError("RECORD_TOO_LARGE", offset, offset + 1, detail)

    cdef int flush(self) except -1:
        """Hand out what the draft holds, if anything; it is empty then."""
        if self.draft.count == 0:
            return 0
        if self.attributes & CODEC_MASK:
            self.press()
        else:
            self.give_away()
        empty(&self.draft)
        return 0

    cdef int give_away(self) except -1:
        """An uncompressed draft's memory becomes the batch."""
        cdef _Records records = _Records.__new__(_Records)
        cdef void *fitted = realloc(self.draft.bytes, self.draft.used)
        records.bytes = self.draft.bytes if fitted == NULL else <uint8_t *>fitted
        records.size = self.draft.used
        self.draft.bytes = NULL
        self.draft.room = 0
        self.finish(records, records.bytes, records.size, &self.draft, 0, self.draft.source_bytes)
        return 0

    cdef int press(self) except -1:
        """Hand out the draft compressed, in as many batches as it takes: parts of about as many records each, and what
        does not fit is parted again. Holds one part at a time; a record is compressed once for each time that the
        number of records can be halved, at most."""
        cdef object payload = self.compressed(&self.draft)
        cdef Scanned whole
        cdef Rewrite job, before
        cdef Draft part
        cdef int32_t done = 0, end
        cdef list ends
        if self.fits(payload):
            self.finish_compressed(payload, &self.draft, 0, self.draft.source_bytes)
            return 0
        memset(&whole, 0, sizeof(whole))
        memset(&part, 0, sizeof(part))
        whole.count = self.draft.count
        whole.last_offset_delta = self.draft.count - 1
        whole.base_timestamp = self.draft.first_timestamp
        job = rewriting(&whole, Cursor(self.draft.bytes, HEADER_SIZE, self.draft.used), 0, MAX_OFFSET)
        job.checked = True
        part.limit = self.draft.limit
        ends = [self.draft.count, *self.parted(0, self.draft.count, payload)]
        try:
            while ends:
                before = job
                end = ends[len(ends) - 1]
                self.take(&job, &part, end - done)
                payload = self.compressed(&part)
                if not self.fits(payload):
                    job = before
                    ends += self.parted(done, part.count, payload)
                    continue
                self.finish_compressed(payload, &part, done, 0 if done else self.draft.source_bytes)
                done += part.count
                if done == end:
                    ends.pop()
        finally:
            free(part.bytes)
            free(part.runs)
        return 0

    cdef object compressed(self, const Draft *draft):
        """The draft's payload; None if it had better stay as it is, for it fits the target and would not any more."""
        cdef object payload = pack_payload(
            self.attributes & CODEC_MASK, draft.bytes + HEADER_SIZE, draft.used - HEADER_SIZE
        )
        return payload if self.fits(payload) or draft.used > self.stamp.max_batch_bytes else None

    cdef bint fits(self, payload) except -1:
        return payload is None or HEADER_SIZE + len(payload) <= self.stamp.max_batch_bytes

    cdef list parted(self, int32_t done, int32_t count, payload):
        """Where to cut records done .. done + count that have become this payload, the first cut last."""
        cdef int64_t size = HEADER_SIZE + len(payload)
        if count == 1:
            self.too_large(self.runs(done, 1)[0][0])
        # A part may compress worse than the whole.
        cdef int64_t parts = min(<int64_t>count, (size + size // 16) // max(1, self.stamp.max_batch_bytes) + 1)
        return [done + <int64_t>count * i // parts for i in range(parts - 1, 0, -1)]

    cdef int take(self, Rewrite *job, Draft *part, int32_t count) except -1:
        """Move the job's next records into an emptied part: `count`, or fewer where timestamps lie too far apart."""
        cdef Fault fault
        empty(part)
        part.most = count
        with nogil:
            fault = rewrite_records(job, part, NULL, NULL)
        if fault == NO_MEMORY:
            raise MemoryError()
        if fault and fault != DRAFT_FULL or not part.count:
            raise AssertionError("a draft that we wrote does not parse")
        return 0

    cdef int finish_compressed(self, payload, const Draft *draft, Py_ssize_t done, Py_ssize_t source_bytes) except -1:
        cdef int16_t attributes = self.attributes
        cdef Py_ssize_t size = draft.used if payload is None else HEADER_SIZE + len(payload)
        cdef bytearray out = PyByteArray_FromStringAndSize(NULL, size)
        if payload is None:
            self.attributes &= ~CODEC_MASK
            memcpy(PyByteArray_AS_STRING(out) + HEADER_SIZE, draft.bytes + HEADER_SIZE, size - HEADER_SIZE)
        else:
            out[HEADER_SIZE:] = payload
        self.finish(out, <uint8_t *>PyByteArray_AS_STRING(out), size, draft, done, source_bytes)
        self.attributes = attributes
        return 0

    cdef tuple runs(self, int64_t skip, int64_t count):
        """The runs of `count` records of self.draft behind the first `skip`."""
        cdef list out = []
        cdef Py_ssize_t i
        cdef Run run
        for i in range(self.draft.run_count):
            run = self.draft.runs[i]
            if skip >= run.count:
                skip -= run.count
                continue
            if count == 0:
                break
            run = Run(run.first + skip, min(run.count - skip, count))
            skip = 0
            count -= run.count
            out.append((run.first, run.count))
        return tuple(out)

    cdef int finish(
        self, object owner, uint8_t *p, Py_ssize_t size, const Draft *draft, Py_ssize_t done, Py_ssize_t source_bytes
    ) except -1:
        """Write the header in front of a payload that is in place, and hand the batch out."""
        cdef Batch batch = Batch.__new__(Batch)
        cdef int64_t total = 0
        cdef uint32_t crc
        batch.payload_bytes = size - HEADER_SIZE
        if size >= GIL_BYTES:
            with nogil:
                crc = crc_update(0, p + HEADER_SIZE, size - HEADER_SIZE)
        else:
            crc = crc_update(0, p + HEADER_SIZE, size - HEADER_SIZE)
        write_header(
            p, size, self.attributes, draft.first_timestamp, draft.max_timestamp, draft.count, self.stamp,
            crc_power(batch.payload_bytes), crc,
        )
        batch.view = memoryview(owner)
        batch.count = draft.count
        batch.runs = self.runs(done, draft.count)
        batch.max_timestamp = draft.max_timestamp
        batch.source_bytes = source_bytes
        batch.payload_crc = crc
        batch.reencoded = True
        for run in batch.runs:
            total += <int64_t>run[1]
        assert_sendable(p, size, total - 1)
        hand_out(batch, self.packed, self.stamp)
        return 0
