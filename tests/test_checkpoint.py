"""Reading where a lane stands: the newest record per key, and a refusal for whatever no lane can have written."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eomirror import checkpoint, records
from eomirror.brokers import Entry
from eomirror.checkpoint import InternalTopics, LaneState, fold
from eomirror.errors import BrokerError, Refused
from eomirror.model import RouteKey
from eomirror.records import FlowRecord, PositionRecord, Record
from tests.fakes import FakeBrokers, Log, lane_record, position

TOPIC = "__eomirror.dr.checkpoint"
FLOW = FlowRecord(v=1, flow="dr", source_cluster_id="S", target_cluster_id="T", lanes=4, created_ms=9)
WHO_ELSE = "Only the lanes of this flow may write it; see who else can with kafka-acls.sh --list."


def _entries(*pairs: tuple[bytes, Record | bytes | None]) -> list[Entry]:
    return [
        Entry(10 + i, 500 + i, key, records.encode(value) if isinstance(value, Record) else value)
        for i, (key, value) in enumerate(pairs)
    ]


def _pos(topic: str = "orders", partition: int = 0) -> bytes:
    return records.position_key(topic, partition)


def _refusal(*pairs: tuple[bytes, Record | bytes | None]) -> Refused:
    with pytest.raises(Refused) as caught:
        fold(TOPIC, 2, _entries(*pairs))
    return caught.value


def test_nothing_written_is_nothing_known() -> None:
    assert fold(TOPIC, 2, []) == LaneState(None, None, {}, None)


def test_the_newest_record_of_each_key_counts() -> None:
    state = fold(
        TOPIC,
        0,
        _entries(
            (records.flow_key(), FLOW),
            (_pos(), position(5)),
            (_pos("orders", 1), position(50)),
            (records.lane_key(), lane_record(1)),
            (_pos(), position(6)),
            (records.lane_key(), lane_record(4)),
        ),
    )
    positions = {("orders", 0): position(6), ("orders", 1): position(50)}
    assert state == LaneState(FLOW, lane_record(4), positions, committed_ms=505)


def test_a_tombstone_takes_a_position_away_until_it_is_written_again() -> None:
    deleted = _entries((_pos(), position(5)), (_pos(), None))
    assert fold(TOPIC, 0, deleted).positions == {}
    again = _entries((_pos(), position(5)), (_pos(), None), (_pos(), position(7)))
    assert fold(TOPIC, 0, again).positions == {("orders", 0): position(7)}


def test_only_the_newest_value_of_a_position_is_read() -> None:
    """Ten million past transactions must not cost ten million decodes."""
    state = fold(TOPIC, 0, _entries((_pos(), b"never looked at"), (_pos(), position(7))))
    assert state.positions == {("orders", 0): position(7)}


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.tuples(st.sampled_from(["a", "b", 'c"\n']), st.integers(0, 2)), st.none() | st.integers(0, 2**62))
    )
)
def test_folding_is_a_dictionary_written_in_order(writes: list[tuple[RouteKey, int | None]]) -> None:
    expected: dict[RouteKey, PositionRecord] = {}
    for key, offset in writes:
        expected.pop(key, None)
        if offset is not None:
            expected[key] = position(offset)
    pairs = [(_pos(*key), None if offset is None else position(offset)) for key, offset in writes]
    assert fold(TOPIC, 0, _entries(*pairs)).positions == expected


@pytest.mark.parametrize(("first", "second"), [(4, 4), (4, 3), (4, 0)])
def test_transaction_numbers_that_do_not_ascend_are_somebody_elses(first: int, second: int) -> None:
    refused = _refusal((records.lane_key(), lane_record(first)), (records.lane_key(), lane_record(second)))
    assert refused.message == f"{TOPIC}[2]@11: transaction {second} follows {first}: somebody else writes to this topic"
    assert refused.hint == WHO_ELSE


def test_compaction_leaves_holes_in_the_numbers() -> None:
    pairs = [(records.lane_key(), lane_record(n)) for n in (1, 2, 900)]
    assert fold(TOPIC, 0, _entries(*pairs)).lane == lane_record(900)


@pytest.mark.parametrize(("key", "what"), [(records.flow_key(), "flow"), (records.lane_key(), "lane")])
def test_flow_and_lane_are_never_deleted(key: bytes, what: str) -> None:
    refused = _refusal((key, None))
    assert refused.message == f"{TOPIC}[2]@10: {what} record deleted: somebody else writes to this topic"
    assert refused.hint == WHO_ELSE


@pytest.mark.parametrize(
    "key", [["later"], [], ["pos"], ["pos", "orders"], ["pos", "orders", "0"], ["pos", 1, 0], ["lane", 1], [41]]
)
def test_an_unknown_key_is_refused(key: list[object]) -> None:
    refused = _refusal((msgspec.json.encode(key), position(5)))
    assert refused.message == f"{TOPIC}[2]@10: unknown key {key!r}"
    assert refused.hint == "Only the lanes of this flow may write it, with this version of eomirror or an older one."


@pytest.mark.parametrize("key", [b"", b"orders", b"{}", b"\xff"])
def test_a_key_that_is_no_list_is_refused(key: bytes) -> None:
    assert _refusal((key, position(5))).message.startswith(f"{TOPIC}[2]@10: not a record of eomirror: ")


def test_a_newer_layout_is_refused() -> None:
    newer = records.encode(position(5)).replace(b'"v":1', b'"v":2')
    assert _refusal((_pos(), newer)).message == (f"{TOPIC}[2]@10: PositionRecord has layout 2, this eomirror reads 1")


# --- asking the brokers


def _target() -> FakeBrokers:
    brokers = FakeBrokers()
    brokers.add(TOPIC, Log())
    brokers.append(TOPIC, _pos(), records.encode(position(5)))
    brokers.append(TOPIC, records.lane_key(), records.encode(lane_record(3)))
    return brokers


TOPICS = InternalTopics.of("dr")


def test_the_owner_reads_up_to_the_leaders_end_and_a_command_up_to_what_is_stable() -> None:
    brokers = _target()
    brokers.append(TOPIC, records.lane_key(), records.encode(lane_record(4)), stable=False)
    read = checkpoint.read_lane(brokers, brokers.metadata(), TOPICS, 0)
    looked = checkpoint.look_lane(brokers, brokers.metadata(), TOPICS, 0)
    assert (read.lane, looked.lane) == (lane_record(4), lane_record(3))
    assert read.positions == looked.positions == {("orders", 0): position(5)}
    assert (read.committed_ms, looked.committed_ms) == (1_002, 1_001)


def test_a_missing_internal_topic_is_never_an_empty_one() -> None:
    brokers = FakeBrokers()
    for ask in (checkpoint.read_lane, checkpoint.look_lane):
        with pytest.raises(Refused) as caught:
            ask(brokers, brokers.metadata([TOPIC]), TOPICS, 0)
        assert caught.value.message == f"cluster dublin: internal topic {TOPIC} is missing"
        assert caught.value.hint == (
            "It holds where this flow stands. Bring it back; or remove the flow's other internal topics and its "
            "target topics to begin anew."
        )


def test_a_topic_that_the_broker_does_not_describe_is_an_error_and_not_missing() -> None:
    brokers = FakeBrokers()
    brokers.errors[TOPIC] = 29
    with pytest.raises(BrokerError) as caught:
        checkpoint.read_lane(brokers, brokers.metadata([TOPIC]), TOPICS, 0)
    assert caught.value.message == f"cluster dublin: describing {TOPIC}: TOPIC_AUTHORIZATION_FAILED (29)"


def test_a_leader_that_cannot_say_is_an_error() -> None:
    brokers = _target()
    brokers.away.add((TOPIC, 0))
    with pytest.raises(BrokerError, match=r"NOT_LEADER_OR_FOLLOWER \(6\)"):
        checkpoint.read_lane(brokers, brokers.metadata(), TOPICS, 0)


def test_the_four_topics_of_a_flow() -> None:
    assert TOPICS.names() == tuple(f"__eomirror.dr.{part}" for part in ("checkpoint", "producers", "ledger", "control"))


def test_a_lookout_tells_growth_from_quiet() -> None:
    brokers = FakeBrokers()
    brokers.add(TOPIC, Log(), Log(), Log(0, 40))
    lookout = checkpoint.Lookout(brokers, TOPIC, 2)
    assert [lookout.stranger(now) for now in (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)] == [False] * 6
    brokers.logs[TOPIC, 2].end = 41
    assert not lookout.stranger(7.0)  # not asked yet
    assert lookout.stranger(8.0)
    lookout.reset()
    assert [lookout.stranger(now) for now in (8.0, 10.0, 12.0)] == [False] * 3
    brokers.down = True
    brokers.logs[TOPIC, 2].end = 50
    assert not lookout.stranger(14.0)  # no answer is no news
