"""From committed positions to routes at work: what is new or wrong is marked, what is unknown waits."""

from __future__ import annotations

import msgspec

from eomirror.adoption import Adopted, adopt
from eomirror.brokers import EARLIEST, LATEST, Producing
from eomirror.errors import Faulted, Reason
from eomirror.model import Orders, RouteKey
from eomirror.records import Fault, LaneRecord, PositionRecord, State
from eomirror.route import Route
from tests.fakes import NEW, OLD, FakeBrokers, Log, identities, lane_record, position, spec

KEY = ("orders", 0)
GAP = Fault(Reason.SOURCE_GAP, "gone", 5, 60)


class Flow:
    """Both clusters with one topic of one partition, and what a lane brings to its take-over."""

    def __init__(self, **fields: object) -> None:
        self.source, self.target = FakeBrokers("paris"), FakeBrokers("dublin")
        self.source.add("orders", Log(0, 500), topic_id=OLD)
        self.target.add("orders", Log(0, 300), topic_id=OLD)
        self.routes = {KEY: spec()}
        self.positions: dict[RouteKey, PositionRecord] = {KEY: position(100, target_end=300, **fields)}
        self.head: LaneRecord = lane_record(pinned_ms=1)
        self.carried: dict[RouteKey, Faulted] = {}
        self.barred: dict[RouteKey, str] = {}

    def adopt(self) -> Adopted:
        return adopt(
            self.source,
            self.target,
            self.target.metadata(),
            Orders(self.routes),
            self.positions,
            self.head,
            identities(),
            self.carried,
            self.barred,
            77,
        )

    def only(self) -> Route:
        adopted = self.adopt()
        assert adopted.waiting == set()
        assert set(adopted.routes) == {KEY}
        return adopted.routes[KEY]


def _now(route: Route) -> tuple[State, int | None, bool]:
    return route.state, route.leader, route.changed


def test_a_route_goes_on_from_its_position_unchanged() -> None:
    route = Flow().only()
    assert _now(route) == (State.ACTIVE, 1, False)
    assert (route.next_offset, route.target_end, route.max_batch_bytes) == (100, 300, 1_000_000)


def test_a_new_route_is_pinned_and_must_be_committed() -> None:
    flow = Flow()
    flow.positions, flow.target.logs[KEY] = {}, Log()
    flow.source.logs[KEY] = Log(4, 9)
    route = flow.only()
    assert _now(route) == (State.ACTIVE, 1, True)
    assert route.position(0, ledgered=False) == position(4, transaction=0)


def test_a_topic_that_turns_up_later_begins_at_its_beginning() -> None:
    flow = Flow()
    flow.positions, flow.target.logs[KEY] = {}, Log()
    flow.routes = {KEY: spec(start=LATEST)}
    assert flow.only().next_offset == 0
    flow.head = lane_record(pinned_ms=None)
    assert flow.only().next_offset == 500
    flow.routes = {KEY: spec(start=EARLIEST)}
    assert flow.only().next_offset == 0


def test_a_new_route_waits_until_its_source_answers() -> None:
    flow = Flow()
    flow.positions, flow.target.logs[KEY] = {}, Log()
    flow.source.away.add(KEY)
    assert flow.adopt() == Adopted({}, {KEY}, {})


def test_a_route_without_a_leader_is_retried_and_waits() -> None:
    flow = Flow()
    flow.target.leaderless.add(KEY)
    adopted = flow.adopt()
    assert _now(adopted.routes[KEY]) == (State.RETRYING, None, True)
    assert adopted.waiting == {KEY}


def test_a_route_is_active_again_as_soon_as_there_is_a_leader() -> None:
    assert _now(Flow(state=State.RETRYING).only()) == (State.ACTIVE, 1, True)


def test_a_position_outside_the_orders_is_kept_and_nobody_waits_for_it() -> None:
    flow = Flow()
    flow.routes = {}
    flow.target.leaderless.add(KEY)
    adopted = flow.adopt()
    assert _now(adopted.routes[KEY]) == (State.RETRYING, None, True)
    assert adopted.waiting == set()


def test_a_faulted_route_stays_as_it_is() -> None:
    route = Flow(state=State.FAULTED, fault=GAP).only()
    assert _now(route) == (State.FAULTED, None, False)
    assert route.fault == GAP


def test_a_paused_route_stays_so_while_the_source_lacks_its_topic() -> None:
    flow = Flow(state=State.PAUSED)
    flow.routes = {}
    assert _now(flow.only()) == (State.PAUSED, None, False)


def test_a_paused_route_stays_so_while_its_topic_is_known_to_be_gone() -> None:
    flow = Flow(state=State.PAUSED)
    flow.routes = {KEY: msgspec.structs.replace(flow.routes[KEY], gone=True)}
    assert _now(flow.only()) == (State.PAUSED, None, False)


def test_a_paused_route_goes_on_when_the_source_has_its_topic_again() -> None:
    assert _now(Flow(state=State.PAUSED).only()) == (State.ACTIVE, 1, True)


def test_a_paused_route_whose_topic_was_made_anew_says_so() -> None:
    flow = Flow(state=State.PAUSED)
    flow.routes = {KEY: msgspec.structs.replace(flow.routes[KEY], source_topic_id=NEW)}
    route = flow.only()
    assert _now(route) == (State.FAULTED, None, True)
    assert route.fault is not None
    assert (route.fault.reason, route.fault.next_offset) == (Reason.SOURCE_RECREATED, 0)


def test_an_obstacle_on_the_target_faults_the_route() -> None:
    flow = Flow()
    flow.routes = {KEY: msgspec.structs.replace(flow.routes[KEY], obstacle="would change every timestamp")}
    route = flow.only()
    assert route.fault is not None
    assert (route.fault.reason, route.fault.detail) == (Reason.TARGET_REFUSED, "would change every timestamp")
    assert (route.leader, route.changed) == (None, True)


def test_a_fault_is_not_overwritten_by_a_later_one() -> None:
    flow = Flow(state=State.FAULTED, fault=GAP)
    flow.target.ids["orders"] = NEW
    flow.carried = {KEY: Faulted(*KEY, Reason.TARGET_REFUSED, "no")}
    assert flow.only().fault == GAP


def test_a_carried_fault_is_committed_by_the_next_take_over() -> None:
    flow = Flow()
    flow.carried = {KEY: Faulted(*KEY, Reason.RECORD_TOO_LARGE, "too large", offset=100, next_offset=110)}
    route = flow.only()
    assert _now(route) == (State.FAULTED, None, True)
    assert route.fault == Fault(Reason.RECORD_TOO_LARGE, "too large", 77, 110)


def test_a_target_that_lost_committed_records_is_not_written() -> None:
    flow = Flow()
    flow.target.logs[KEY] = Log(0, 298)
    route = flow.only()
    assert _now(route) == (State.FAULTED, None, True)
    detail = "the target ends at offset 298, 2 records before what was committed there"
    assert route.fault == Fault(Reason.TARGET_RECREATED, detail, 77, 100)


def test_a_target_that_grew_by_markers_is_as_it_should_be() -> None:
    flow = Flow()
    flow.target.logs[KEY] = Log(0, 301)
    assert _now(flow.only()) == (State.ACTIVE, 1, False)


def test_a_target_that_cannot_say_where_it_ends_is_retried() -> None:
    """The leader answers DescribeProducers and then goes away: nothing is written on a guess."""
    flow = Flow()
    flow.target.away.add(KEY)
    adopted = flow.adopt()
    assert _now(adopted.routes[KEY]) == (State.RETRYING, None, True)
    asked = flow.target.producers
    flow.target.producers = lambda metadata, wanted: {key: [] for key in asked(metadata, wanted)}
    assert _now(flow.adopt().routes[KEY]) == (State.RETRYING, None, True)


def test_lost_markers_and_recreated_topics_are_faults() -> None:
    flow = Flow()
    flow.target.logs[KEY].producers = [Producing(70, 9, 290)]
    assert flow.only().fault.reason is Reason.MARKER_LOST
    flow.target.ids["orders"] = NEW
    assert flow.only().fault.reason is Reason.TARGET_RECREATED


def test_a_carried_fault_further_on_lets_the_route_come_there() -> None:
    flow = Flow()
    fault = Faulted(*KEY, Reason.TARGET_REFUSED, "no", offset=130, next_offset=140)
    flow.carried = {KEY: fault}
    route = flow.only()
    assert _now(route) == (State.ACTIVE, 1, False)
    assert route.halt is fault
