"""The records of the internal topics, byte for byte: what is written today must be read for years.

A golden file holds `[key,value]` of one record type with every field set. To add a type, add an example here and write
its file by hand; a byte that changes in an old file is a new layout and needs a new version.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eomirror import records
from eomirror.errors import Exit, Reason, Refused
from eomirror.records import (
    Desired,
    Event,
    Fault,
    FlowRecord,
    Gap,
    LaneRecord,
    LedgerRecord,
    LedgerRoute,
    Owner,
    PositionRecord,
    ProducerRecord,
    Record,
    State,
    Tally,
)

GOLDEN = Path(__file__).parent / "golden"
STRANGER = "not a record of eomirror"

TALLY = Tally(
    runs=(40, 7, 2, 1, 0, 3),
    records=5,
    bytes=640,
    digest="00c0ffee",
    max_timestamp_ms=1_700_000_000_123,
    control_batches=1,
    aborted_records=2,
    quarantined=1,
    dropped=3,
    gaps=(Gap(10, 40, Reason.SOURCE_GAP, "ada"),),
)
SCOPE = records.fault_scope('café\n"orders"', 3)
EXAMPLES: dict[type[Record], tuple[bytes, Record]] = {
    FlowRecord: (
        records.flow_key(),
        FlowRecord(
            v=1, flow="dr", source_cluster_id="abc-S", target_cluster_id="abc_T", lanes=4, created_ms=1_700_000_000_000
        ),
    ),
    LaneRecord: (
        records.lane_key(),
        LaneRecord(
            v=1,
            n=42,
            generation=3,
            owner=Owner("paris-7", 4711, "5f0c", 1_700_000_000_001),
            announced={"a": 1000, "b": 2001},
            pinned_ms=1_700_000_000_002,
            ledger_sequence=6,
            ledger_hash="e3b0c442",
            ledger_n=40,
        ),
    ),
    PositionRecord: (
        records.position_key('café\n"orders"', 3),
        PositionRecord(
            v=1,
            next_offset=46,
            source_topic_id="0" * 31 + "1",
            target_topic_id="0" * 31 + "2",
            transaction=41,
            leader_epoch=5,
            target_end=12,
            state=State.FAULTED,
            fault=Fault(Reason.CORRUPT_BATCH, "batch of 9 bytes", 1_700_000_000_003, 50),
            trouble="the target partition has no leader",
            pending=TALLY,
        ),
    ),
    ProducerRecord: (
        records.producer_key(1000),
        ProducerRecord(
            v=1, flow="dr", source_cluster_id="abc-S", lane=2, identity="a", announced_at_ms=1_700_000_000_004
        ),
    ),
    LedgerRecord: (
        records.ledger_key(2),
        LedgerRecord(
            v=1,
            lane=2,
            sequence=6,
            previous="e3b0c442",
            first_n=39,
            last_n=41,
            written_at_ms=1_700_000_000_005,
            routes=(LedgerRoute("orders", 3, "orders", 3, TALLY, 60),),
            rewinds={"epoch": 1, "target_away": 2},
        ),
    ),
    Desired: (
        records.desired_key(SCOPE),
        Desired(v=1, action="accept", since_ms=1_700_000_000_003, by="ada", why="known loss", at_ms=1_700_000_000_006),
    ),
    Event: (
        records.event_key("01HF7YAT00000000000000000Z"),
        Event(v=1, verb="fault accept", scope=SCOPE, by="ada", why="known loss", at_ms=1_700_000_000_006),
    ),
}
KINDS = sorted(EXAMPLES, key=lambda kind: kind.__name__)


def _golden(kind: type[Record]) -> tuple[bytes, bytes]:
    key, value = msgspec.json.decode(
        (GOLDEN / f"{kind.__name__}.json").read_bytes(), type=tuple[msgspec.Raw, msgspec.Raw]
    )
    return bytes(key), bytes(value)


def _structs(value: object) -> Iterator[msgspec.Struct]:
    if isinstance(value, msgspec.Struct):
        yield value
        for field in msgspec.structs.fields(value):
            yield from _structs(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _structs(one)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_is_written_as_in_its_golden_file(kind: type[Record]) -> None:
    key, record = EXAMPLES[kind]
    assert (GOLDEN / f"{kind.__name__}.json").read_bytes() == b"[" + key + b"," + records.encode(record) + b"]\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_golden_file_is_read_as_its_record(kind: type[Record]) -> None:
    key, value = _golden(kind)
    assert records.decode("here", kind, value) == EXAMPLES[kind][1]
    if kind is LedgerRecord:
        assert key == b"2"
    else:
        assert msgspec.json.encode(records.decode_key("here", key)) == key == EXAMPLES[kind][0]


def test_every_record_type_has_a_golden_file_and_no_other() -> None:
    assert set(EXAMPLES) == set(Record.__subclasses__())
    assert {path.name for path in GOLDEN.iterdir()} == {f"{kind.__name__}.json" for kind in EXAMPLES}


def test_every_struct_and_every_field_is_in_a_golden_file() -> None:
    shown = [struct for _, record in EXAMPLES.values() for struct in _structs(record)]
    defined = {
        kind
        for kind in vars(records).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == records.__name__
    }
    assert {type(struct) for struct in shown} == defined - {Record}
    for struct in shown:
        written = msgspec.json.decode(msgspec.json.encode(struct))
        assert set(written) == {field.encode_name for field in msgspec.structs.fields(struct)}, type(struct).__name__


def test_defaults_are_not_written() -> None:
    bare = PositionRecord(v=1, next_offset=0, source_topic_id="s", target_topic_id="t", transaction=0)
    assert records.encode(bare) == (
        b'{"v":1,"next_offset":0,"source_topic_id":"s","target_topic_id":"t","transaction":0}'
    )
    assert records.decode("here", PositionRecord, records.encode(bare)) == bare
    lane = LaneRecord(v=1, n=0, generation=1, owner=Owner("h", 1, "i", 2), announced={})
    assert records.encode(lane) == (
        b'{"v":1,"n":0,"generation":1,"owner":{"host":"h","pid":1,"instance":"i","started_ms":2},"announced":{}}'
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_is_not_known_yet_is_ignored(kind: type[Record]) -> None:
    _, value = _golden(kind)
    assert records.decode("here", kind, value[:-1] + b',"later":{"a":[1]}}') == EXAMPLES[kind][1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [b'{"v":2}', b'{"v":0}', b'{"v":2,"next_offset":"far","state":"NEW"}'])
def test_another_layout_is_refused_by_its_number_whatever_else_it_holds(kind: type[Record], value: bytes) -> None:
    with pytest.raises(Refused) as caught:
        records.decode("t[0]@7", kind, value)
    layout = value[5:6].decode()
    assert caught.value.message == f"t[0]@7: {kind.__name__} has layout {layout}, this eomirror reads 1"
    assert caught.value.hint == "Run the eomirror that wrote it, or a newer one."
    assert caught.value.exit_code == Exit.REFUSED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [b"", b"{", b"{}", b"null", b"[]", b'{"v":1}', b'{"v":"1"}', b'{"v":true}', b"\xff"])
def test_a_value_that_is_not_ours_is_refused(kind: type[Record], value: bytes) -> None:
    with pytest.raises(Refused, match=rf"^t\[0\]@7: {STRANGER}: ") as caught:
        records.decode("t[0]@7", kind, value)
    assert caught.value.hint == (
        "Only the lanes of this flow may write this topic; see who else can with kafka-acls.sh --list."
    )


@settings(deadline=None)
@given(st.binary(max_size=40))
@example(b'["\xff"]')
@example(b"[" * 100_000)
def test_bytes_of_a_stranger_are_a_list_or_refused(key: bytes) -> None:
    try:
        known = msgspec.json.decode(key, type=list[Any])
    except (ValueError, RecursionError):
        with pytest.raises(Refused, match=rf"^t\[0\]@7: {STRANGER}: "):
            records.decode_key("t[0]@7", key)
    else:
        assert records.decode_key("t[0]@7", key) == known


@settings(deadline=None)
@given(st.binary(max_size=60))
@example(b'{"v":1,"flow":"\xff"}')
@example(b'{"v":1,"x":' + b"[" * 100_000)
def test_no_bytes_of_a_stranger_escape_as_another_error(value: bytes) -> None:
    with pytest.raises(Refused, match="t@0: "):
        records.decode("t@0", FlowRecord, value)


def test_keys_are_json_arrays_that_anybody_can_read() -> None:
    assert records.flow_key() == b'["flow"]'
    assert records.lane_key() == b'["lane"]'
    assert records.position_key("orders", 3) == b'["pos","orders",3]'
    assert records.producer_key(41) == b"[41]"
    assert records.ledger_key(3) == b"3"
    assert records.desired_key(records.fault_scope("orders", 3)) == b'["desired",["fault","orders",3]]'
    assert records.event_key("01H") == b'["event","01H"]'


@given(
    st.tuples(st.integers(0, 200_000), st.sampled_from("ab")), st.tuples(st.integers(0, 200_000), st.sampled_from("ab"))
)
def test_of_two_processes_that_take_lanes_from_each_other_one_stays(one: tuple[int, str], two: tuple[int, str]) -> None:
    mine, theirs = (Owner("h", 1, instance, started) for started, instance in (one, two))
    if mine.instance == theirs.instance:
        return
    if abs(one[0] - two[0]) <= 60_000:
        assert mine.yields_to(theirs) != theirs.yields_to(mine)
        assert mine.yields_to(theirs) is (one < two)
    else:
        assert mine.yields_to(theirs)
