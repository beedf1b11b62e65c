"""The plan for the target's topics: pure, from one look at both clusters."""

from __future__ import annotations

import msgspec
import pytest

from eomirror.brokers import EARLIEST, LATEST, Leader, Metadata, Topic
from eomirror.config import FlowConfig, Instant, TopicsConfig
from eomirror.errors import BrokerError, Refused
from eomirror.model import RouteSpec
from eomirror.topology import (
    BROKER_DEFAULT,
    Create,
    Grow,
    Look,
    Plan,
    TopicConfig,
    check_internal,
    internal_creates,
    not_empty,
    plan,
)
from tests.fakes import NEW, OLD, FakeBrokers, Log

LIMIT = {"max.message.bytes": "1000"}


def _flow(factor: int | str = "broker", start: object = "earliest", lanes: int = 4) -> FlowConfig:
    return FlowConfig(
        name="dr",
        source="paris",
        target="dublin",
        topics=TopicsConfig(include=("orders.*",), replication_factor=factor),
        start=start,
        lanes=lanes,
    )


def _topic(name: str, partitions: int, topic_id: str = OLD, replication: int = 3) -> Topic:
    return Topic(name, topic_id, {p: Leader(1, 0) for p in range(partitions)}, replication)


def _look(
    source: dict[str, int],
    target: dict[str, int],
    here: dict[str, str] | None = None,
    there: dict[str, str] | None = None,
    errors: dict[str, int] | None = None,
) -> Look:
    """Topics by their number of partitions; `here` are overrides of every source topic, `there` of every target's."""

    def metadata(topics: dict[str, int], topic_id: str, errors: dict[str, int]) -> Metadata:
        described = {name: _topic(name, count, topic_id) for name, count in topics.items()}
        return Metadata("C", {}, described, frozenset(), errors)

    def configs(topics: dict[str, int], overrides: dict[str, str] | None) -> dict[str, TopicConfig]:
        return {name: TopicConfig(overrides or {}, LIMIT | (overrides or {})) for name in topics}

    return Look(
        metadata(source, OLD, {}), metadata(target, NEW, errors or {}), configs(source, here), configs(target, there)
    )


def _created(look: Look, flow: FlowConfig | None = None) -> Create:
    planned = plan(flow or _flow(), look)
    [create] = planned.creates
    assert planned == _expected(creates=(create,))
    return create


def _expected(*topics: str, **fields: object) -> Plan:
    """A plan for a source that has these topics, or `orders` alone."""
    return Plan(seen=frozenset(topics or {"orders"}), **fields)


def test_patterns_that_match_nothing_are_a_warning() -> None:
    assert plan(_flow(), _look({}, {})) == Plan(warnings=("no topic of the source matches topics.include",))


def test_a_missing_topic_is_created_and_routed_only_when_it_is_there() -> None:
    create = _created(_look({"orders": 3}, {}, {"retention.ms": "5", "cleanup.policy": "compact"}))
    assert create == Create(
        "orders",
        3,
        BROKER_DEFAULT,
        {"retention.ms": "5", "cleanup.policy": "compact", "message.timestamp.type": "CreateTime"},
    )


def test_every_partition_that_is_on_both_sides_is_a_route() -> None:
    planned = plan(_flow(), _look({"orders": 2, "orders-eu": 1}, {"orders": 5, "orders-eu": 1}))
    routes = [
        RouteSpec(name, p, OLD, EARLIEST, 1000, NEW) for name, p in (("orders", 0), ("orders", 1), ("orders-eu", 0))
    ]
    assert planned == _expected("orders", "orders-eu", routes={route.key: route for route in routes})


def test_a_target_with_fewer_partitions_grows() -> None:
    planned = plan(_flow(), _look({"orders": 3}, {"orders": 1}))
    assert planned == _expected(
        grows=(Grow("orders", 3),), routes={("orders", 0): RouteSpec("orders", 0, OLD, EARLIEST, 1000, NEW)}
    )


@pytest.mark.parametrize(
    "key",
    [
        "leader.replication.throttled.replicas",
        "follower.replication.throttled.replicas",
        "remote.storage.enable",
        "remote.log.copy.disable",
    ],
)
def test_what_belongs_to_one_clusters_brokers_is_not_copied(key: str) -> None:
    create = _created(_look({"orders": 1}, {}, {key: "true", "segment.ms": "7"}))
    assert create.configs == {"segment.ms": "7", "message.timestamp.type": "CreateTime"}


@pytest.mark.parametrize("kind", ["LogAppendTime", "CreateTime"])
def test_a_created_topic_keeps_the_records_timestamps(kind: str) -> None:
    create = _created(_look({"orders": 1}, {}, {"message.timestamp.type": kind}))
    assert create.configs == {"message.timestamp.type": "CreateTime"}


def test_defaults_of_the_source_are_not_copied() -> None:
    look = _look({"orders": 1}, {})
    look.source_configs["orders"] = TopicConfig({}, {"retention.ms": "5", "max.message.bytes": "9"})
    assert _created(look).configs == {"message.timestamp.type": "CreateTime"}


@pytest.mark.parametrize(("factor", "replication"), [("broker", BROKER_DEFAULT), ("source", 3), (1, 1), (5, 5)])
def test_the_replication_factor(factor: int | str, replication: int) -> None:
    assert _created(_look({"orders": 1}, {}), _flow(factor)).replication_factor == replication


@pytest.mark.parametrize(
    ("factor", "needed", "copied"),
    [
        ("source", 3, True),
        ("source", 4, False),
        (2, 2, True),
        (2, 3, False),
        (1, 2, False),
        ("broker", 1, False),  # how many replicas the target's default gives is not known here
    ],
)
def test_more_in_sync_replicas_than_replicas_are_never_asked_for(factor: int | str, needed: int, copied: bool) -> None:
    create = _created(_look({"orders": 1}, {}, {"min.insync.replicas": str(needed)}), _flow(factor))
    assert create.configs.get("min.insync.replicas") == (str(needed) if copied else None)


def test_a_target_that_changes_timestamps_is_an_obstacle_and_left_alone() -> None:
    planned = plan(_flow(), _look({"orders": 3}, {"orders": 1}, there={"message.timestamp.type": "LogAppendTime"}))
    obstacle = "the target topic has message.timestamp.type=LogAppendTime and would change every timestamp"
    spec = RouteSpec("orders", 0, OLD, EARLIEST, 1000, NEW, obstacle)
    assert planned == _expected(problems=(f"orders: {obstacle}",), routes={spec.key: spec})


def test_a_target_that_is_not_described_is_not_created() -> None:
    planned = plan(_flow(), _look({"orders": 1}, {}, errors={"orders": 29}))
    assert planned == _expected(problems=("orders: the target does not describe it (TOPIC_AUTHORIZATION_FAILED (29))",))


def test_a_smaller_limit_on_the_target_is_a_warning() -> None:
    planned = plan(_flow(), _look({"orders": 1}, {"orders": 1}, {"max.message.bytes": "2000"}))
    assert planned.warnings == (
        "orders: max.message.bytes is 1000 on the target and 2000 on the source; a larger batch will be split, a "
        "larger record will fault its partition",
    )
    assert [route.max_batch_bytes for route in planned.routes.values()] == [1000]


def test_a_compacted_target_of_a_source_that_is_not_is_a_warning() -> None:
    planned = plan(_flow(), _look({"orders": 1}, {"orders": 1}, there={"cleanup.policy": "compact,delete"}))
    assert planned.warnings == (
        "orders: the target is compacted and the source is not; a record without a key will be refused",
    )
    both = {"cleanup.policy": "compact"}
    assert plan(_flow(), _look({"orders": 1}, {"orders": 1}, both, both)).warnings == ()


def test_topics_that_one_broken_machine_can_empty_are_a_warning_per_kind() -> None:
    names = ["a", "b", "c", "d"]
    there = {"min.insync.replicas": "1", "unclean.leader.election.enable": "true"}
    look = _look(dict.fromkeys(names, 1), dict.fromkeys(names, 1), there=there)
    look.target.topics["b"] = msgspec.structs.replace(look.target.topics["b"], replication=1)
    lost = "; a broker that is lost can take committed records with it"
    assert plan(_flow(), look).warnings == (
        f"on the target, replication factor below 3: b{lost}",
        f"on the target, min.insync.replicas below 2: a, b, c and 1 more{lost}",
        f"on the target, unclean.leader.election.enable=true: a, b, c and 1 more{lost}",
    )


@pytest.mark.parametrize("side", ["source_configs", "target_configs"])
def test_a_limit_that_nobody_told_is_no_warning(side: str) -> None:
    look = _look({"orders": 1}, {"orders": 1})
    getattr(look, side)["orders"] = TopicConfig({}, {})
    assert plan(_flow(), look).warnings == ()


@pytest.mark.parametrize(
    ("start", "offset"), [("earliest", EARLIEST), ("latest", LATEST), (Instant(1_700_000_000_000), 1_700_000_000_000)]
)
def test_where_routes_start(start: object, offset: int) -> None:
    [route] = plan(_flow(start=start), _look({"orders": 1}, {"orders": 1})).routes.values()
    assert route.start == offset


def test_the_plan_changes_nothing_and_is_the_same_every_time() -> None:
    look = _look({"orders": 3, "orders-eu": 1}, {"orders": 1}, {"min.insync.replicas": "2"})
    before = msgspec.json.encode(look)
    assert plan(_flow(), look) == plan(_flow(), look)
    assert msgspec.json.encode(look) == before


# --- internal topics


def test_the_four_internal_topics() -> None:
    common = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "16777216"}
    assert internal_creates(_flow(2)) == (
        Create(
            "__eomirror.dr.checkpoint",
            4,
            2,
            common
            | {
                "cleanup.policy": "compact",
                "segment.bytes": "8388608",
                "min.cleanable.dirty.ratio": "0.1",
                "max.compaction.lag.ms": "3600000",
            },
        ),
        Create("__eomirror.dr.producers", 4, 2, common | {"cleanup.policy": "compact"}),
        Create("__eomirror.dr.ledger", 4, 2, common | {"cleanup.policy": "delete", "retention.ms": "2592000000"}),
        Create("__eomirror.dr.control", 1, 2, common | {"cleanup.policy": "compact"}),
    )
    for factor in ("broker", "source"):
        assert {create.replication_factor for create in internal_creates(_flow(factor))} == {BROKER_DEFAULT}


def _internal(**partitions: int) -> Metadata:
    counts = {"checkpoint": 4, "producers": 4, "ledger": 4, "control": 1} | partitions
    topics = {f"__eomirror.dr.{part}": _topic(f"__eomirror.dr.{part}", n) for part, n in counts.items() if n}
    return Metadata("C", {}, topics, frozenset(), {})


def test_internal_topics_that_are_large_enough_are_fine() -> None:
    check_internal(_flow(), _internal(), "dublin")
    check_internal(_flow(), _internal(ledger=9, control=2), "dublin")


@pytest.mark.parametrize("part", ["checkpoint", "producers", "ledger", "control"])
def test_a_missing_internal_topic_is_refused(part: str) -> None:
    with pytest.raises(Refused) as caught:
        check_internal(_flow(), _internal(**{part: 0}), "dublin")
    assert caught.value.message == (
        f"cluster dublin: internal topic __eomirror.dr.{part} is missing, others of flow dr exist"
    )
    assert caught.value.hint == (
        "Where this flow stands would be unknown. Bring the topic back before you start the flow."
    )


@pytest.mark.parametrize("part", ["checkpoint", "producers", "ledger"])
def test_an_internal_topic_with_too_few_partitions_is_refused(part: str) -> None:
    with pytest.raises(Refused) as caught:
        check_internal(_flow(), _internal(**{part: 3}), "dublin")
    assert caught.value.message == f"cluster dublin: __eomirror.dr.{part} has 3 partitions, flow dr needs 4"
    assert caught.value.hint == "Set lanes: 3 for this flow; the lane count is fixed at its first start."


def test_which_target_partitions_hold_something() -> None:
    target = FakeBrokers()
    target.add("orders", Log(0, 0), Log(5, 9), Log(7, 7))
    target.add("orders-eu", Log(0, 1))
    assert not_empty(target, target.metadata(), ["orders", "orders-eu", "absent"]) == ["orders[1]", "orders-eu[0]"]


def test_a_partition_that_cannot_be_asked_is_not_empty_but_unknown() -> None:
    target = FakeBrokers()
    target.add("orders", Log(0, 0))
    target.away.add(("orders", 0))
    with pytest.raises(BrokerError, match=r"orders\[0\]: NOT_LEADER_OR_FOLLOWER \(6\)"):
        not_empty(target, target.metadata(), ["orders"])
