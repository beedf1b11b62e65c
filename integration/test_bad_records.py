"""`on_bad_record`: a record that the target refuses is left out alone, told, counted, and kept where that is set."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from .cluster import Cluster
from .fleet import both_versions
from .process import Eomirror
from .promise import SMALL, catch_up, contents, faults, ledger_records, log_events, moved, positions, values, wait_until

pytestmark = both_versions

POLICIES = ("quarantine", "drop")


def write(source: Cluster, topic: str, first: int, count: int, bad: set[int], large: int | None = None) -> None:
    """Batches of about a hundred records; those in `bad` have no key, which a compacted topic refuses."""
    producer = source.producer({"linger.ms": 200, "batch.num.messages": 100, "compression.type": "lz4"})
    for number in range(first, first + count):
        value = b"%d" % number + (random.Random(number).randbytes(6000) if number == large else b"")
        producer.produce(
            topic,
            value,
            None if number in bad else b"k%d" % number,
            timestamp=1_700_000_000_000,
            headers=[("n", b"%d" % number)],
        )
    assert producer.flush(30) == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_bad_records_are_left_out_alone(
    policy: str, source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.mixed"
    source.create_topic(topic, 1)
    target.create_topic(topic, 1, {"cleanup.policy": "compact", "max.message.bytes": 4000})
    bad, large = {7, 8, 150, 399}, 250
    write(source, topic, 0, 400, bad, large)
    config = flow_config(**SMALL | {"lanes": 1}, on_bad_record=policy)
    run = catch_up(eomirror, config)
    ours = contents(source, [topic])[topic, 0]
    theirs = contents(target, [topic])[topic, 0]
    left_out = sorted({*bad, large})
    assert [c for _, c in theirs] == [c for offset, c in ours if offset not in left_out]
    event = "record.quarantined" if policy == "quarantine" else "record.dropped"
    told = {one["offset"]: one["reason"] for one in log_events(run) if one["event"] == event}
    assert told == dict.fromkeys(bad, "TARGET_REFUSED") | {large: "RECORD_TOO_LARGE"}
    assert faults(config) == {}

    tallies = [
        route.tally for entries in ledger_records(config, target).values() for _, r in entries for route in r.routes
    ]
    gaps = [offset for tally in tallies for gap in tally.gaps for offset in range(gap.first, gap.next)]
    assert gaps == left_out
    counted = sum(t.quarantined for t in tallies), sum(t.dropped for t in tallies)
    assert counted == ((5, 0) if policy == "quarantine" else (0, 5))

    quarantine = f"__eomirror.{name}.quarantine"
    assert (quarantine in target.topics()) is (policy == "quarantine")
    if policy == "quarantine":
        kept = contents(target, [quarantine])[quarantine, 0]
        by_offset = dict(ours)
        for offset, (_, (key, value, headers, _)) in zip(left_out, kept, strict=True):
            assert (key, value, headers[:1]) == by_offset[offset][:3]
            assert dict(headers)["eomirror.origin"] == f"source/{topic}/0/{offset}".encode()
            assert dict(headers)["eomirror.reason"] == told[offset].encode()
            assert dict(headers)["eomirror.timestamp"] == b"1700000000000"

    assert moved(catch_up(eomirror, config)) == 0
    assert [c for _, c in contents(target, [topic])[topic, 0]] == [c for _, c in theirs]
    answer = eomirror("verify", name, "-o", "json", config=config).expect(0).json()["items"][0]
    assert (answer["equal"], answer["different"]) == (395, 0)
    words = eomirror("translate", name, topic, "0", "150", config=config).expect(0).stdout
    assert f"source offset 150 was left out: TARGET_REFUSED, on_bad_record: {policy}" in words


@pytest.mark.parametrize("policy", POLICIES)
def test_killed_among_bad_records(
    policy: str, source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topic = f"{name}.killed"
    source.create_topic(topic, 1)
    target.create_topic(topic, 1, {"cleanup.policy": "compact"})
    bad = set(range(3, 1000, 90))
    write(source, topic, 0, 1000, bad)
    config = flow_config(**SMALL | {"lanes": 1}, on_bad_record=policy)
    for step in ("acked:4", "ledger:6", "end_sent:5", "end_answered:7"):
        run = eomirror("run", "--until-caught-up", config=config, env={"EOMIRROR_TEST_KILL_AT": step})
        assert run.code in (-signal.SIGKILL, 0)
    catch_up(eomirror, config)
    wanted = [c for offset, c in contents(source, [topic])[topic, 0] if offset not in bad]
    assert [c for _, c in contents(target, [topic])[topic, 0]] == wanted
    if policy == "quarantine":
        assert values(target, f"__eomirror.{name}.quarantine") == [b"%d" % number for number in sorted(bad)]


def test_a_policy_that_is_set_later_settles_what_comes(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    """What was FAULTED before stays so until a person decides: `fault retry` leaves it to the policy."""
    topic = f"{name}.later"
    source.create_topic(topic, 1)
    target.create_topic(topic, 1, {"cleanup.policy": "compact"})
    write(source, topic, 0, 20, {5})
    config = flow_config(**SMALL)
    catch_up(eomirror, config, code=7)
    config = flow_config(**SMALL, on_bad_record="quarantine")
    catch_up(eomirror, config, code=7)
    eomirror("fault", "retry", name, topic, "0", "--yes", config=config).expect(0)
    catch_up(eomirror, config)
    wait_until(lambda: positions(config)[topic, 0].next_offset == 20)
    assert values(target, topic) == [b"%d" % number for number in range(20) if number != 5]
    lanes = contents(target, [f"__eomirror.{name}.quarantine"]).values()
    assert [value for records in lanes for _, (_, value, _, _) in records] == [b"5"]
