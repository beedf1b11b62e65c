# The page from which the kernel can be learnt: its structs, its classes and the signatures of its C functions.
# Bodies are in _fastpath.pyx and the files of fastpath/ that it includes; the Python-visible contract is in
# _fastpath.pyi.

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t


# Why a read stopped. Every C function that reads returns one of these; FINE is 0, so `if status:` means a fault.
cdef enum Fault:
    FINE = 0
    ENDS_EARLY          # a read would pass the end of the buffer
    VARINT_OVERFLOW     # more than 5 (int32) or 10 (int64) bytes, or bits that do not fit
    BAD_LENGTH          # a length below -1, or -1 where null is not allowed, or a record that does not end where it says
    BAD_SIZE            # a batch length too small for its header
    BAD_MAGIC           # a magic byte that no Kafka has written
    OLD_MAGIC           # magic 0 or 1
    BAD_OFFSETS         # a base offset below 0 or below the end of the batch before, or an end that passes 2^63 - 1
    BAD_COUNT           # a record count below 0 or above last offset delta + 1
    BAD_CRC
    BAD_CODEC           # attributes 0-2 name no codec
    BAD_DELTA           # inner offset deltas that do not rise, or pass the batch's last one
    BAD_TIMESTAMP       # a timestamp outside of 64 bits
    BAD_REST            # bytes left over after the last record, or records where the header counts none
    BAD_MARKER          # a control batch that is compressed, or whose key is no marker
    NO_WHOLE_BATCH      # the first batch of an answer is cut: a broker sends the first one whole or not at all
    NO_MEMORY


# A bounded view of somebody else's bytes; pos only moves forward and never passes end.
cdef struct Cursor:
    const uint8_t *base
    Py_ssize_t pos
    Py_ssize_t end


# One batch header as found, with what one pass over the payload learnt. Written by scan_batch, never changed after.
cdef struct Scanned:
    Py_ssize_t start            # index of the batch in the frame
    Py_ssize_t size             # bytes of the whole batch: 12 + its length field
    int64_t base_offset
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
    Py_ssize_t headers          # the first header's key length
    int32_t header_count


cdef struct Run:
    int64_t first               # source offset
    int64_t count


# A re-encode: what to keep of which batch, and what came out.
cdef struct Rewrite:
    const Scanned *batch
    int64_t position            # records below it are left out
    int32_t kept
    int64_t first_timestamp     # the new base timestamp
    int64_t max_timestamp
    Py_ssize_t written
    Run *runs                   # malloc'd by rewrite_records, freed by its caller
    Py_ssize_t run_count
    Py_ssize_t run_room


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

# record.pxi
cdef Fault get_record(Cursor *c, Record *out) noexcept nogil
cdef Fault marker_type(Cursor *c, const Scanned *batch, int16_t *out) noexcept nogil
cdef Fault rewrite_records(Cursor *c, Rewrite *job, uint8_t *out) noexcept nogil


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


cdef class OffsetMap:
    # Three parallel arrays of `size` elements; source and target both rise strictly, and no run overlaps the next on
    # either side.
    cdef int64_t *source
    cdef int64_t *target
    cdef int64_t *count
    cdef Py_ssize_t size
    cdef Py_ssize_t room

    cdef int grow(self) except -1
