"""The kernel: record batches judged, patched and re-encoded, the two hot messages of the wire, the offset map, CRC-32C.

A frame is a buffer that its caller owns. Every function borrows it for the call only; pack() alone writes to it
(61-byte batch headers) and hands out memoryview slices of it, which keep it alive and keep it from being resized.
"""

import os

import cramjam

cimport cython
from cpython.buffer cimport (
    PyBUF_READ, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBUF_WRITE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

cdef enum:
    GIL_BYTES = 16384           # work on at least this many bytes lets other threads run


class FrameError(ValueError):
    """A response that cannot be read: the framing is wrong, not a batch in it."""


class BatchError(ValueError):
    """A record batch that cannot be mirrored as it is."""

    def __init__(self, reason, offset, next_offset, detail):
        super().__init__(reason, offset, next_offset, detail)
        self.reason = reason
        self.offset = offset
        self.next_offset = next_offset
        self.detail = detail

    def __str__(self):
        return f"{self.reason} at offset {self.offset}: {self.detail}"


cdef dict FAULT_TEXT = {
    ENDS_EARLY: "the bytes end inside a field",
    VARINT_OVERFLOW: "a varint does not fit its type",
    BAD_LENGTH: "a length is out of its range",
    BAD_SIZE: "the batch length is too small for a batch",
    BAD_MAGIC: "the magic byte is none of Kafka's",
    OLD_MAGIC: "the batch has magic 0 or 1, which internal topics never hold",
    BAD_OFFSETS: "the batch's offsets go back or pass the last offset",
    BAD_COUNT: "the record count does not fit the last offset delta",
    BAD_CRC: "the CRC-32C does not match",
    BAD_CODEC: "the attributes name no codec",
    BAD_DELTA: "the records' offset deltas do not rise inside the batch",
    BAD_TIMESTAMP: "a timestamp does not fit 64 bits",
    BAD_REST: "there are bytes left over",
    BAD_WRAPPER: "a compressed message holds no messages, or compressed ones",
    BAD_MARKER: "the control record is no transaction marker",
    NO_WHOLE_BATCH: "the answer begins with a batch that is cut",
}

include "fastpath/crc.pxi"
include "fastpath/cursor.pxi"
include "fastpath/scan.pxi"
include "fastpath/recipe.pxi"
include "fastpath/record.pxi"
include "fastpath/codec.pxi"
include "fastpath/old.pxi"
include "fastpath/pack.pxi"
include "fastpath/reencode.pxi"
include "fastpath/internal.pxi"
include "fastpath/wire.pxi"
include "fastpath/offsetmap.pxi"
