"""Payload compression in slow plain Python: snappy decoded by hand, gzip by zlib, zstd's framing by hand.

zstd's compressed blocks are cramjam's here too, for no other decoder is at hand; what a frame may unpack to, and
whether it is whole, is worked out here. LZ4 is in reference_format.
"""

from __future__ import annotations

import gzip
import struct
import zlib

import cramjam
from reference_format import GZIP, LZ4, MAX_UNPACKED, NONE, SNAPPY, ZSTD, Malformed, Reader, TooLarge, unpack_lz4

XERIAL = b"\x82SNAPPY\x00"
XERIAL_HEAD = XERIAL + struct.pack(">ii", 1, 1)


def unpack(codec: int, data: bytes) -> bytes:
    """The records of a payload; Malformed, or TooLarge when they are more than MAX_UNPACKED bytes."""
    if codec == NONE:
        return data
    return {GZIP: unpack_gzip, SNAPPY: unpack_snappy, LZ4: unpack_lz4, ZSTD: unpack_zstd}[codec](data)


# ---- gzip


def write_gzip(data: bytes, *, name: bool = False, members: int = 1) -> bytes:
    """Members of equal shares of the data, with a file name and a header CRC in the header or without."""
    out = b""
    step = -(-len(data) // members) or 1
    for at in range(0, max(1, len(data)), step):
        piece = data[at : at + step]
        member = gzip.compress(piece, mtime=0)
        if name:
            head = member[:3] + b"\x0a" + member[4:10] + b"records\x00"
            member = head + struct.pack("<H", zlib.crc32(head) & 0xFFFF) + member[10:]
        out += member
    return out


def unpack_gzip(data: bytes) -> bytes:
    if len(data) < 18:
        raise Malformed("too short")
    told = int.from_bytes(data[-4:], "little")
    if told > 1032 * len(data):
        raise Malformed("size")
    if told > MAX_UNPACKED:
        raise TooLarge
    out = b""
    while True:
        member = zlib.decompressobj(wbits=31)
        try:
            out += member.decompress(data, MAX_UNPACKED + 1 - len(out))
        except zlib.error:
            raise Malformed("member") from None
        if len(out) > MAX_UNPACKED:
            raise TooLarge
        if not member.eof:
            raise Malformed("cut")
        data = member.unused_data
        if not data:
            return out


# ---- snappy


def write_snappy(data: bytes) -> bytes:
    """One raw block: literals, and copies of all three forms where a byte repeats (format_description.txt)."""
    out = bytearray()
    length = len(data)
    while length > 127:
        out.append(length & 127 | 128)
        length >>= 7
    out.append(length)
    at = literal = 0
    while at < len(data):
        stop = at + 1
        while stop < len(data) and data[stop] == data[at]:
            stop += 1
        if stop - at > 4:
            out += _literal(data[literal : at + 1]) + _copies(stop - at - 1)
            literal = stop
        at = stop
    return bytes(out + _literal(data[literal:]))


def _literal(data: bytes) -> bytes:
    if not data:
        return b""
    size = len(data) - 1
    if size < 60:
        return bytes([size << 2]) + data
    width = (size.bit_length() + 7) // 8
    return bytes([59 + width << 2]) + size.to_bytes(width, "little") + data


def _copies(length: int) -> bytes:
    """The byte before, `length` times over."""
    out = b""
    forms = 0
    while length:
        size = min(length, 64)
        if 4 <= size <= 11:
            out += bytes([1 | size - 4 << 2, 1])
        elif forms % 2:
            out += bytes([3 | size - 1 << 2]) + struct.pack("<I", 1)
        else:
            out += bytes([2 | size - 1 << 2]) + struct.pack("<H", 1)
        forms += 1
        length -= size
    return out


def write_xerial(data: bytes, *, chunk: int = 32768, again: bool = False) -> bytes:
    """snappy-java's stream; `again` begins a new stream before each chunk, as concatenated files do."""
    out = XERIAL_HEAD
    for at in range(0, len(data), chunk):
        block = write_snappy(data[at : at + chunk])
        out += (XERIAL_HEAD if again else b"") + struct.pack(">i", len(block)) + block
    return out


def unpack_snappy(data: bytes) -> bytes:
    blocks = chunks(data) if data.startswith(XERIAL) and len(data) >= 16 else [data]
    sizes = [Reader(block).unsigned(32) for block in blocks]
    if any(size > 22 * len(block) for size, block in zip(sizes, blocks, strict=True)):
        raise Malformed("size")
    if sum(sizes) > MAX_UNPACKED:
        raise TooLarge
    return b"".join(map(_unpack_snappy_block, blocks))


def chunks(stream: bytes) -> list[bytes]:
    """The blocks of snappy-java's stream."""
    out, reader = [], Reader(stream)
    while reader.at < len(stream):
        rest = stream[reader.at :]
        if rest.startswith(XERIAL) and len(rest) >= 16:
            reader.take(16)
            continue
        size = reader.integer(4)
        if size < 1:
            raise Malformed("chunk size")
        out.append(reader.take(size))
    return out


def _unpack_snappy_block(data: bytes) -> bytes:
    block = Reader(data)
    length = block.unsigned(32)
    out = bytearray()
    while block.at < len(data):
        tag = block.take(1)[0]
        form, size = tag & 3, tag >> 2
        if form == 0:
            if size >= 60:
                size = int.from_bytes(block.take(size - 59), "little")
            out += block.take(size + 1)
            continue
        if form == 1:
            distance = (size >> 3) << 8 | block.take(1)[0]
            size = (size & 7) + 4
        else:
            distance = int.from_bytes(block.take(2 if form == 2 else 4), "little")
            size += 1
        if not 0 < distance <= len(out) or len(out) + size > length:
            raise Malformed("copy")
        for _ in range(size):
            out.append(out[-distance])
    if len(out) != length:
        raise Malformed("length")
    return bytes(out)


# ---- zstd


def write_zstd(
    data: bytes, *, block: int = 1 << 17, size: int = 0, dictionary: bool = False, skippable: bool = False
) -> bytes:
    """A frame of raw and run-length blocks (RFC 8878); `size`: bytes of the content size field, 0 for none."""
    code = {0: 0, 1: 0, 2: 1, 4: 2, 8: 3}[size]
    single = size == 1
    out = struct.pack("<IB", 0xFD2FB528, code << 6 | single << 5 | (1 if dictionary else 0))
    out += (b"" if single else bytes([7 << 3])) + (b"\x00" if dictionary else b"")
    out += (len(data) - (256 if size == 2 else 0)).to_bytes(size, "little") if size else b""
    pieces = [data[at : at + block] for at in range(0, len(data), block)] or [b""]
    for number, piece in enumerate(pieces):
        run = len(set(piece)) == 1
        word = len(piece) << 3 | run << 1 | (number == len(pieces) - 1)
        out += word.to_bytes(3, "little") + (piece[:1] if run else piece)
    return (struct.pack("<II", 0x184D2A53, 5) + b"hello" if skippable else b"") + out


def zstd_frames(data: bytes) -> tuple[int, bool, bytes | None]:
    """The most that whole frames unpack to, whether they say so themselves, and their content where it is plain."""
    reader = Reader(data)
    bound, told = 0, True
    plain: bytes | None = b""
    while reader.at < len(data) or not data:
        magic = int.from_bytes(reader.take(4), "little")
        if magic >> 4 == 0x184D2A5:
            reader.take(int.from_bytes(reader.take(4), "little"))
            continue
        if magic != 0xFD2FB528:
            raise Malformed("magic")
        most, content, decoded = _zstd_frame(reader)
        told = told and content is not None
        bound += most if content is None else min(most, content)
        plain = None if plain is None or decoded is None else plain + decoded
    return bound, told, plain


def unpack_zstd(data: bytes) -> bytes:
    """Whole frames; those of raw and run-length blocks alone are decoded here."""
    bound, told, plain = zstd_frames(data)
    if told and bound > MAX_UNPACKED:
        raise TooLarge
    if plain is not None:
        if len(plain) > MAX_UNPACKED:
            raise TooLarge
        return plain
    room = bytearray(min(bound, MAX_UNPACKED))
    try:
        return bytes(room[: cramjam.zstd.decompress_into(data, room)])
    except cramjam.DecompressionError as error:
        if "whole buffer" in str(error) and bound > MAX_UNPACKED:
            raise TooLarge from None
        raise Malformed("content") from None


def _zstd_frame(reader: Reader) -> tuple[int, int | None, bytes | None]:
    """The most that a frame unpacks to by its blocks, what it says itself, and what it unpacks to if that is plain."""
    flags = reader.take(1)[0]
    if flags & 8:
        raise Malformed("reserved bit")
    single = bool(flags & 0x20)
    window = 1 << 60
    if not single:
        byte = reader.take(1)[0]
        window = (1 << 10 + (byte >> 3)) // 8 * (8 + (byte & 7))
    dictionary = int.from_bytes(reader.take((0, 1, 2, 4)[flags & 3]), "little")
    width = (int(single), 2, 4, 8)[flags >> 6]
    content = int.from_bytes(reader.take(width), "little") + (256 if width == 2 else 0) if width else None
    most = 0
    decoded: bytes | None = b"" if flags & 4 == dictionary == 0 and window <= 1 << 27 else None
    limit = min(1 << 17, window if content is None or not single else content)
    last = False
    while not last:
        word = int.from_bytes(reader.take(3), "little")
        last, form, size = bool(word & 1), word >> 1 & 3, word >> 3
        if form == 3:
            raise Malformed("block type")
        body = reader.take(1 if form == 1 else size)
        most += min(1 << 17, window) if form == 2 else size
        if form == 2 or size > limit:
            decoded = None
        elif decoded is not None:
            decoded += body * size if form == 1 else body
    reader.take(4 if flags & 4 else 0)
    if decoded is not None and content not in (None, len(decoded)):
        decoded = None
    return most, content, decoded
