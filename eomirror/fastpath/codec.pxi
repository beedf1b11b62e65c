# Payload compression. Attributes 0-2 of a batch: 0 none, 1 gzip, 2 snappy, 3 lz4 (frame), 4 zstd.
#
# cramjam does the compression; what is written here is what it cannot know: Kafka's framing, and how much a payload may
# expand to. That is taken from the payload's own headers before a byte is unpacked, and where a format doesn't say,
# unpacking stops at MAX_UNPACKED. cramjam's decoders refuse input that ends early and bytes behind the end; the
# formats that may be cut at a seam and still look whole (concatenated members, snappy chunks) hold too few records then.

cdef enum:
    CODEC_NONE = 0
    CODEC_GZIP = 1
    CODEC_SNAPPY = 2
    CODEC_LZ4 = 3
    CODEC_ZSTD = 4
    MAX_UNPACKED = 268435456    # 256 MiB: twice the largest batch that a broker takes by any sane setting

    GZIP_LEVEL = 6              # the levels are those that Kafka's producers have by default
    GZIP_MIN = 18               # header and trailer of a member
    GZIP_RATIO = 1032           # deflate: 258 bytes from two bits
    SNAPPY_CHUNK = 32768
    SNAPPY_RATIO = 22           # 64 bytes from three
    XERIAL_HEAD = 16
    LZ4_MAGIC = 0x184D2204
    LZ4_BLOCK = 65536
    LZ4_SMALL = 1048576         # a payload that may unpack to so much at most is unpacked block by block
    ZSTD_LEVEL = 3
    ZSTD_SKIPPABLE = 0x184D2A5  # and four bits that are free
    ZSTD_BLOCK = 131072

# snappy-java's stream: magic, version, lowest version that can read it; then chunks behind their int32 sizes. Kafka's
# Java producers write it and librdkafka writes one raw block. Every client reads the first, and some only that one.
cdef bytes XERIAL_MAGIC = b"\x82SNAPPY\x00"
cdef bytes XERIAL_STREAM = XERIAL_MAGIC + b"\x00\x00\x00\x01\x00\x00\x00\x01"
# Version 1, independent blocks of 64 KiB, no checksums (the batch has its own), no content size; 0x82 checks the header.
# cramjam's own frames have dependent blocks, which Kafka's Java readers refuse (KafkaLZ4BlockInputStream.java).
cdef bytes LZ4_FRAME_HEAD = b"\x04\x22\x4d\x18\x60\x40\x82"
cdef bytes LZ4_FRAME_END = b"\x00\x00\x00\x00"
cdef uint32_t ZSTD_MAGIC = 0xFD2FB528
# What cramjam says when the room it was given is full.
cdef str NO_ROOM = "failed to write whole buffer"


class _Undecodable(Exception):
    """A payload cannot be unpacked: reason and detail of the BatchError to be raised by whoever knows the offset."""

    def __init__(self, reason, detail):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


cdef uint32_t load_le32(const uint8_t *p) noexcept nogil:
    return <uint32_t>p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16 | <uint32_t>p[3] << 24


cdef object corrupt(str detail):
    return _Undecodable("CORRUPT_BATCH", detail)


cdef object too_much(object size):
    return _Undecodable("RECORD_TOO_LARGE", f"the payload unpacks to {size} bytes, more than {MAX_UNPACKED}")


cdef uint64_t load_le64(const uint8_t *p) noexcept nogil:
    return <uint64_t>load_le32(p) | <uint64_t>load_le32(p + 4) << 32


cdef object borrowed(const uint8_t *p, Py_ssize_t size):
    return PyMemoryView_FromMemory(<char *>p, size, PyBUF_READ)


cdef bytearray unpack_stream(object decoder, const uint8_t *p, Py_ssize_t size, int64_t guess, int64_t bound):
    """What decoder(bytes, room) makes of a payload that cannot unpack to more than `bound` bytes.

    `guess` is tried first. Memory that is never written to costs nothing.
    """
    cdef int64_t most = min(bound, <int64_t>MAX_UNPACKED)
    cdef int64_t room = min(guess, most)
    cdef bytearray out
    cdef Py_ssize_t written
    while True:
        out = PyByteArray_FromStringAndSize(NULL, <Py_ssize_t>room)
        try:
            written = decoder(borrowed(p, size), out)
            break
        except cramjam.DecompressionError as error:
            if str(error) != NO_ROOM:
                raise corrupt(f"the payload does not unpack ({error})") from None
        if room < most:
            room = most
        elif bound > MAX_UNPACKED:
            raise _Undecodable("RECORD_TOO_LARGE", f"the payload unpacks to more than {MAX_UNPACKED} bytes")
        else:
            raise corrupt("the payload unpacks to more than its own headers say")
    PyByteArray_Resize(out, written)
    return out


cdef object unpack_gzip(const uint8_t *p, Py_ssize_t size):
    """Members one after the other (RFC 1952). The trailer has the last one's size, which is nearly always the only one."""
    cdef uint32_t told
    if size < GZIP_MIN:
        raise corrupt("the payload is too short for a gzip member")
    told = load_le32(p + size - 4)
    if told > <int64_t>GZIP_RATIO * size:
        raise corrupt(f"a gzip member of {told} bytes does not fit into {size}")
    if told > MAX_UNPACKED:
        raise too_much(told)
    return unpack_stream(cramjam.gzip.decompress_into, p, size, told, <int64_t>GZIP_RATIO * size)


cdef int64_t snappy_length(const uint8_t *p, Py_ssize_t size) noexcept nogil:
    """What one raw block says it unpacks to, or -1 when that cannot be."""
    cdef Cursor c = Cursor(p, 0, size)
    cdef uint32_t length
    if get_uvarint(&c, &length) or length > <int64_t>SNAPPY_RATIO * size:
        return -1
    return length


cdef bint is_xerial(const uint8_t *p, Py_ssize_t size) noexcept:
    # A raw block cannot begin like this: its first element would be a copy of nothing.
    return size >= XERIAL_HEAD and memcmp(p, <const uint8_t *>PyBytes_AS_STRING(XERIAL_MAGIC), 8) == 0


cdef Py_ssize_t next_chunk(const uint8_t *p, Py_ssize_t size, Py_ssize_t *pos) noexcept:
    """The size of the next chunk of a xerial stream, with pos at its first byte; 0 at the end, -1 when it is cut."""
    cdef int32_t length
    while is_xerial(p + pos[0], size - pos[0]):
        pos[0] += XERIAL_HEAD
    if pos[0] == size:
        return 0
    if size - pos[0] < 4:
        return -1
    length = load32(p + pos[0])
    pos[0] += 4
    return length if 0 < length <= size - pos[0] else -1


cdef int64_t snappy_bound(const uint8_t *p, Py_ssize_t size) noexcept:
    """What a payload of snappy unpacks to, exactly; -1 when it is neither one block nor a stream of whole chunks."""
    cdef Py_ssize_t pos = 0, length
    cdef int64_t told, total = 0
    if not is_xerial(p, size):
        return snappy_length(p, size)
    while True:
        length = next_chunk(p, size, &pos)
        if length <= 0:
            return total if length == 0 else -1
        told = snappy_length(p + pos, length)
        if told < 0:
            return -1
        total += told
        pos += length


cdef object unpack_snappy(const uint8_t *p, Py_ssize_t size):
    cdef int64_t total = snappy_bound(p, size)
    cdef bytearray out
    cdef Py_ssize_t pos = 0, written = 0, length = size
    if total < 0:
        raise corrupt("the payload is neither a snappy block nor a stream of whole ones")
    if total > MAX_UNPACKED:
        raise too_much(total)
    out = PyByteArray_FromStringAndSize(NULL, <Py_ssize_t>total)
    if is_xerial(p, size):
        length = next_chunk(p, size, &pos)
    while length:
        room = PyMemoryView_FromMemory(PyByteArray_AS_STRING(out) + written, <Py_ssize_t>total - written, PyBUF_WRITE)
        try:
            written += <Py_ssize_t>cramjam.snappy.decompress_raw_into(borrowed(p + pos, length), room)
        except cramjam.DecompressionError as error:
            raise corrupt(f"the payload does not unpack ({error})") from None
        pos += length
        length = next_chunk(p, size, &pos)
    return out


cdef int64_t lz4_bound(const uint8_t *p, Py_ssize_t size, bint *told) noexcept nogil:
    """The most that one LZ4 frame can unpack to, or -1 when it is not exactly one whole frame.

    Format: lz4_Frame_format.md. A block of c bytes unpacks to 255 * c at most and never above the frame's block size.
    told: the frame itself says what it unpacks to.
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
    told[0] = size > pos and flags & 0x08 != 0
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
    if pos != size:
        return -1
    if told[0] and load_le64(p + 6) < <uint64_t>bound:
        bound = <int64_t>load_le64(p + 6)
    return bound


cdef object unpack_lz4(const uint8_t *p, Py_ssize_t size):
    cdef bint told = False
    cdef int64_t bound = lz4_bound(p, size, &told)
    if bound < 0:
        raise corrupt("the payload is not one whole lz4 frame")
    if told and bound > MAX_UNPACKED:
        raise too_much(bound)
    if bound <= LZ4_SMALL and p[4] & 0x34 == 0x20 and lz4_head_is_right(p):
        return unpack_lz4_blocks(p, <Py_ssize_t>bound)
    return unpack_stream(cramjam.lz4.decompress_into, p, size, bound, bound)


cdef object unpack_lz4_blocks(const uint8_t *p, Py_ssize_t bound):
    """A frame of independent blocks without checksums, which lz4_bound has walked: what clients write.

    Setting up the frame decoder costs twenty times what a batch of one record does.
    """
    cdef bytearray out = PyByteArray_FromStringAndSize(NULL, bound)
    cdef uint8_t *base = <uint8_t *>PyByteArray_AS_STRING(out)
    cdef Py_ssize_t pos = 7 + (8 if p[4] & 0x08 else 0), written = 0, length, most
    cdef uint32_t word = load_le32(p + pos)
    while word:
        length = word & 0x7FFFFFFF
        most = min(bound - written, <Py_ssize_t>1 << (8 + 2 * (p[5] >> 4)))
        pos += 4
        if not word >> 31:
            block = borrowed(p + pos, length)
            room = PyMemoryView_FromMemory(<char *>base + written, most, PyBUF_WRITE)
            try:
                written += <Py_ssize_t>cramjam.lz4.decompress_block_into(block, room, output_len=most)
            except cramjam.DecompressionError as error:
                raise corrupt(f"the payload does not unpack ({error})") from None
        elif length <= most:
            memcpy(base + written, p + pos, length)
            written += length
        else:
            raise corrupt("the payload unpacks to more than its own headers say")
        pos += length
        word = load_le32(p + pos)
    if p[4] & 0x08 and load_le64(p + 6) != <uint64_t>written:
        raise corrupt("the payload unpacks to less than its own headers say")
    PyByteArray_Resize(out, written)
    return out


cdef bint lz4_head_is_right(const uint8_t *p) noexcept nogil:
    """The second byte of the xxHash (32 bits, seed 0) of the frame's descriptor stands behind it."""
    cdef Py_ssize_t size = 10 if p[4] & 0x08 else 2, pos = 4
    cdef uint32_t hashed = <uint32_t>374761393 + <uint32_t>size
    while size - (pos - 4) >= 4:
        hashed += load_le32(p + pos) * <uint32_t>3266489917
        hashed = (hashed << 17 | hashed >> 15) * <uint32_t>668265263
        pos += 4
    while pos - 4 < size:
        hashed += p[pos] * <uint32_t>374761393
        hashed = (hashed << 11 | hashed >> 21) * <uint32_t>2654435761
        pos += 1
    hashed = (hashed ^ hashed >> 15) * <uint32_t>2246822519
    hashed = (hashed ^ hashed >> 13) * <uint32_t>3266489917
    hashed ^= hashed >> 16
    return p[pos] == (hashed >> 8 & 0xFF)


cdef Py_ssize_t zstd_frame(const uint8_t *p, Py_ssize_t size, int64_t *bound, bint *told) noexcept nogil:
    """The length of the frame that p begins with, or -1; bound is raised by the most that it can unpack to.

    Format: RFC 8878. A compressed block unpacks to the smaller of the window and 128 KiB at most. told is cleared when
    the frame doesn't say what it unpacks to.
    """
    cdef uint8_t flags, form
    cdef Py_ssize_t pos = 5
    cdef uint32_t word, length
    cdef int64_t blocks = 0, block_max = ZSTD_BLOCK
    cdef uint64_t content = 0
    cdef int content_bytes
    if size < 8:
        return -1
    if load_le32(p) >> 4 == ZSTD_SKIPPABLE:
        pos = 8 + <Py_ssize_t>load_le32(p + 4)
        return pos if pos <= size else -1
    flags = p[4]
    if load_le32(p) != ZSTD_MAGIC or flags & 0x08:
        return -1
    content_bytes = 1 << (flags >> 6) if flags & 0xE0 else 0
    if not flags & 0x20:
        # Window log from 10, one byte with its eighths; from 2^17 on the block's own limit is the smaller one.
        if p[5] >> 3 < 7:
            block_max = (<int64_t>8 + (p[5] & 7)) << (7 + (p[5] >> 3))
        pos += 1
    pos += (1 << (flags & 3)) >> 1
    if size - pos < content_bytes:
        return -1
    if content_bytes == 1:
        content = p[pos]
    elif content_bytes == 2:
        content = 256 + (p[pos] | <uint32_t>p[pos + 1] << 8)
    elif content_bytes == 4:
        content = load_le32(p + pos)
    elif content_bytes == 8:
        content = load_le64(p + pos)
    pos += content_bytes
    while True:
        if size - pos < 3:
            return -1
        word = <uint32_t>p[pos] | <uint32_t>p[pos + 1] << 8 | <uint32_t>p[pos + 2] << 16
        pos += 3
        form = (word >> 1) & 3
        length = word >> 3
        blocks += min(block_max, <int64_t>ZSTD_BLOCK) if form == 2 else length
        if form == 1:
            length = 1
        if form == 3 or size - pos < <Py_ssize_t>length:
            return -1
        pos += length
        if word & 1:
            break
    pos += 4 if flags & 0x04 else 0
    if content_bytes == 0:
        told[0] = False
    elif content < <uint64_t>blocks:
        blocks = <int64_t>content
    bound[0] += blocks
    return pos if pos <= size else -1


cdef object unpack_zstd(const uint8_t *p, Py_ssize_t size):
    """Frames one after the other, skippable ones between them."""
    cdef Py_ssize_t pos = 0, length
    cdef int64_t bound = 0
    cdef bint told = True
    while pos < size or pos == 0:
        length = zstd_frame(p + pos, size - pos, &bound, &told)
        if length < 0:
            raise corrupt("the payload is no sequence of whole zstd frames")
        pos += length
    if told and bound > MAX_UNPACKED:
        raise too_much(bound)
    return unpack_stream(cramjam.zstd.decompress_into, p, size, bound, bound)


cdef object pack_snappy(const uint8_t *p, Py_ssize_t size):
    cdef list parts = [XERIAL_STREAM]
    cdef Py_ssize_t pos
    cdef uint8_t head[4]
    for pos in range(0, size, SNAPPY_CHUNK):
        block = cramjam.snappy.compress_raw(borrowed(p + pos, min(size - pos, <Py_ssize_t>SNAPPY_CHUNK)))
        store32(head, <uint32_t>len(block))
        parts.append(PyBytes_FromStringAndSize(<char *>head, 4))
        parts.append(block)
    return b"".join(parts)


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
    """The records of a payload as a bytearray; p is borrowed for the call. Raises _Undecodable."""
    if codec == CODEC_NONE:
        return PyByteArray_FromStringAndSize(<const char *>p, size)
    if codec == CODEC_GZIP:
        return unpack_gzip(p, size)
    if codec == CODEC_SNAPPY:
        return unpack_snappy(p, size)
    if codec == CODEC_LZ4:
        return unpack_lz4(p, size)
    if codec == CODEC_ZSTD:
        return unpack_zstd(p, size)
    raise _Undecodable("UNKNOWN_CODEC", FAULT_TEXT[BAD_CODEC])


cdef object pack_payload(int codec, const uint8_t *p, Py_ssize_t size):
    """The payload, bytes-like, that unpacks to these records; p is borrowed for the call."""
    if codec == CODEC_NONE:
        return PyBytes_FromStringAndSize(<const char *>p, size)
    if codec == CODEC_GZIP:
        return cramjam.gzip.compress(borrowed(p, size), level=GZIP_LEVEL)
    if codec == CODEC_SNAPPY:
        return pack_snappy(p, size)
    if codec == CODEC_LZ4:
        return pack_lz4(p, size)
    if codec == CODEC_ZSTD:
        return cramjam.zstd.compress(borrowed(p, size), level=ZSTD_LEVEL)
    raise ValueError(f"there is no codec {codec}")
