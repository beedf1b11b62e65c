"""The model of Kafka answers as a broker of 4.3.1 does, and does nothing by chance.

The lane tests are worth what this model is worth: each line about answers in our notes on real brokers that the model
covers is asserted here, against the same bytes that production code sends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kafkamodel import (
    Fate,
    ModelCluster,
    ModelError,
    ModelNetwork,
    Owner,
    Record,
    State,
    build_batch,
)
from tests.kafkamodel.client import Client, Produced, batch, requests, split
from tests.kafkamodel.messages import END_TXN, INIT_PRODUCER_ID, METADATA, PRODUCE
from tests.kafkamodel.records import CONTROL, crc32c, read_header, read_records, with_crc

TID = "lane.a"
OTHER = "lane.b"


@pytest.fixture
def target() -> ModelCluster:
    cluster = ModelCluster("target")
    cluster.create_topic("orders", 3)
    cluster.has_transaction_log = True
    return cluster


@pytest.fixture
def net(target: ModelCluster) -> Iterator[ModelNetwork]:
    with ModelNetwork(target) as made:
        yield made


@pytest.fixture
def client(net: ModelNetwork) -> Client:
    return Client(net.local(), "target", 9092)


def values(cluster: ModelCluster, partition: int = 0) -> list[bytes | None]:
    return [r.value for r in cluster.committed("orders", partition)]


# --- the coordinator's answers


def test_versions_and_the_finalized_transaction_version_are_offered(client: Client) -> None:
    answer = client.api_versions()
    assert [(f.name, f.max_version_level) for f in answer.finalized_features] == [("transaction.version", 2)]
    assert {k.api_key: (k.min_version, k.max_version) for k in answer.api_keys}[PRODUCE] == (3, 13)


def test_init_without_a_transaction_log_is_refused_until_somebody_looks_for_the_coordinator() -> None:
    cluster = ModelCluster("target", fresh=True)
    with ModelNetwork(cluster) as net:
        client = Client(net.local(), "target", 9092)
        assert [client.init(TID)[0] for _ in range(3)] == [16, 16, 16]
        assert int(client.find_coordinator(TID).error_code) == 15
        assert int(client.find_coordinator(TID).error_code) == 0
        assert client.init(TID)[0] == 0


def test_every_transaction_has_an_epoch_of_its_own(client: Client, target: ModelCluster) -> None:
    producer_id, epoch = client.take(TID)
    assert epoch == 0
    for expected in (1, 2, 3):
        assert client.produce(TID, (producer_id, epoch), 0, "orders", 0, [b"x"]).error == 0
        error, again, epoch = client.end(TID, (producer_id, epoch), commit=True)
        assert (error, again, epoch) == (0, producer_id, expected)
    target.write_markers()
    assert values(target) == [b"x"] * 3


def test_end_is_answered_before_its_markers_are_written(client: Client, target: ModelCluster) -> None:
    held = client.take(TID)
    client.produce(TID, held, 0, "orders", 0, [b"x"])
    assert client.end(TID, held, commit=True)[0] == 0
    assert values(target) == []
    assert target.transaction(TID).state is State.PREPARE_COMMIT
    assert client.init(TID)[0] == 51
    target.write_markers()
    assert values(target) == [b"x"]
    assert target.transaction(TID).state is State.COMPLETE_COMMIT


def test_a_repeated_end_gets_the_first_answer_and_the_other_verdict_is_refused(client: Client) -> None:
    held = client.take(TID)
    client.produce(TID, held, 0, "orders", 0, [b"x"])
    first = client.end(TID, held, commit=True)
    client.network.net.settle()
    assert client.end(TID, held, commit=True) == first
    assert client.end(TID, held, commit=False)[0] == 48


def test_a_delayed_end_of_an_older_transaction_is_fenced(client: Client) -> None:
    first = client.take(TID)
    client.produce(TID, first, 0, "orders", 0, [b"x"])
    _, *second = client.end(TID, first, commit=True)
    client.network.net.settle()
    assert client.produce(TID, tuple(second), 0, "orders", 0, [b"y"]).error == 0
    assert client.end(TID, first, commit=True)[0] == 90


def test_an_empty_commit_is_refused_and_an_empty_abort_takes_an_epoch(client: Client) -> None:
    held = client.take(TID)
    assert client.end(TID, held, commit=True)[0] == 48
    assert client.end(TID, held, commit=False) == (0, held[0], held[1] + 1)


def test_take_over_fences_aborts_and_bumps(client: Client, target: ModelCluster) -> None:
    old = client.take(TID)
    client.produce(TID, old, 0, "orders", 0, [b"zombie"])
    assert client.init(TID)[0] == 51
    assert target.transaction(TID).state is State.PREPARE_ABORT
    new = client.take(TID)
    # One bump for the fence, which nobody is told of, and one for the new owner.
    assert new == (old[0], old[1] + 2)
    assert client.produce(TID, old, 1, "orders", 0, [b"zombie"]).error == 47
    assert client.end(TID, old, commit=True)[0] == 90
    assert client.end(TID, old, commit=False)[0] == 90
    assert client.init(TID, old)[0] == 90
    assert client.produce(TID, new, 0, "orders", 0, [b"new"]).error == 0
    assert client.end(TID, new, commit=True)[0] == 0
    target.write_markers()
    assert values(target) == [b"new"]


def test_the_fenced_owner_meets_51_48_or_0_while_the_take_over_is_under_way(
    client: Client, target: ModelCluster
) -> None:
    old = client.take(TID)
    client.produce(TID, old, 0, "orders", 0, [b"zombie"])
    client.init(TID)
    assert client.end(TID, old, commit=True)[0] == 51  # markers are not written
    target.write_markers()
    assert client.end(TID, old, commit=True)[0] == 48  # aborted, and this is a commit
    assert client.end(TID, old, commit=False)[0] == 0  # aborted, and so it should be
    assert values(target) == []


def test_a_commit_that_comes_while_the_fence_is_set_up_gets_an_unknown_server_error(
    target: ModelCluster, net: ModelNetwork
) -> None:
    local = net.local()
    owner, intruder = Client(local, "target", 9092), Client(local, "target", 9092)
    held = owner.take(TID)
    owner.produce(TID, held, 0, "orders", 0, [b"x"])
    intruder.send(INIT_PRODUCER_ID, 4, intruder.init_body(TID, (-1, -1), 60_000))
    net.step()
    assert target.transaction(TID).pending is State.PREPARE_EPOCH_FENCE
    owner.send(END_TXN, 5, owner.end_body(TID, held, True))
    net.step(next(e for e in net.progress() if e.label == "EndTxn"))
    assert int(owner.receive().error_code) == -1
    assert int(intruder.receive().error_code) == 51
    target.write_markers()
    assert values(target) == []


def test_a_transaction_the_coordinator_timed_out(client: Client, target: ModelCluster, net: ModelNetwork) -> None:
    held = client.take(TID, timeout_ms=5_000)
    client.produce(TID, held, 0, "orders", 0, [b"x"])
    net.local().sleep(5.1)
    assert target.transaction(TID).state is State.COMPLETE_ABORT
    assert client.produce(TID, held, 1, "orders", 0, [b"y"]).error == 47
    assert client.end(TID, held, commit=True)[0] == 48
    error, producer_id, epoch = client.init(TID, held)
    assert (error, producer_id, epoch) == (0, held[0], held[1] + 1)
    assert values(target) == []


def test_init_with_the_held_epoch_bumps_once_and_repeats_its_answer(client: Client) -> None:
    held = client.take(TID)
    first = client.init(TID, held)
    assert first == (0, held[0], held[1] + 1)
    assert client.init(TID, held) == first
    assert client.init(TID, (held[0], held[1] + 7))[0] == 90
    assert client.init(TID, (held[0] + 999, 0))[0] == 90


def test_producer_ids_run_out_of_epochs() -> None:
    cluster = ModelCluster("target", max_epoch=5)
    cluster.create_topic("orders", 2)
    with ModelNetwork(cluster) as net:
        client = Client(net.local(), "target", 9092)
        client.find_coordinator(TID)
        held = first = client.take(TID)
        while held[1] < 4:
            client.produce(TID, held, 0, "orders", 0, [b"x"])
            _, *after = client.end(TID, held, commit=True)
            held = (after[0], after[1])
            net.settle()
        assert held == (first[0], 4)
        client.produce(TID, held, 0, "orders", 0, [b"last"])
        error, *after = client.end(TID, held, commit=True)
        assert (error, after[1]) == (0, 0)
        assert after[0] != first[0]
        net.settle()
        assert client.end(TID, held, commit=True) == (0, *after)
        assert client.produce(TID, held, 0, "orders", 0, [b"old id"]).error == 47
        assert client.produce(TID, held, 0, "orders", 1, [b"old id"]).error == 49
        assert client.produce(TID, (after[0], 0), 0, "orders", 0, [b"new id"]).error == 0
        client.end(TID, (after[0], 0), commit=True)
        net.settle()
        assert [r.value for r in cluster.committed("orders", 0)] == [b"x"] * 4 + [b"last", b"new id"]


def test_a_take_over_at_the_last_epoch_hands_out_a_new_producer_id() -> None:
    cluster = ModelCluster("target", max_epoch=3)
    cluster.create_topic("orders")
    with ModelNetwork(cluster) as net:
        client = Client(net.local(), "target", 9092)
        client.find_coordinator(TID)
        taken = [client.take(TID) for _ in range(5)]
        assert [epoch for _, epoch in taken] == [0, 1, 2, 0, 1]
        assert len({producer_id for producer_id, _ in taken}) == 2


def test_the_time_out_must_be_one_that_a_broker_allows(client: Client) -> None:
    assert client.init(TID, timeout_ms=16 * 60 * 1000)[0] == 50


# --- produce


def test_a_produce_of_the_same_identity_waits_for_the_markers_and_one_of_the_other_does_not(
    client: Client, target: ModelCluster, net: ModelNetwork
) -> None:
    a, b = client.take(TID), client.take(OTHER)
    client.produce(TID, a, 0, "orders", 0, [b"1"])
    _, *after = client.end(TID, a, commit=True)
    began = net.clock.now
    assert client.produce(OTHER, b, 0, "orders", 1, [b"2"]).error == 0
    assert net.clock.now - began < 0.005
    _, *other = client.end(OTHER, b, commit=True)
    began = net.clock.now
    assert client.produce(OTHER, tuple(other), 0, "orders", 1, [b"3"]).error == 0
    assert net.clock.now - began >= 0.020
    assert after[1] == a[1] + 1


def test_a_produce_gives_up_when_the_markers_take_too_long(client: Client, target: ModelCluster) -> None:
    held = client.take(TID)
    client.produce(TID, held, 0, "orders", 2, [b"1"])
    _, *after = client.end(TID, held, commit=True)
    target.topics["orders"].leaders[2] = None  # its marker waits for a leader
    assert client.produce(TID, tuple(after), 0, "orders", 0, [b"2"]).error == 51
    target.topics["orders"].leaders[2] = 1
    assert client.produce(TID, tuple(after), 0, "orders", 0, [b"2"]).error == 0


def test_a_repeated_batch_gets_its_first_offset_and_an_older_one_is_out_of_order(client: Client) -> None:
    held = client.take(TID)
    for sequence in range(6):
        assert client.produce(TID, held, sequence, "orders", 0, [b"%d" % sequence]) == Produced(0, sequence)
    assert [client.produce(TID, held, s, "orders", 0, [b"again"]) for s in (5, 1)] == [Produced(0, 5), Produced(0, 1)]
    assert client.produce(TID, held, 0, "orders", 0, [b"again"]).error == 45
    assert client.produce(TID, held, 7, "orders", 0, [b"hole"]).error == 45


def test_the_first_sequence_of_a_transaction_is_zero(client: Client) -> None:
    held = client.take(TID)
    assert client.produce(TID, held, 3, "orders", 0, [b"x"]).error == 45
    assert client.produce(TID, held, 0, "orders", 1, [b"x"]).error == 0


def raw(count: int = 2, **changes: Any) -> bytearray:
    made = bytearray(batch([b"v%d" % i for i in range(count)], (-1, -1), -1, attributes=0))
    for place, (form, value) in changes.items():
        struct.pack_into(form, made, int(place.removeprefix("at")), value)
    return made


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (bytes(raw()), 0),
        (bytes(raw() + raw()), 87),
        (b"", 87),
        (with_crc(raw(at0=(">q", 5))), 87),
        (with_crc(raw(at23=(">i", 2))), 87),  # last offset delta: count does not fit
        (with_crc(raw(at21=(">h", CONTROL))), 87),
        (bytes(raw(at17=(">I", 1))), 2),
        (with_crc(raw(3))[:-1], 2),
        (with_crc(bytearray(batch([b"x" * 2000], (-1, -1), -1, attributes=0))), 10),
    ],
)
def test_batches_that_a_broker_refuses(data: bytes, error: int) -> None:
    cluster = ModelCluster("target")
    cluster.create_topic("orders", max_message_bytes=1000)
    with ModelNetwork(cluster) as net:
        client = Client(net.local(), "target", 9092)
        assert client.produce_raw(None, {("orders", 0): data})[0].error == error


def test_inner_offsets_with_a_gap_are_refused(client: Client) -> None:
    gap = build_batch([Record(0, 1, None, b"a"), Record(2, 2, None, b"c")], last_offset_delta=1)
    assert client.produce_raw(None, {("orders", 0): gap})[0].error == 87


def test_compaction_refuses_null_keys() -> None:
    cluster = ModelCluster("target")
    cluster.create_topic("orders", compact=True)
    with ModelNetwork(cluster) as net:
        client = Client(net.local(), "target", 9092)
        assert client.produce_raw(None, {("orders", 0): bytes(raw())})[0].error == 87
        keyed = build_batch([Record(0, 1, b"k", None)])
        assert client.produce_raw(None, {("orders", 0): keyed})[0].error == 0


def test_unknown_partitions_and_topic_ids(client: Client, target: ModelCluster) -> None:
    client.metadata("orders")
    assert client.produce_raw(None, {("orders", 9): bytes(raw())})[0].error == 3
    assert client.produce_raw(None, {("orders", 0): bytes(raw())}, version=13)[0].error == 0
    target.delete_topic("orders")
    target.create_topic("orders", 3)
    assert client.produce_raw(None, {("orders", 0): bytes(raw())}, version=13)[0].error == 100
    assert client.produce_raw(None, {("orders", 0): bytes(raw())}, version=12)[0].error == 0


def test_a_refused_partition_does_not_fail_the_transaction(client: Client, target: ModelCluster) -> None:
    held = client.take(TID)
    assert client.produce(TID, held, 0, "orders", 0, [b"kept"]).error == 0
    late = batch([b"late"], held, 5)
    assert client.produce_raw(TID, {("orders", 1): late})[0].error == 45
    assert client.end(TID, held, commit=True)[0] == 0
    target.write_markers()
    assert values(target, 0) == [b"kept"]
    assert values(target, 1) == []


def test_a_topic_made_again_in_mid_transaction_swallows_the_first_half(client: Client, target: ModelCluster) -> None:
    held = client.take(TID)
    assert client.produce(TID, held, 0, "orders", 0, [b"first"]).error == 0
    target.delete_topic("orders")
    target.create_topic("orders", 3)
    assert client.produce(TID, held, 0, "orders", 0, [b"second"]) == Produced(0, 0)
    assert client.end(TID, held, commit=True)[0] == 0
    target.write_markers()
    assert values(target) == [b"second"]


def test_a_batch_without_the_transactional_bit_is_outside_the_transaction(client: Client, target: ModelCluster) -> None:
    held = client.take(TID)
    assert client.produce(TID, held, 0, "orders", 0, [b"outside"], attributes=0).error == 0
    assert values(target) == [b"outside"]
    assert client.produce(TID, held, 0, "orders", 1, [b"inside"]).error == 0
    assert client.produce(TID, held, 1, "orders", 1, [b"outside"], attributes=0).error == 48


def test_a_marker_between_check_and_append_shuts_the_batch_out(target: ModelCluster, net: ModelNetwork) -> None:
    """The coordinator says yes, the take-over's abort marker comes, and only then the batch reaches the log."""
    local = net.local()
    owner, intruder = Client(local, "target", 9092), Client(local, "target", 9092)
    held = owner.take(TID)
    owner.send(PRODUCE, 12, owner.produce_body(12, TID, {("orders", 0): batch([b"x"], held, 0)}))
    while not any("not yet appended" in e.label for e in net.progress()):
        net.step()
    parked = next(e for e in net.progress() if "not yet appended" in e.label)
    net.hold(parked, 1000)
    new = intruder.take(TID)
    net.release()
    answer = owner.receive()
    assert int(answer.responses[0].partition_responses[0].error_code) == 47
    assert intruder.produce(TID, new, 0, "orders", 0, [b"y"]).error == 0
    intruder.end(TID, new, commit=True)
    target.write_markers()
    assert values(target) == [b"y"]


def test_a_late_batch_still_gets_in_between_decision_and_marker(
    client: Client, target: ModelCluster, net: ModelNetwork
) -> None:
    """Until its marker is there, the partition takes what fits the open transaction and asks nobody."""
    held = client.take(TID)
    client.produce(TID, held, 0, "orders", 0, [b"1"])
    client.end(TID, held, commit=True)
    marker = next(e for e in net.progress() if e.kind == "marker")
    net.hold(marker, 100)
    assert client.produce(TID, held, 1, "orders", 0, [b"2"]).error == 0
    target.write_markers()
    assert values(target) == [b"1", b"2"]


def test_log_append_time_is_stamped_with_a_crc_that_holds() -> None:
    cluster = ModelCluster("target")
    cluster.create_topic("internal", log_append_time=True)
    with ModelNetwork(cluster) as net:
        client = Client(net.local(), "target", 9092)
        client.produce_raw(None, {("internal", 0): bytes(raw(2))})
        stored = client.fetch("internal", 0, 0).batches[0]
        assert crc32c(stored[21:]) == read_header(stored).crc
        assert {r.timestamp for r in read_records(stored)} == {read_header(stored).max_timestamp}
        assert read_header(stored).max_timestamp > 1_700_000_000_000


# --- fetch and offsets


def test_markers_take_an_offset_on_every_partition(client: Client, target: ModelCluster) -> None:
    held = client.take(TID)
    client.produce(TID, held, 0, "orders", 0, [b"1", b"2"])
    client.end(TID, held, commit=True)
    target.write_markers()
    assert client.list_offset("orders", 0, -1) == (0, 3)
    assert target.log("orders", 0).batches[-1].fate is Fate.CONTROL


def test_an_open_transaction_holds_readers_until_the_take_over(client: Client, target: ModelCluster) -> None:
    held = client.take(TID)
    target.write("orders", 0, [b"before"])
    client.produce(TID, held, 0, "orders", 0, [b"open"])
    target.write("orders", 0, [b"after"])
    assert client.list_offset("orders", 0, -1) == (0, 3)
    assert client.list_offset("orders", 0, -1, committed=True) == (0, 1)
    assert [r.value for r in client.fetch("orders", 0, 0).records] == [b"before"]
    assert [r.value for r in client.fetch("orders", 0, 0, committed=False).records] == [b"before", b"open", b"after"]
    assert client.open_producers("orders", 0) == {held[0]: 1}
    client.take(TID)
    assert values(target) == [b"before", b"after"]
    assert client.open_producers("orders", 0) == {}


def test_the_aborted_index_names_first_offsets_and_the_abort_marker_ends_the_drop(
    client: Client, target: ModelCluster
) -> None:
    held = client.take(TID)
    kept = []
    for i in range(6):
        client.produce(TID, held, 0, "orders", 0, [b"%d" % i])
        commit = i % 3 == 0
        _, *after = client.end(TID, held, commit=commit)
        target.write_markers()
        held = (after[0], after[1])
        kept += [b"%d" % i] if commit else []
    assert values(target) == kept == [b"0", b"3"]
    found = client.fetch("orders", 0, 0)
    assert found.aborted == [(held[0], 2), (held[0], 4), (held[0], 8), (held[0], 10)]
    read = [r.value for r in client.read_committed("orders", 0) or ()]
    assert read == kept
    assert client.fetch("orders", 0, 6).aborted == [(held[0], 8), (held[0], 10)]
    assert client.fetch("orders", 0, 0, committed=False).aborted == []


def test_a_fetch_inside_a_batch_returns_the_whole_batch_and_cuts_the_last_one(client: Client) -> None:
    for _ in range(3):
        client.produce_raw(None, {("orders", 0): bytes(raw(4))})
    whole = client.fetch("orders", 0, 5)
    assert [r.offset for r in whole.records] == list(range(4, 12))
    size = len(raw(4))
    cut = client.fetch("orders", 0, 0, max_bytes=size + 20)
    assert len(cut.raw.records) == size + 20
    assert len(split(cut.raw.records)) == 1
    assert len(client.fetch("orders", 0, 0, max_bytes=10).raw.records) == size  # at least one batch


def test_a_fetch_ends_with_its_segment(client: Client, target: ModelCluster) -> None:
    target.create_topic("small", segment_batches=2)
    for i in range(5):
        target.write("small", 0, [b"%d" % i])
    assert [[r.offset for r in client.fetch("small", 0, start).records] for start in (0, 1, 2, 4)] == [
        [0, 1],
        [1],
        [2, 3],
        [4],
    ]


def test_a_stale_produce_leaves_no_trace_in_the_partition(client: Client, target: ModelCluster) -> None:
    """A partition that knows a newer epoch refuses at once: the owner's own next batch must not suffer from it."""
    old = client.take(TID)
    client.produce(TID, old, 0, "orders", 0, [b"zombie"])
    new = client.take(TID)
    assert client.produce(TID, new, 0, "orders", 0, [b"1"]).error == 0
    assert client.produce(TID, old, 1, "orders", 0, [b"zombie"]).error == 47
    assert client.produce(TID, new, 1, "orders", 0, [b"2"]).error == 0


def test_offsets_out_of_range(client: Client, target: ModelCluster) -> None:
    client.produce_raw(None, {("orders", 0): bytes(raw(4))})
    assert client.fetch("orders", 0, 4).error == 0
    assert client.fetch("orders", 0, 5).error == 1
    target.log("orders", 0).delete_until(2)
    assert client.fetch("orders", 0, 1).error == 1
    assert client.fetch("orders", 0, 2).error == 0
    assert client.list_offset("orders", 0, -2) == (0, 2)
    assert [r.offset for r in target.committed("orders", 0)] == [2, 3]


def test_a_topic_made_again_is_not_read_by_its_old_id(client: Client, target: ModelCluster) -> None:
    client.metadata("orders")
    target.write("orders", 0, [b"old"])
    assert [r.value for r in client.fetch("orders", 0, 0, version=17).records] == [b"old"]
    target.delete_topic("orders")
    target.create_topic("orders", 3)
    assert client.fetch("orders", 0, 0, version=17).error == 100
    assert client.fetch("orders", 0, 0, version=12).error == 0


def test_a_truncated_log_reports_the_diverging_epoch(client: Client, target: ModelCluster) -> None:
    for _ in range(3):
        target.write("orders", 0, [b"1", b"2"])
    target.log("orders", 0).truncate(4)
    found = client.fetch("orders", 0, 6, last_epoch=0)
    assert (found.raw.diverging_epoch.epoch, found.raw.diverging_epoch.end_offset) == (0, 4)
    assert client.fetch("orders", 0, 4, last_epoch=0).raw.diverging_epoch.end_offset == -1
    assert client.fetch("orders", 0, 0, leader_epoch=0).error == 74
    assert client.fetch("orders", 0, 0, leader_epoch=2).error == 75


def test_a_long_poll_ends_with_data_or_with_its_time(client: Client, target: ModelCluster, net: ModelNetwork) -> None:
    began = net.clock.now
    assert client.fetch("orders", 0, 0, max_wait_ms=500).records == []
    assert 0.5 <= net.clock.now - began < 0.51

    def produce(network: Owner) -> None:
        network.sleep(0.1)
        target.write("orders", 0, [b"x"])

    net.spawn("P", produce)
    began = net.clock.now
    assert [r.value for r in client.fetch("orders", 0, 0, max_wait_ms=500).records] == [b"x"]
    assert 0.1 <= net.clock.now - began < 0.11


def test_offsets_by_timestamp(client: Client, target: ModelCluster) -> None:
    target.write("orders", 0, [Record(0, 1000, None, b"a"), Record(0, 3000, None, b"b")])
    assert client.list_offset("orders", 0, 500) == (0, 0)
    assert client.list_offset("orders", 0, 1001) == (0, 1)
    assert client.list_offset("orders", 0, 3001) == (0, -1)
    assert client.list_offset("orders", 0, -3) == (0, 1)
    assert client.list_offset("nothing", 0, -1)[0] == 3


def test_leaders_move_and_metadata_says_where(net: ModelNetwork) -> None:
    cluster = ModelCluster("pair", nodes=2)
    cluster.create_topic("orders")
    with ModelNetwork(cluster) as net:
        one, two = (Client(net.local(), "pair", port) for port in (9092, 9093))
        assert one.metadata("orders").topics[0].partitions[0].leader_id == 1
        cluster.move_leader("orders", 0, 2)
        found = one.metadata("orders", "missing")
        assert found.topics[0].partitions[0].leader_id == 2
        assert int(found.topics[1].error_code) == 3
        assert one.produce_raw(None, {("orders", 0): bytes(raw())})[0].error == 6
        assert two.produce_raw(None, {("orders", 0): bytes(raw())})[0].error == 0
        assert one.fetch("orders", 0, 0).raw.current_leader.leader_id == 2
        cluster.nodes[2].up = False
        assert one.metadata("orders").topics[0].partitions[0].leader_id == -1
        with pytest.raises(ConnectionRefusedError):
            Client(net.local(), "pair", 9093)


def test_a_lost_marker_leaves_the_transaction_open_though_everybody_said_yes(
    client: Client, target: ModelCluster
) -> None:
    held = client.take(TID)
    client.produce(TID, held, 0, "orders", 0, [b"decided"])
    _, *after = client.end(TID, held, commit=True)
    assert target.lose_markers("orders", 0) == 1
    target.write_markers()
    assert client.init(TID)[0] == 0
    assert client.open_producers("orders", 0) == {held[0]: 0}
    # A later abort of the same producer id takes the decided records away.
    new = client.take(TID)
    client.produce(TID, new, 0, "orders", 0, [b"x"])
    client.end(TID, new, commit=False)
    target.write_markers()
    assert values(target) == []
    assert after[1] == held[1] + 1


def test_a_request_that_would_create_topics_fails_the_test(client: Client) -> None:
    module = requests(METADATA, 12)
    with pytest.raises(ModelError, match="allows the creation"):
        client.call(
            METADATA,
            12,
            module.MetadataRequest(
                topics=(), allow_auto_topic_creation=True, include_topic_authorized_operations=False
            ),
        )


def test_a_request_of_the_other_transactions_version_fails_the_test(client: Client) -> None:
    with pytest.raises(ModelError, match="Produce v11 is of transactions version 1, the cluster has finalised 2"):
        client.produce(TID, (1, 0), 0, "orders", 0, [b"x"], version=11)


def test_answers_on_demand(client: Client, target: ModelCluster) -> None:
    held = client.take(TID)
    target.inject("Produce", 19)
    assert client.produce(TID, held, 0, "orders", 0, [b"x"]).error == 19
    assert client.produce(TID, held, 0, "orders", 0, [b"x"]) == Produced(0, 0)
    target.inject("EndTxn", 16, after=True, where=lambda body: body.committed)
    assert client.end(TID, held, commit=True)[0] == 16
    target.write_markers()
    assert values(target) == [b"x"]
