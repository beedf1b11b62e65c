# The page from which the kernel can be learnt: its structs, its classes and the signatures of its C functions.
# Bodies are in _fastpath.pyx and the files of fastpath/ that it includes; the Python-visible contract is in
# _fastpath.pyi.

cimport cython
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t


# Why a read stopped. Every C function that reads returns one of these; FINE is 0, so `if status:` means a fault.
cdef enum Fault:
    FINE = 0
    ENDS_EARLY          # a read would pass the end of the buffer
    VARINT_OVERFLOW     # more than 5 (int32) or 10 (int64) bytes, or bits that do not fit
    BAD_LENGTH          # a length below -1, or -1 where null is not allowed, or a record that does not end where it says
    BAD_SIZE            # a batch length too small for its header
    BAD_MAGIC           # a magic byte that no Kafka has written
    OLD_MAGIC           # magic 0 or 1, where it is not read
    BAD_OFFSETS         # a base offset below 0 or below the end of the batch before, or an end that passes 2^63 - 1
    BAD_COUNT           # a record count below 0 or above last offset delta + 1
    BAD_CRC
    BAD_CODEC           # attributes 0-2 name no codec
    BAD_DELTA           # inner offset deltas that do not rise, or pass the batch's last one
    BAD_TIMESTAMP       # a timestamp outside of 64 bits
    BAD_REST            # bytes left over after the last record, or records where the header counts none
    BAD_WRAPPER         # an old message that claims to be compressed and holds no messages, or compressed ones
    BAD_MARKER          # a control batch that is compressed, or whose key is no marker
    NO_WHOLE_BATCH      # the first batch of an answer is cut: a broker sends the first one whole or not at all
    NO_MEMORY
    DRAFT_FULL          # no fault: the next record belongs in another batch
    TOO_LARGE           # one record alone is more than a batch may hold


# One message of magic 0 or 1; the indices are relative to the cursor it was read from.
cdef struct Message:
    int64_t offset
    int8_t magic
    uint8_t attributes
    int64_t timestamp           # -1 with magic 0, which has none
    Py_ssize_t key
    int32_t key_size            # -1: null
    Py_ssize_t value
    int32_t value_size          # -1: null


# What a walk over the messages of one log entry found.
cdef struct Census:
    int32_t count
    int64_t first               # offsets as they stand there
    int64_t last


# A bounded view of somebody else's bytes; pos only moves forward and never passes end.
cdef struct Cursor:
    const uint8_t *base
    Py_ssize_t pos
    Py_ssize_t end


# One batch header as found, with what one pass over the payload learnt. Written by scan_batch, never changed after.
cdef struct Scanned:
    Py_ssize_t start            # index of the batch in the frame
    Py_ssize_t size             # bytes of the whole batch: 12 + its length field
    int8_t magic
    int64_t base_offset         # of a compressed message of magic 0 or 1, the lowest that its first record can have
    int64_t next_offset         # base + last offset delta + 1; -1 when the header cannot be trusted that far
    int32_t leader_epoch
    int32_t last_offset_delta
    int16_t attributes
    int32_t count
    int64_t base_timestamp      # the base of the deltas, also when the delete-horizon bit is set (KIP-534)
    int64_t max_timestamp
    int64_t producer_id
    uint32_t payload_crc        # CRC-32C of the bytes after the 61-byte header
    uint32_t payload_power      # x^(8 * payload bytes) mod P: appends the payload's CRC to any header's
    Fault fault


cdef struct ScanList:
    Scanned *items
    Py_ssize_t count
    Py_ssize_t room
    bint incomplete             # the last batch is cut


# One record of a batch; the indices are relative to the cursor it was read from.
cdef struct Record:
    int64_t timestamp_delta
    int32_t offset_delta
    uint8_t attributes
    Py_ssize_t rest             # key length .. end: copied as it is by a re-encode
    Py_ssize_t end
    Py_ssize_t key
    int32_t key_size            # -1: null
    Py_ssize_t value
    int32_t value_size          # -1: null
    Py_ssize_t counter          # the header count: a recipe writes from here on anew
    Py_ssize_t headers          # the first header's key length
    int32_t header_count


cdef struct Run:
    int64_t first               # source offset
    int64_t count


# A batch being written. Its records are counted from 0, and their timestamps from the first one's.
cdef struct Draft:
    uint8_t *bytes              # malloc'd; HEADER_SIZE bytes are kept free in front of the records
    Py_ssize_t used             # HEADER_SIZE and the records
    Py_ssize_t room
    Py_ssize_t limit            # of `used`; at most 2^31 - 1
    int32_t most                # of `count`
    int32_t count
    int64_t first_timestamp     # the new base timestamp
    int64_t max_timestamp
    Py_ssize_t source_bytes     # of the source batches whose first kept record is here
    Run *runs                   # malloc'd
    Py_ssize_t run_count
    Py_ssize_t run_room


# One source batch on its way into drafts.
cdef struct Rewrite:
    const Scanned *batch
    Cursor cursor               # stands before the next record
    int32_t left                # records not read yet
    int32_t previous            # offset delta of the last one read
    int64_t position            # records below it are left out,
    int64_t until               # and those from here on
    int64_t offset              # source offset of the record that is TOO_LARGE
    bint started                # a record of it is in a draft
    bint checked                # the rest is known to be well-formed: nothing needs to be taken back


# What a batch of a range is to a walk.
cdef enum Verdict:
    BEHIND              # it ends below the position
    MARKER              # a control batch
    ABORTED
    HEADER_ONLY         # compaction has left no record of it
    KEPT
    PLAIN               # kept, and its records may stay as they are


# Judged batches that are to become one, as far as they have been moved.
cdef struct Span:
    const uint8_t *base
    const Scanned *items
    const uint8_t *verdicts
    Py_ssize_t at
    Py_ssize_t end
    int64_t position
    int64_t until
    Rewrite job                 # of items[at], once begun
    bint begun


# A header on its way from one list to the next: its name and value with their lengths before them, as they are written.
cdef struct Header:
    const uint8_t *head
    Py_ssize_t head_size
    Py_ssize_t name_size        # the name is the end of the head
    const uint8_t *tail
    Py_ssize_t tail_size


cdef enum Verb:
    REMOVE
    REMOVE_MATCHING
    RENAME
    SET
    ADD


# What is looked for in a pattern, or what a value is made of.
cdef struct Part:
    const uint8_t *bytes        # NULL: a number, rendered for each record
    Py_ssize_t size
    bint timestamp              # which number: the timestamp, or else the offset


# One step of a recipe; all pointers are into bytes objects that the Recipe holds.
cdef struct Operation:
    Verb verb
    const uint8_t *name         # what is looked for
    Py_ssize_t name_size
    const Header *made          # what is written: RENAME has only the head, a value with numbers no tail
    const Part *parts           # of the pattern, or of a value with numbers
    Py_ssize_t part_count
    Py_ssize_t fixed            # bytes of the value without its numbers


# A compiled recipe; owned by its Recipe.
cdef struct Steps:
    const Operation *items
    Py_ssize_t count
    Py_ssize_t appends          # how many headers it adds to a record
    Py_ssize_t value_room       # bytes of its values with numbers, at most
    bint offset                 # it writes offsets,
    bint timestamp              # timestamps


# The header list of the record at hand, and the values made for it.
cdef struct HeaderList:
    Header *items               # malloc'd
    Py_ssize_t count
    Py_ssize_t room
    uint8_t *values             # malloc'd: a recipe's `value_room` bytes
    Py_ssize_t bytes            # what the list takes when it is written, its count included


# crc.pxi
cdef uint32_t crc_update(uint32_t crc, const uint8_t *data, size_t size) noexcept nogil
cdef uint32_t crc_power(uint64_t size) noexcept nogil
cdef uint32_t crc_append(uint32_t crc_a, uint32_t power_b, uint32_t crc_b) noexcept nogil

# cursor.pxi
cdef Fault get_i16(Cursor *c, int16_t *out) noexcept nogil
cdef Fault get_i32(Cursor *c, int32_t *out) noexcept nogil
cdef Fault get_i64(Cursor *c, int64_t *out) noexcept nogil
cdef Fault get_varint(Cursor *c, int32_t *out) noexcept nogil
cdef Fault get_varlong(Cursor *c, int64_t *out) noexcept nogil
cdef Fault get_uvarint(Cursor *c, uint32_t *out) noexcept nogil
cdef Fault skip(Cursor *c, int64_t size) noexcept nogil
cdef uint8_t *put_varint(uint8_t *out, int32_t value) noexcept nogil
cdef uint8_t *put_varlong(uint8_t *out, int64_t value) noexcept nogil
cdef int varint_size(int32_t value) noexcept nogil
cdef int varlong_size(int64_t value) noexcept nogil

# scan.pxi
cdef bint scan_batch(Cursor *c, int64_t expected, bint check_crc, Scanned *out) noexcept nogil
cdef Fault scan_all(Cursor *c, ScanList *found) noexcept nogil

# old.pxi
cdef void scan_old(const uint8_t *p, int64_t expected, bint check_crc, Scanned *out) noexcept nogil
cdef Fault get_message(Cursor *c, Message *out) noexcept nogil

# record.pxi
cdef Fault get_record(Cursor *c, Record *out) noexcept nogil
cdef Fault marker_type(Cursor *c, const Scanned *batch, int16_t *out) noexcept nogil
cdef Fault rewrite_records(Rewrite *job, Draft *draft, const Steps *steps, HeaderList *headers) noexcept nogil
cdef Fault move_batches(Span *span, Draft *draft, const Steps *steps, HeaderList *headers) noexcept nogil

# recipe.pxi
cdef bint pattern_matches(const Operation *operation, const uint8_t *name, Py_ssize_t size) noexcept nogil
cdef Fault apply_steps(
    const Steps *steps, const Cursor *c, const Record *record, int64_t offset, int64_t timestamp, HeaderList *out
) noexcept nogil


cdef class Recipe:
    cdef readonly tuple operations
    cdef Steps steps
    cdef list kept              # the bytes that the steps point into

    cdef void *room(self, size_t size) except NULL
    cdef const uint8_t *keep(self, bytes data) except NULL
    cdef int compile(self, tuple operation, Operation *out) except -1
    cdef int parts(self, parts, Operation *out) except -1


cdef class Batch:
    cdef readonly object view
    cdef readonly int32_t count
    cdef readonly tuple runs
    cdef readonly int64_t max_timestamp
    cdef readonly Py_ssize_t source_bytes
    cdef readonly uint32_t payload_crc
    cdef readonly Py_ssize_t payload_bytes
    cdef readonly bint reencoded


cdef class Packed:
    cdef readonly list batches
    cdef readonly int64_t next_offset
    cdef readonly int32_t last_leader_epoch
    cdef readonly int32_t next_sequence
    cdef readonly int64_t records
    cdef readonly int64_t control_batches
    cdef readonly int64_t aborted_records
    cdef readonly bint incomplete
    cdef readonly object error


cdef class FetchedPartition:
    cdef readonly object topic
    cdef readonly object topic_id
    cdef readonly int32_t partition
    cdef readonly int16_t error_code
    cdef readonly int64_t high_watermark
    cdef readonly int64_t last_stable_offset
    cdef readonly int64_t log_start_offset
    cdef readonly list aborted
    cdef readonly int32_t preferred_read_replica
    cdef readonly object diverging
    cdef readonly object current_leader
    cdef readonly Py_ssize_t start
    cdef readonly Py_ssize_t end


cdef class FetchFrame:
    cdef readonly int32_t correlation_id
    cdef readonly int32_t throttle_ms
    cdef readonly int16_t error_code
    cdef readonly int32_t session_id
    cdef readonly list partitions


# One sealed block of an offset map, taken apart. A place is, from the low bits: three widths and two least skips of
# four bits each, then the index of the block's first cache line in `packed`.
cdef struct Block:
    int64_t source
    int64_t target
    const uint8_t *ends
    const uint8_t *source_skips
    const uint8_t *target_skips
    size_t end_width
    size_t source_width
    size_t target_width
    uint64_t source_least
    uint64_t target_least


# `count` records in a row on both sides, the first at these offsets.
cdef struct Mapped:
    int64_t source
    int64_t target
    int64_t count


@cython.final
cdef class OffsetMap:
    # Source and target both rise strictly, and no run overlaps the next on either side. The last run is in the tail.
    cdef Mapped tail[64]
    cdef int open               # runs in the tail; 0 only while the map is empty
    cdef Py_ssize_t blocks      # sealed, of 64 runs each
    cdef Py_ssize_t group_room  # groups of 16 blocks that the directory and the samples have room for
    cdef int64_t *directory     # of each group: 16 source bases, 16 target bases, 16 places
    cdef int64_t *source_samples  # the first source base of each group
    cdef int64_t *target_samples
    cdef int64_t *group_lines   # the first cache line of each group in `packed`
    cdef uint8_t *packed        # the blocks' columns
    cdef Py_ssize_t packed_size
    cdef Py_ssize_t packed_room

    cdef int add(self, int64_t source_first, int64_t target_first, int64_t count) except -1
    cdef int seal(self) except -1
    cdef int make_room(self, Py_ssize_t size) except -1
    cdef Py_ssize_t find(self, bint by_target, int64_t offset) noexcept nogil
    cdef void take_apart(self, Py_ssize_t group, Py_ssize_t member, Block *block) noexcept nogil
    cdef Mapped at(self, Py_ssize_t i) noexcept nogil
    cdef object run(self, Py_ssize_t i)
