"""The kernel's contract.

A *frame* is a buffer (usually a `bytearray`) that holds one whole response after its 4-byte size. It belongs to the
caller. `pack` patches 61-byte batch headers in it and hands out memoryview slices of it, so no payload is copied; while
a slice lives, the frame cannot be resized, and a frame is packed once. Offsets are Kafka offsets, timestamps
milliseconds since the epoch, sizes bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, final

from typing_extensions import Buffer

RecordHeaders = tuple[tuple[bytes, bytes | None], ...]

class FrameError(ValueError):
    """A response that cannot be read: its framing is wrong. The connection is not to be used again."""

class BatchError(ValueError):
    """A record batch that cannot be mirrored as it is.

    `offset` is the batch's source base offset, or the position where the walk stood if the header cannot be read or, as
    a compressed message of magic 0 or 1, doesn't have it; `next_offset` is where to go on when the batch is given up,
    always beyond the position, or None if the header does not say. One record that is too large by itself is named
    alone: its offset and the one after it.
    """

    reason: Literal["CORRUPT_BATCH", "UNKNOWN_CODEC", "RECORD_TOO_LARGE"]
    offset: int
    next_offset: int | None
    detail: str
    def __init__(self, reason: str, offset: int, next_offset: int | None, detail: str) -> None: ...

def crc32c(data: Buffer, crc: int = 0) -> int:
    """CRC-32C of `data`; `crc` is the value of the bytes before it."""

def crc32c_table(data: Buffer, crc: int = 0) -> int:
    """What `crc32c` returns, by the portable tables."""

def crc32c_combine(crc_a: int, crc_b: int, len_b: int) -> int:
    """CRC-32C of a || b, from those of a and of b and the length of b."""

def crc32c_implementation() -> Literal["sse4.2", "table"]:
    """What `crc32c` runs on. Chosen when the module is loaded; `EOMIRROR_CRC32C=table` forbids the instruction."""

@final
class FetchedPartition:
    """One partition of a Fetch response. `start == end` when it brought no records."""

    @property
    def topic(self) -> str | None:
        """The topic's name (version 12), else None."""
    @property
    def topic_id(self) -> bytes | None:
        """The topic's id, 16 bytes (version 13 and later), else None."""
    @property
    def partition(self) -> int: ...
    @property
    def error_code(self) -> int: ...
    @property
    def high_watermark(self) -> int: ...
    @property
    def last_stable_offset(self) -> int: ...
    @property
    def log_start_offset(self) -> int: ...
    @property
    def aborted(self) -> list[tuple[int, int]]:
        """Aborted transactions as (producer id, first offset), as the broker lists them."""
    @property
    def preferred_read_replica(self) -> int:
        """Node to fetch from instead, or -1."""
    @property
    def diverging(self) -> tuple[int, int] | None:
        """(epoch, end offset) of the largest epoch that still agrees with ours, when the log was truncated below us."""
    @property
    def current_leader(self) -> tuple[int, int] | None:
        """(leader id, leader epoch), when the broker names a newer leader."""
    @property
    def start(self) -> int:
        """Index of the first byte of the records in the frame."""
    @property
    def end(self) -> int:
        """Index after the last byte of the records."""

@final
class FetchFrame:
    """One Fetch response."""

    @property
    def correlation_id(self) -> int: ...
    @property
    def throttle_ms(self) -> int: ...
    @property
    def error_code(self) -> int: ...
    @property
    def session_id(self) -> int: ...
    @property
    def partitions(self) -> list[FetchedPartition]: ...

def frame_buffer(size: int) -> bytearray:
    """A bytearray whose bytes are whatever memory held: for a frame that is read into it whole."""

def fetch_response(frame: Buffer, version: int) -> FetchFrame:
    """Read a Fetch response of version 12 to 17, response header v1 included (FetchResponse.json).

    Raises FrameError when the framing is wrong; record batches are not looked at.
    """

Operation = (
    tuple[Literal["remove", "remove_matching"], bytes]
    | tuple[Literal["rename"], bytes, bytes]
    | tuple[Literal["set", "add"], bytes, tuple[bytes | Literal["offset", "timestamp"], ...]]
)

@final
class Recipe:
    """Operations on a record's headers, compiled; immutable, for any number of `pack` calls in any thread.

    They are applied in order to the record's list of headers; names are compared byte by byte, and may be empty:

    - `("remove", name)`: every header of that name goes;
    - `("remove_matching", pattern)`: so does every one whose name the pattern matches; `*` stands for any bytes, also
      none, and the time is linear in pattern and name;
    - `("rename", old, new)`: every header named `old`, in its place;
    - `("set", name, parts)`: every header of that name goes, one is appended;
    - `("add", name, parts)`: one is appended.

    A value is its parts joined; "offset" and "timestamp" stand for the record's source offset and its timestamp
    (milliseconds, as it is written), in decimal. Headers that stay keep their bytes. Raises ValueError with the index
    of an operation that is none of these, or that has more than 1 MiB.
    """

    def __init__(self, operations: Iterable[Operation]) -> None: ...
    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operations as compiled: neighbouring constants of a value are one."""

@final
class Batch:
    """One record batch, ready to be produced."""

    @property
    def view(self) -> memoryview:
        """The bytes: a slice of the frame (pass-through) or a buffer of its own (re-encoded)."""
    @property
    def count(self) -> int: ...
    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Contiguous source offsets as (first, count), ascending; the counts sum up to `count`. Several source batches
        that were gathered into one have their runs one behind the other, joined where they meet."""
    @property
    def max_timestamp(self) -> int:
        """As the source's header has it (pass-through), or of the records (re-encoded)."""
    @property
    def source_bytes(self) -> int:
        """Sizes of the source batches whose first record is here; 0 for the later parts of one that was split."""
    @property
    def payload_crc(self) -> int:
        """CRC-32C of the bytes after the 61-byte header, as written."""
    @property
    def payload_bytes(self) -> int: ...
    @property
    def reencoded(self) -> bool: ...

@final
class Packed:
    """What became of one fetched range."""

    @property
    def batches(self) -> list[Batch]: ...
    @property
    def next_offset(self) -> int:
        """Source offset after everything consumed, dropped batches included; the position if nothing was. It lies
        inside a source batch where the walk ended at `until` or at a record that is too large by itself."""
    @property
    def last_leader_epoch(self) -> int:
        """Partition leader epoch of the last batch consumed, also in part, -1 if none was or it has none."""
    @property
    def next_sequence(self) -> int:
        """Base sequence of the batch after the last one."""
    @property
    def records(self) -> int:
        """Records in `batches`."""
    @property
    def control_batches(self) -> int: ...
    @property
    def aborted_records(self) -> int: ...
    @property
    def incomplete(self) -> bool:
        """The walk reached a last batch that the broker cut; it comes whole with the next fetch."""
    @property
    def error(self) -> BatchError | None:
        """The batch that ended the walk; what came before it is in `batches` and counted in `next_offset`."""

def next_offset(frame: Buffer, start: int, end: int, position: int) -> tuple[int, int]:
    """(offset after the last whole batch, its partition leader epoch), or (position, -1) if the position lies beyond
    it. Headers only, no CRC.

    It lets the next fetch leave before `pack` runs. When `pack` then stops at an error, its `next_offset` is smaller
    and the answer to that early fetch is not to be used.
    """

def pack(
    frame: Buffer,
    start: int,
    end: int,
    position: int,
    aborted: Sequence[tuple[int, int]],
    *,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
    max_batch_bytes: int,
    recipe: Recipe | None = None,
    until: int | None = None,
    apart: tuple[int, int, int] | None = None,
) -> Packed:
    """Turn the whole batches of a writable frame[start:end] into batches to be produced, from `position` on.

    Every batch is checked (CRC-32C, offsets that do not go back) before anything of it is used. Control batches and
    those of aborted transactions are dropped. Records at or above `until` are left for later: where one is met, the
    walk ends with `next_offset` there.

    A batch is patched in place when it may be. It is re-encoded with its own codec when it begins below the position,
    reaches `until`, has gaps inside, carries LogAppendTime (every record gets the batch's max timestamp), when it is of
    magic 0 or 1 (which go into batches of their own), or when there is a `recipe`. Neighbours become one batch as long
    as each has less than 16 KiB (compressed: 4 KiB) or is re-encoded anyway, they have one codec or none, and no more
    than 256 KiB (and than `max_batch_bytes`) together, unpacked 4 MiB before the last one; what is dropped between them
    makes a gap in the runs. Timestamps further apart than int64 begin a new batch. No more are gathered in this range
    once one that may be sent as it is cannot be read, or 32 MiB have been unpacked: it is sent as it is. Batches that
    reach into the offsets from apart[0] to below apart[1] are not gathered, and have at most apart[2] records each.

    A batch above `max_batch_bytes` is split: filled up record by record, or, compressed, in equal parts until each
    fits. Only a record that does not fit alone stops the walk: see `Packed.error`. A range whose first batch is cut is
    an error too, for a broker sends the first one whole or not at all.

    Memory: the frame, and what is handed out. Besides, for what is re-encoded, one source batch unpacked (256 MiB at
    most; of magic 0 or 1, twice) and one batch being written: `max_batch_bytes`, or, before compression, 4 MiB and one
    source batch with its new headers, 256 MiB at most, and as much again while it is split. With a `recipe`, 40 bytes
    for each header of one record (1 048 576 at most). Raises ValueError for arguments out of their range, MemoryError,
    and AssertionError if a batch came out that must not be sent.
    """

def build_batch(
    records: Sequence[tuple[bytes | None, bytes | None] | tuple[bytes | None, bytes | None, RecordHeaders]],
    *,
    timestamp_ms: int,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
    codec: Literal["none", "lz4"],
) -> bytes:
    """One transactional record batch of (key, value[, headers]) for an internal topic; ValueError if there are none."""

def read_records(
    frame: Buffer, start: int, end: int, aborted: Sequence[tuple[int, int]], position: int = 0
) -> list[tuple[int, int, bytes | None, bytes | None, list[tuple[bytes, bytes | None]]]]:
    """The committed records at or above `position`: (offset, timestamp, key, value, headers).

    The frame is only read. Raises BatchError, also for magic 0 and 1, and for a range whose first batch is cut; a cut
    batch behind whole ones is left out.
    """

def produce_request(
    version: int,
    correlation_id: int,
    client_id: str | None,
    transactional_id: str | None,
    timeout_ms: int,
    topics: Sequence[tuple[str | bytes, Sequence[tuple[int, Buffer]]]],
) -> list[bytes | memoryview]:
    """A Produce request of version 9 to 13 with acks=-1, request header v2 included, as buffers for `sendmsg`.

    Topics go by name up to version 12, by their 16-byte id from 13 on. The first buffer begins with the 4-byte size of
    the whole request; records are passed through, not copied. There are two buffers per partition and one more: mind
    IOV_MAX. Raises ValueError for another version or a request of 2 GiB.
    """

@final
class OffsetMap:
    """The runs of one partition, rising on both sides; a few bytes each. One thread at a time.

    After a MemoryError it is as it was before the call, or before the run that did not fit.
    """

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it has asked for, with what is set aside for growth."""
    def append(self, source_first: int, target_first: int, count: int) -> None:
        """Add a run, merged if it continues the last on both sides. ValueError unless it lies beyond it on both."""
    def extend(self, flat: Sequence[int]) -> None:
        """Add runs as the ledger writes them: flat triples of source offsets skipped since the end of the run before,
        the same for target offsets, count; the first triple counts from 0. ValueError for a wrong one; those before it
        stay."""
    def to_target(self, source: int) -> int | None:
        """The target offset of a source offset; None when it lies in no run."""
    def to_source(self, target: int) -> int | None:
        """The source offset of a target offset; None when it lies in no run."""
    def floor(self, source: int) -> tuple[int, int, int] | None:
        """(source first, target first, count) of the last run that begins at or below `source`."""
    def ceiling(self, source: int) -> tuple[int, int, int] | None:
        """The first run that begins at or above `source`."""
    def target_floor(self, target: int) -> tuple[int, int, int] | None:
        """The last run that begins at or below `target` on the target side."""
    def target_ceiling(self, target: int) -> tuple[int, int, int] | None:
        """The first run that begins at or above `target` on the target side."""
    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Every run, ascending."""
    def __len__(self) -> int: ...
