# Payload compression. Attributes 0-2 of a batch: 0 none, 1 gzip, 2 snappy, 3 lz4 (frame), 4 zstd.
#
# What a payload may expand to is computed from its own block headers before a byte is unpacked, so a hostile frame
# costs MAX_UNPACKED bytes of memory at most. cramjam does the blocks; the frame is written here, because Kafka's Java
# readers refuse dependent blocks (KafkaLZ4BlockInputStream.java) and cramjam's own frames have them.

cdef enum:
    CODEC_NONE = 0
    CODEC_LZ4 = 3
    LZ4_MAGIC = 0x184D2204
    LZ4_BLOCK = 65536
    MAX_UNPACKED = 268435456    # 256 MiB: twice the largest batch that a broker takes by any sane setting

# Version 1, independent blocks of 64 KiB, no checksums (the batch has its own), no content size; 0x82 checks the header.
cdef bytes LZ4_FRAME_HEAD = b"\x04\x22\x4d\x18\x60\x40\x82"
cdef bytes LZ4_FRAME_END = b"\x00\x00\x00\x00"


class _Undecodable(Exception):
    """A payload cannot be unpacked: reason and detail of the BatchError to be raised by whoever knows the offset."""

    def __init__(self, reason, detail):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


cdef uint32_t load_le32(const uint8_t *p) noexcept nogil:
    return <uint32_t>p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16 | <uint32_t>p[3] << 24


cdef int64_t lz4_bound(const uint8_t *p, Py_ssize_t size) noexcept nogil:
    """The most that one LZ4 frame can unpack to, or -1 when it is not exactly one whole frame.

    Format: lz4_Frame_format.md. A block of c bytes unpacks to 255 * c at most and never above the frame's block size.
    """
    cdef uint8_t flags, descriptor
    cdef Py_ssize_t pos
    cdef int64_t block_max, bound = 0
    cdef uint32_t word, length
    if size < 7 or load_le32(p) != LZ4_MAGIC:
        return -1
    flags = p[4]
    descriptor = p[5]
    # Version 01, no dictionary, reserved bits clear; block sizes 4 (64 KiB) to 7 (4 MiB).
    if flags & 0xC3 != 0x40 or descriptor & 0x8F or (descriptor >> 4) < 4:
        return -1
    block_max = <int64_t>1 << (8 + 2 * (descriptor >> 4))
    pos = 7 + (8 if flags & 0x08 else 0)
    while True:
        if size - pos < 4:
            return -1
        word = load_le32(p + pos)
        pos += 4
        if word == 0:
            break
        length = word & 0x7FFFFFFF
        if length > block_max:
            return -1
        pos += length + (4 if flags & 0x10 else 0)
        if pos > size:
            return -1
        bound += min(block_max, <int64_t>length * (1 if word >> 31 else 255))
    pos += 4 if flags & 0x04 else 0
    return bound if pos == size else -1


cdef object unpack_lz4(const uint8_t *p, Py_ssize_t size):
    cdef int64_t bound = lz4_bound(p, size)
    if bound < 0:
        raise _Undecodable("CORRUPT_BATCH", "the payload is not one whole lz4 frame")
    if bound > MAX_UNPACKED:
        raise _Undecodable("RECORD_TOO_LARGE", f"the payload may unpack to {bound} bytes, more than {MAX_UNPACKED}")
    cdef bytearray room = PyByteArray_FromStringAndSize(NULL, <Py_ssize_t>bound)
    cdef object packed = PyMemoryView_FromMemory(<char *>p, size, PyBUF_READ)
    cdef Py_ssize_t written
    try:
        written = cramjam.lz4.decompress_into(packed, room)
    except cramjam.DecompressionError as error:
        raise _Undecodable("CORRUPT_BATCH", f"the payload does not unpack ({error})") from None
    PyByteArray_Resize(room, written)
    return room


cdef object pack_lz4(const uint8_t *p, Py_ssize_t size):
    cdef list parts = [LZ4_FRAME_HEAD]
    cdef Py_ssize_t pos = 0, length
    cdef uint8_t head[4]
    cdef object block, raw
    while pos < size:
        length = min(size - pos, <Py_ssize_t>LZ4_BLOCK)
        raw = PyMemoryView_FromMemory(<char *>p + pos, length, PyBUF_READ)
        block = cramjam.lz4.compress_block(raw, store_size=False)
        pos += length
        if len(block) < length:
            length = len(block)
            store_le32(head, <uint32_t>length)
        else:
            block = raw
            store_le32(head, <uint32_t>length | <uint32_t>0x80000000)
        parts.append(PyBytes_FromStringAndSize(<char *>head, 4))
        parts.append(block)
    parts.append(LZ4_FRAME_END)
    return b"".join(parts)


cdef void store_le32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>value
    p[1] = <uint8_t>(value >> 8)
    p[2] = <uint8_t>(value >> 16)
    p[3] = <uint8_t>(value >> 24)


cdef object unpack_payload(int codec, const uint8_t *p, Py_ssize_t size):
    """The records of a compressed payload as a bytearray; p is borrowed for the call. Raises _Undecodable."""
    if codec == CODEC_LZ4:
        return unpack_lz4(p, size)
    raise _Undecodable("UNKNOWN_CODEC", f"codec {CODEC_NAMES[codec]} cannot be re-encoded")


cdef object pack_payload(int codec, const uint8_t *p, Py_ssize_t size):
    """The payload that unpacks to these records; p is borrowed for the call."""
    if codec == CODEC_LZ4:
        return pack_lz4(p, size)
    raise ValueError(f"no writer for codec {CODEC_NAMES[codec]}")


cdef tuple CODEC_NAMES = ("none", "gzip", "snappy", "lz4", "zstd")
