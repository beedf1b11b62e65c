"""What is compared is what was committed: bounds, ledgers and causes are settled before a record is read."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eomirror import ledger, records
from eomirror.compare import Findings, Side, as_mirrored, by_ledger
from eomirror.config import FlowConfig, TopicsConfig
from eomirror.errors import BrokerError, Reason, Refused
from eomirror.ledger import Before, Trail
from eomirror.model import Seen
from eomirror.records import Fault, FlowRecord, LedgerRoute, State, Tally
from eomirror.scope import DECISION_SECONDS, GONE, MARKER_SECONDS, SAMPLE_RECORDS, Job, Looking, Plan, samples, without
from tests.batches import examples
from tests.fakes import NEW, FakeBrokers, Log, lane_record, position

KEY = ("orders", 0)
FLOW = FlowConfig(name="dr", source="paris", target="dublin", topics=TopicsConfig(include=("orders",)), lanes=1)
RECORD = FlowRecord(v=1, flow="dr", source_cluster_id="T", target_cluster_id="T", lanes=1, created_ms=9)
CHECKPOINT, LEDGER = "__eomirror.dr.checkpoint", "__eomirror.dr.ledger"
PENDING = Tally((1, 1, 2), records=2)  # 12, 13 -> 11, 12 after the ledger's 0..10 -> 0..9


def sides(**fields: object) -> tuple[FakeBrokers, FakeBrokers]:
    """A source of 14 offsets and a target where 10 records are in the ledger and 2 in the checkpoint."""
    source, target = FakeBrokers("paris"), FakeBrokers()
    for part in ("checkpoint", "ledger", "producers", "control"):
        target.add(f"__eomirror.dr.{part}", Log())
    target.append(CHECKPOINT, records.flow_key(), records.encode(RECORD))
    routes = (LedgerRoute(*KEY, *KEY, Tally((0, 0, 10), records=10)),)
    value, digest = ledger.chain(0, lane_record(n=5, announced={}), routes, written_at_ms=7, rewinds={})
    head = lane_record(n=6, announced={}, ledger_sequence=1, ledger_hash=digest, ledger_n=5)
    pending = Tally((12, 11, 2), records=2)
    stands = position(14, target_end=13, pending=pending, **fields)
    for key, held in ((records.position_key(*KEY), stands), (records.lane_key(), head)):
        target.append(CHECKPOINT, key, records.encode(held))
    target.append(LEDGER, records.ledger_key(0), value)
    source.add("orders", Log(0, 20))
    target.add("orders", Log(0, 14))
    return source, target


def planned(
    source: FakeBrokers,
    target: FakeBrokers,
    *topics: str,
    flow: FlowConfig = FLOW,
    compacted: tuple[set[str], set[str]] = (set(), set()),
) -> Plan:
    return Looking(flow, source, target).plan(topics, lambda _ours, _theirs: compacted)  # type: ignore[arg-type]


def test_a_partition_is_compared_up_to_its_position_and_as_far_as_the_target_is_decided() -> None:
    source, target = sides()
    source.logs[KEY].first, target.logs[KEY].first = 3, 2
    plan = planned(source, target, compacted=({"orders"}, set()))
    (job,) = plan.jobs
    assert (job.key, job.source, job.target, job.compacted, job.note) == (KEY, (3, 14), (2, 14), (True, False), None)
    assert list(job.trail.offsets.runs()) == [(0, 0, 10), (12, 11, 2)]
    assert (plan.records, plan.causes, plan.ledger) == (12, {}, ())


def test_a_fault_and_a_source_that_ends_early_are_noted() -> None:
    source, target = sides(state=State.FAULTED, fault=Fault(Reason.SOURCE_GAP, "detail", 5, 9))
    assert planned(source, target).jobs[0].note == "FAULTED (SOURCE_GAP): detail"
    source.logs[KEY] = Log(0, 11)
    (job,) = planned(source, target).jobs
    assert (job.source, job.note) == ((0, 11), "the source ends at offset 11, 3 below what was mirrored")


@pytest.mark.parametrize("how", ["deleted", "created again", "fewer partitions"])
def test_a_source_that_is_gone_leaves_the_target_alone_to_be_read(how: str) -> None:
    source, target = sides()
    if how == "deleted":
        del source.ids["orders"]
    elif how == "created again":
        source.ids["orders"] = NEW
    else:
        del source.logs[KEY]
    (job,) = planned(source, target).jobs
    assert (job.source, job.target, job.note) == (None, (0, 14), GONE)


def test_markers_that_are_on_their_way_are_waited_for() -> None:
    source, target = sides()
    target.logs[KEY] = Log(0, 14, stable=11)
    began = target.clock.now
    plan = planned(source, target)
    assert plan.causes == {
        KEY: "cluster dublin: orders[0]: a transaction is open at offset 11, below what was mirrored (13)"
    }
    assert target.clock.now - began >= MARKER_SECONDS
    sleep = target.network.sleep

    def written(seconds: float) -> None:
        target.logs[KEY].stable = 14
        sleep(seconds)

    target.network.sleep = written
    assert planned(source, target).jobs[0].target == (0, 13)


def test_a_target_that_lost_its_end_is_read_as_far_as_it_goes() -> None:
    source, target = sides()
    target.logs[KEY] = Log(0, 9)
    assert planned(source, target).jobs[0].target == (0, 9)


def test_what_a_dead_owner_left_open_is_not_looked_at_and_that_is_said() -> None:
    source, target = sides()
    target.append(CHECKPOINT, records.lane_key(), b"{}", stable=False)
    began = target.clock.now
    (job,) = planned(source, target).jobs
    assert (job.target, job.note) == (
        (0, 13),
        "target offsets from 13 on were not looked at: a transaction of its lane is open",
    )
    assert target.clock.now - began >= DECISION_SECONDS


def test_a_broken_ledger_is_a_finding_and_its_partitions_are_not_called_equal() -> None:
    source, target = sides()
    log = target.logs[LEDGER, 0]
    log.entries[0] = log.entries[0]._replace(value=(log.entries[0].value or b"") + b" ")
    plan = planned(source, target)
    assert plan.jobs == ()
    assert len(plan.ledger) == 1
    assert plan.ledger[0].startswith(f"{LEDGER}[0]: the ledger's last record is 0, the checkpoint names record 0 with")
    assert plan.causes == {KEY: "without its lane's ledger nothing says which records belong together"}


def test_a_target_topic_that_is_not_the_one_written_is_not_compared() -> None:
    source, target = sides()
    target.ids["orders"] = NEW
    assert planned(source, target).causes == {KEY: "cluster dublin: orders[0]: the topic was deleted and created again"}
    del target.ids["orders"]
    assert planned(source, target).causes == {KEY: "cluster dublin: orders[0]: the topic is gone"}


def test_what_cannot_be_asked_is_an_error_and_no_verdict() -> None:
    source, target = FakeBrokers("paris"), FakeBrokers()
    with pytest.raises(Refused, match="has never been started on dublin"):
        planned(source, target)
    source, target = sides()
    with pytest.raises(Refused, match="flow dr: bills is not mirrored by this flow"):
        planned(source, target, "orders", "bills")
    for brokers, topic in ((source, "orders"), (target, "orders"), (target, CHECKPOINT), (target, LEDGER)):
        brokers.away.add((topic, 0))
        with pytest.raises(BrokerError):
            planned(source, target)
        brokers.away.clear()
    source.errors["orders"] = 29
    del source.ids["orders"]
    with pytest.raises(BrokerError, match="describing orders: TOPIC_AUTHORIZATION_FAILED"):
        planned(source, target)


def test_another_cluster_behind_an_address_is_refused() -> None:
    source, target = sides()
    other = msgspec.structs.replace(RECORD, source_cluster_id="S")
    target.append(CHECKPOINT, records.flow_key(), records.encode(other))
    with pytest.raises(Refused, match="cluster paris: cluster T answers, the flow was started with S"):
        planned(source, target)


# --- spans


@examples(100)
@given(st.integers(0, 20), st.integers(0, 20), st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), max_size=4))
def test_gaps_are_taken_out_of_a_span(start: int, end: int, sizes: list[tuple[int, int]]) -> None:
    gaps = sorted((first, first + size) for first, size in sizes)
    left = [offset for low, high in without((start, end), gaps) for offset in range(low, high)]
    assert left == [o for o in range(start, end) if not any(first <= o < following for first, following in gaps)]


@examples(60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 900)), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(0, 999),
    st.data(),
)
def test_samples_are_equal_where_everything_is(
    triples: list[tuple[int, int, int]], number: int, seed: int, data: st.DataObject
) -> None:
    """Each stretch holds the same records on both sides, no record is in two, and retention does not matter."""
    trail = Trail(Before.NOTHING)
    trail.add("a test", Tally(tuple(n for triple in triples for n in triple)))
    runs = list(trail.offsets.runs())
    pairs = [(s + n, t + n) for s, t, size in runs for n in range(size)]
    ends = pairs[-1][0] + 1, pairs[-1][1] + 1
    cut = data.draw(st.integers(0, ends[0])), data.draw(st.integers(0, ends[1]))
    job = Job(
        KEY, position(ends[0], target_end=ends[1]), trail, (cut[0], ends[0]), (cut[1], ends[1] + 1), (False, False)
    )
    found = Findings()
    reached = (0, 0)
    for ours, theirs in samples(job, number, random.Random(seed)):
        assert (ours[0], theirs[0]) >= reached
        sizes = [
            [
                Seen(pair[side], None, b"%d" % at, (), (1, 7))
                for at, pair in enumerate(pairs)
                if low <= pair[side] < high
            ]
            for side, (low, high) in enumerate((ours, theirs))
        ]
        by_ledger(
            Side(iter([sizes[0]]), lambda: cut[0]), Side(iter([sizes[1]]), lambda: cut[1]), trail, as_mirrored, found
        )
        reached = ours[1], theirs[1]
    assert (found.differences, reached) == ([], (ends[0], ends[1] + 1))
    comparable = sum(1 for s, t in pairs if s >= cut[0] and t >= cut[1])
    assert min(comparable, 1) <= found.equal <= min(comparable, number * (SAMPLE_RECORDS + 2 * len(runs)))
