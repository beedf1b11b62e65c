"""Segment files by the gigabyte: filled for the source, and read back record by record for the check.

The work on every record is in segments.c, which is compiled on demand into `.work` and called without the GIL. Neither
file uses eomirror's code, so that they can testify about it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import mmap
import subprocess
from collections.abc import Iterator, Sequence
from ctypes import POINTER, byref, c_int32, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cramjam

from checks.variant import WORK, compiler

SOURCE = Path(__file__).with_name("segments.c")
SEGMENT_BYTES = 1 << 30
PIECE_BYTES = 8 << 20
DONE, COMPRESSED, BROKEN, DIFFERS, NO_ROOM = 0, 1, -1, -2, -3
PRODUCERS = 4096
UNPACK = {1: cramjam.gzip.decompress, 3: cramjam.lz4.decompress, 4: cramjam.zstd.decompress}


class LogError(Exception):
    """A log cannot be read: no batches of magic 2, or more transactions than there is room for."""


class _Template(ctypes.Structure):
    _fields_ = (("bytes", c_void_p), ("size", c_uint32), ("count", c_int32), ("span", c_int32))


class _Marker(ctypes.Structure):
    _fields_ = (("offset", c_int64), ("producer_id", c_int64), ("epoch", c_int32), ("commits", c_int32))


class _Producer(ctypes.Structure):
    _fields_ = (("producer_id", c_int64), ("first", c_int64), ("next", c_int64))


class _Survey(ctypes.Structure):
    _fields_ = (
        ("markers", POINTER(_Marker)),
        ("room", c_int64),
        ("many", c_int64),
        ("end", c_int64),
        ("batches", c_int64),
        ("bytes", c_int64),
        ("producers", c_int32),
        ("producer", _Producer * PRODUCERS),
    )


class _Walk(ctypes.Structure):
    _fields_ = (
        ("survey", POINTER(_Survey)),
        ("stable", c_int64),
        ("hashes", POINTER(c_uint64)),
        ("room", c_int64),
        ("many", c_int64),
        ("compares", c_int32),
        ("appended", c_int32),
        ("header", c_void_p),
        ("wanted", POINTER(c_int64)),
        ("counts", POINTER(c_int64)),
        ("wants", c_int64),
        ("answered", c_int64),
        ("at", c_size_t),
        ("scratch", c_void_p),
        ("scratch_size", c_size_t),
    )


@functools.cache
def _library() -> Any:
    seen = hashlib.sha256(SOURCE.read_bytes() + repr(compiler()).encode()).hexdigest()[:16]
    built = WORK / "bench" / f"segments-{seen}.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        fresh = built.with_suffix(".new")
        subprocess.run([*compiler(), "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(fresh)], check=True)
        fresh.rename(built)
    library = ctypes.CDLL(str(built))
    library.fill.restype = c_size_t
    library.fill.argtypes = (
        *(c_void_p, c_size_t, POINTER(_Template), c_int32, c_int64),
        *(POINTER(c_int64), POINTER(c_int64), c_int64, POINTER(c_int64)),
    )
    library.survey.argtypes = (POINTER(_Survey), c_void_p, c_size_t)
    library.stable.argtypes = (POINTER(_Survey),)
    library.stable.restype = c_int64
    library.content.argtypes = (c_int64, c_void_p, c_size_t)
    library.content.restype = c_uint64
    library.walk.argtypes = (POINTER(_Walk), c_void_p, c_size_t)
    library.unpacked_batch.argtypes = (POINTER(_Walk), c_void_p, c_size_t, c_void_p, c_size_t)
    library.finish.argtypes = (POINTER(_Walk),)
    library.survey_size.restype = c_size_t
    assert library.survey_size() == ctypes.sizeof(_Survey)
    return library


# -- filling -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Template:
    """A whole record batch (magic 2); offset, timestamps and CRC are written anew for each of its copies."""

    data: bytes
    count: int
    span: int  # ms from its first to its newest record


def fill(folder: Path, templates: Sequence[Template], first: int, records: int, timestamp: int) -> int:
    """Fills an empty partition whose broker is down with at least so many records, beginning with template `first`.

    The broker makes the indexes when it starts. Every batch begins a millisecond after the one before has ended, the
    first one at `timestamp` (ms). Returns the records written.
    """
    native = (_Template * len(templates))()
    for slot, one in zip(native, templates, strict=True):
        slot.bytes = ctypes.cast(ctypes.c_char_p(one.data), c_void_p)
        slot.size, slot.count, slot.span = len(one.data), one.count, one.span
    for path in folder.glob("0*"):
        path.unlink()
    number, offset, stamp = c_int64(0), c_int64(0), c_int64(timestamp)
    piece = (ctypes.c_char * max(PIECE_BYTES, *(len(one.data) for one in templates)))()
    while offset.value < records:
        written = 0
        with (folder / f"{offset.value:020d}.log").open("wb") as segment:
            while offset.value < records and written < SEGMENT_BYTES - len(piece):
                size = _library().fill(
                    *(piece, len(piece), native, len(templates), first),
                    *(byref(number), byref(offset), records, byref(stamp)),
                )
                segment.write(memoryview(piece)[:size])
                written += size
    return offset.value


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Marker:
    """One transaction marker."""

    offset: int
    producer_id: int
    epoch: int
    commits: bool


class Hashes:
    """A hash of every committed record of a partition, in order."""

    def __init__(self, values: Any, count: int) -> None:
        self.values = values  # a ctypes array of 64-bit numbers with room for `count`
        self.count = count

    def __getitem__(self, index: int) -> int:
        return int(self.values[index])

    def find(self, wanted: int, near: int, reach: int = 100_000) -> int | None:
        """The index nearest to `near` where that hash is, None if it is not within reach."""
        for distance in range(reach):
            for index in (near - distance, near + distance):
                if 0 <= index < self.count and self.values[index] == wanted:
                    return index
        return None


@dataclass(frozen=True)
class Compared:
    """How a log compares with the hashes of another one."""

    records: int  # equal ones, from the first on
    counts: list[int]  # committed records below each of the wanted offsets
    different: int | None = None  # the hash of the first record that is not equal
    surplus: bool = False  # there are more records than hashes

    @property
    def ok(self) -> bool:
        """True if every record of the log is equal to the one in its place."""
        return self.different is None and not self.surplus


class Log:
    """A partition's folder as it is now. Nobody may write to it while it is read."""

    def __init__(self, folder: Path) -> None:
        """Looks at every batch header. Raises LogError."""
        self._paths = [path for path in sorted(folder.glob("0*.log")) if path.stat().st_size]
        self._folder = folder
        room = 1 << 16
        while not self._look(room):
            room *= 8
        self.stable = int(_library().stable(byref(self._survey)))
        self.end = int(self._survey.end)
        self.batches = int(self._survey.batches)
        self.bytes = int(self._survey.bytes)

    def _look(self, room: int) -> bool:
        self._survey = _Survey()
        self._markers = (_Marker * room)()
        self._survey.markers, self._survey.room = self._markers, room
        for path in self._paths:
            with _mapped(path) as (address, size):
                result = _library().survey(byref(self._survey), address, size)
            if result == NO_ROOM and self._survey.producers < PRODUCERS:
                return False
            if result != DONE:
                raise LogError(f"{path}: no batch of magic 2, or too many producers")
        return True

    @property
    def markers(self) -> list[Marker]:
        """All markers in the order of their offsets."""
        found = (self._markers[index] for index in range(self._survey.many))
        return [Marker(one.offset, one.producer_id, one.epoch, bool(one.commits)) for one in found]

    def hashes(self, header: tuple[bytes, bytes] | None = None) -> Hashes:
        """The hash of every committed record, as if `header` (name, value) were added behind each one's own."""
        room = self.stable
        values = (c_uint64 * max(room, 1))()
        walk = _Walk(hashes=values, room=room)
        if header is not None:
            encoded = b"".join(_varint(len(part)) + part for part in header)
            walk.header, walk.appended = ctypes.cast(ctypes.c_char_p(encoded), c_void_p), len(encoded)
        self._walk(walk)
        return Hashes(values, walk.many)

    def compare(self, hashes: Hashes, wanted: Sequence[int] = ()) -> Compared:
        """Compares the committed records with those hashes, and counts the records below the wanted offsets.

        The log may end before the hashes do. The wanted offsets must ascend.
        """
        offsets, counts = (c_int64 * len(wanted))(*wanted), (c_int64 * len(wanted))()
        walk = _Walk(hashes=hashes.values, room=hashes.count, compares=1)
        walk.wanted, walk.counts, walk.wants = offsets, counts, len(wanted)
        differs = self._walk(walk) == DIFFERS
        if differs and walk.many >= hashes.count:
            return Compared(walk.many, list(counts), surplus=True)
        return Compared(walk.many, list(counts), self._hash_of(walk.many) if differs else None)

    def _hash_of(self, index: int) -> int:
        return self.hashes()[index]

    def _walk(self, walk: _Walk) -> int:
        for number in range(self._survey.producers):
            self._survey.producer[number].next = 0
        walk.survey, walk.stable = ctypes.pointer(self._survey), self.stable
        try:
            for path in self._paths:
                walk.at = 0
                with _mapped(path) as (address, size):
                    result = _library().walk(byref(walk), address, size)
                    while result == COMPRESSED:
                        payload = _unpack(address, walk.at, path)
                        result = _library().unpacked_batch(byref(walk), address, size, payload, len(payload))
                        if result == DONE:
                            result = _library().walk(byref(walk), address, size)
                if result == DIFFERS:
                    return DIFFERS
                if result != DONE:
                    raise LogError(f"{path}: the batch at byte {walk.at} cannot be read")
            return DONE
        finally:
            _library().finish(byref(walk))


def content(timestamp: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> int:
    """The hash of a record that a client has read."""
    parts = [_field(key), _field(value), _varint(len(headers))]
    parts += [_field(name.encode()) + _field(text) for name, text in headers]
    data = b"".join(parts)
    return int(_library().content(timestamp, data, len(data)))


def _field(value: bytes | None) -> bytes:
    return _varint(-1) if value is None else _varint(len(value)) + value


def _varint(value: int) -> bytes:
    left = value << 1 ^ value >> 63
    out = bytearray()
    while left > 127:
        out.append(left & 127 | 128)
        left >>= 7
    return bytes([*out, left])


def _unpack(address: int, at: int, path: Path) -> bytes:
    head = ctypes.string_at(address + at, 61)
    codec = head[22] & 7
    if codec not in UNPACK:
        raise LogError(f"{path}: no reader for codec {codec}")
    size = int.from_bytes(head[8:12], "big") + 12
    return bytes(UNPACK[codec](ctypes.string_at(address + at + 61, size - 61)))


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[tuple[int, int]]:
    """(address, size) of a file's bytes."""
    # Private and writable: ctypes takes the address of nothing else. Nothing is written, so nothing is copied.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        pointer = (c_uint8 * len(view)).from_buffer(view)
        try:
            yield ctypes.addressof(pointer), len(view)
        finally:
            del pointer
