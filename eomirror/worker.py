"""One flow in one process: what must be true before it starts, its lanes, the look-outs, the end.

All lanes run here; the newest process has them (the broker sees to that). A group that spreads lanes over processes
only has to call `assign` with fewer lanes.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import msgspec

from eomirror import checkpoint, logs, records, topology
from eomirror.brokers import EARLIEST, Metadata
from eomirror.checkpoint import InternalTopics
from eomirror.clusters import Cluster, require_transactions
from eomirror.config import FlowConfig
from eomirror.control import Control
from eomirror.errors import BrokerError, ConnectionLost, EomirrorError, Exit, Fenced, Preflight, Reason, Refused, Rewind
from eomirror.identity import prefix
from eomirror.lane import Lane
from eomirror.model import LaneView, Lease, Orders, RouteKey, RouteSpec, lane_of
from eomirror.pacing import Pace
from eomirror.quarantine import needed
from eomirror.records import Desired, FlowRecord, Owner, State
from eomirror.source import Source
from eomirror.topology import Plan
from eomirror.transaction import Transactions, Write
from eomirror.units import wall_ms

log = logs.get("worker")

CONTROL_SECONDS: Final = 2.0
PROGRESS_SECONDS: Final = 10.0
CLAIM_ATTEMPTS: Final = 10
START_SECONDS: Final = 15.0
T = TypeVar("T")
# Faults that mean that the source no longer has what the flow has not mirrored yet.
SOURCE_FAULTS: Final = frozenset({Reason.SOURCE_GAP, Reason.SOURCE_TRUNCATED, Reason.SOURCE_RECREATED})


def this_process() -> Owner:
    """Who we are, to whoever finds our lanes taken."""
    return Owner(socket.gethostname(), os.getpid(), uuid.uuid4().hex, wall_ms())


class Worker:
    """Runs the lanes of one flow. `start` and `stop` may be called from any thread."""

    def __init__(
        self, flow: FlowConfig, source: Cluster, target: Cluster, owner: Owner, step: Callable[[str], None]
    ) -> None:
        self.flow = flow
        self._source = source
        self._target = target
        self._owner = owner
        self._step = step
        self._topics = InternalTopics.of(flow.name)
        self._source_brokers = source.brokers(f"{flow.name}-worker")
        self._target_brokers = target.brokers(f"{flow.name}-worker")
        self._lanes: dict[int, Lane] = {}
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._stopping = threading.Event()
        self._ordering = threading.Lock()
        self._told: set[str] = set()
        self._checkpoint_id = ""
        self._problems: tuple[str, ...] = ()
        self._specs: dict[RouteKey, RouteSpec] = {}
        self._desired: dict[RouteKey, Desired] = {}
        self._control = Control(self._target_brokers, flow.name)

    # --- before

    def survey(self) -> Plan:
        """Look at both clusters and check that the flow may run on them; changes nothing.

        Raises Preflight, Refused, ConnectionLost, BrokerError.
        """
        require_transactions(self._target_brokers)
        seen = topology.look(self.flow, self._source, self._target, self._source_brokers, self._target_brokers)
        if seen.source.cluster_id == seen.target.cluster_id:
            raise Preflight(
                f"flow {self.flow.name}: {self.flow.source} and {self.flow.target} are the same cluster "
                f"({seen.source.cluster_id})",
                hint="Topics keep their names, so a flow needs two clusters. Check both bootstrap addresses.",
            )
        flow_record = self._flow_record(seen.target)
        if flow_record is None:
            self._refuse_unknown_data(seen.target, seen.source.topics)
        else:
            self._same_flow(flow_record, seen.source.cluster_id, seen.target.cluster_id)
            topology.check_internal(self.flow, seen.target, self._target.name)
        return topology.plan(self.flow, seen)

    def _flow_record(self, metadata: Metadata) -> FlowRecord | None:
        """The flow as it was fixed at its first start; None if it never started."""
        present = [name for name in self._topics.names() if name in metadata.topics]
        failed = [name for name in self._topics.names() if name in metadata.errors]
        if failed:
            raise BrokerError(f"cluster {self._target.name}: describing {failed[0]}", metadata.errors[failed[0]])
        if self._topics.checkpoint not in present:
            if topology.not_empty(self._target_brokers, metadata, [self._topics.ledger]):
                raise Refused(
                    f"cluster {self._target.name}: {self._topics.checkpoint} is missing, but {self._topics.ledger} "
                    "holds what this flow has mirrored",
                    hint="Restore the checkpoint topic; or delete the flow's other internal topics to begin anew.",
                )
            return None
        state = checkpoint.look_lane(self._target_brokers, metadata, self._topics, 0)
        if state.flow is None and state.lane is not None:
            raise Refused(
                f"cluster {self._target.name}: {self._topics.checkpoint} has a lane's checkpoint but no flow record",
                hint="Records of this topic were deleted. Where the flow stands is unknown; restore the topic.",
            )
        return state.flow

    def _same_flow(self, flow: FlowRecord, source_id: str, target_id: str) -> None:
        for side, name, was, now in (
            ("source", self.flow.source, flow.source_cluster_id, source_id),
            ("target", self.flow.target, flow.target_cluster_id, target_id),
        ):
            if was != now:
                raise Refused(
                    f"flow {self.flow.name}: {side} {name} is cluster {now}, the flow was started with {was}",
                    hint="Another cluster answers at this address. Correct clusters."
                    f"{name}.bootstrap, or give the flow a new name to begin anew.",
                )
        if flow.lanes != self.flow.lanes:
            raise Refused(
                f"flow {self.flow.name}: lanes is {self.flow.lanes} in the configuration, the flow was started "
                f"with {flow.lanes}",
                hint=f"Set lanes: {flow.lanes}. The count decides which lane owns a partition and is fixed at the "
                "first start.",
            )

    def _refuse_unknown_data(self, metadata: Metadata, topics: Iterable[str]) -> None:
        held = topology.not_empty(self._target_brokers, metadata, topics)
        if held:
            more = f" and {len(held) - 3} more" if len(held) > 3 else ""
            raise Refused(
                f"flow {self.flow.name} has no checkpoint on {self._target.name}, but {', '.join(held[:3])}{more} "
                "there hold records",
                hint="Starting from zero could double them. If the checkpoint topic was deleted, restore it; "
                "otherwise empty or exclude these topics.",
            )

    def claim(self) -> None:
        """Create what is missing and commit the flow record, once. Two first starts at the same time agree."""
        names = needed(self._topics, self.flow.on_bad_record)
        metadata = self._target_brokers.metadata(names)
        if any(name not in metadata.topics for name in names):
            refused = topology.create_topics(self._target, self._target_brokers, topology.internal_creates(self.flow))
            if refused:
                raise Preflight(refused[0], hint="A flow's first start creates its internal topics on its target.")
        for attempt in range(CLAIM_ATTEMPTS):
            transactions = Transactions(
                self._target_brokers,
                f"eomirror.{self.flow.name}.flow",
                transaction_timeout_ms=self.flow.commit.transaction_timeout.ms,
                step=lambda _step: None,
            )
            try:
                self._claim_once(transactions)
                return
            except (Rewind, Fenced, BrokerError) as error:
                if attempt == CLAIM_ATTEMPTS - 1:
                    raise Preflight(f"cluster {self._target.name}: flow record: {error.message}") from error
                self._stopping.wait(0.1 * 2**attempt)
            finally:
                transactions.close()

    def _claim_once(self, transactions: Transactions) -> None:
        metadata = self._target_brokers.metadata(self._topics.names())
        topology.check_internal(self.flow, metadata, self._target.name)
        self._checkpoint_id = metadata.topics[self._topics.checkpoint].topic_id
        transactions.take(metadata)
        state = checkpoint.look_lane(self._target_brokers, metadata, self._topics, 0)
        source_id = self._source_brokers.metadata([]).cluster_id
        if state.flow is None:
            record = FlowRecord(
                v=records.VERSION,
                flow=self.flow.name,
                source_cluster_id=source_id,
                target_cluster_id=metadata.cluster_id,
                lanes=self.flow.lanes,
                created_ms=wall_ms(),
            )
            transactions.begin(0)
            entry = (records.flow_key(), records.encode(record))
            transactions.record([Write(self._topics.checkpoint, 0, [entry])], wall_ms())
            transactions.commit()
            log.info("flow.created", flow=self.flow.name, lanes=self.flow.lanes)
        else:
            self._same_flow(state.flow, source_id, metadata.cluster_id)

    # --- while it runs

    def start(self, planned: Plan) -> None:
        """Claim the flow, carry the plan out, start every lane."""
        self.claim()
        self._specs = self._patiently(self._mirrored)
        self._adopt(self._patiently(self._discover) if planned.creates or planned.grows else planned)
        try:
            self._patiently(self._read_control)
        except Refused as error:
            self._tell(error.message, log.error, "control.refused")
        source_id = self._source_brokers.metadata([]).cluster_id
        for number in range(self.flow.lanes):
            self._lanes[number] = self._make_lane(number, source_id)
        if self._stopping.is_set():  # a signal that came before there were lanes
            self.stop()
        for number, lane in self._lanes.items():
            thread = threading.Thread(
                target=self._guard, args=(lane.run,), name=f"{self.flow.name}/{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self.close()
        for look_out in (self._watch_topics, self._watch_control):
            threading.Thread(
                target=self._guard, args=(look_out,), name=f"{self.flow.name}/{look_out.__name__[1:]}", daemon=True
            ).start()

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask again for a while: a topic that was just created has no leader on every broker yet."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return ask()
            except (BrokerError, ConnectionLost):
                if time.monotonic() >= deadline or self._stopping.wait(0.2):
                    raise

    def stop(self) -> None:
        """Let every lane finish its open transaction and end."""
        self._stopping.set()
        for lane in self._lanes.values():
            lane.stop.set()

    def close(self) -> None:
        """Drop the connections of `survey`: for a plan that is only looked at, or when the look-outs open their own."""
        self._source_brokers.close()
        self._target_brokers.close()

    @property
    def alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    @property
    def failure(self) -> BaseException | None:
        """What ended a lane against its will, None while all is well."""
        return self._failure

    def views(self) -> list[LaneView]:
        return [lane.view for lane in self._lanes.values()]

    def caught_up(self) -> bool:
        """Every route that can go on has mirrored all that was committed when it last asked."""
        return all(view.caught_up for view in self.views())

    def outcome(self) -> Exit:
        """The exit code of a run that ended by itself: faults of the source count most."""
        if self._failure is not None:
            return self._failure.exit_code if isinstance(self._failure, EomirrorError) else Exit.BUG
        reasons = {route.reason for view in self.views() for route in view.routes if route.state is State.FAULTED}
        if reasons & SOURCE_FAULTS:
            return Exit.GAP
        return Exit.REFUSED if reasons or self._problems else Exit.OK

    def _make_lane(self, number: int, source_cluster_id: str) -> Lane:
        role = f"{self.flow.name}-{number}"
        target = self._target.brokers(role)
        commit = self.flow.commit
        return Lane(
            Lease(
                self.flow.name,
                number,
                source_cluster_id,
                self._owner,
                self._checkpoint_id,
                self.flow.source,
                self.flow.transform,
                self.flow.on_bad_record,
            ),
            Source(self._source.brokers(role), max_bytes=self.flow.fetch.max_bytes, rack=self._source.rack),
            self._source.brokers(role),
            target,
            Transactions(
                target,
                prefix(self.flow.name, number),
                transaction_timeout_ms=commit.transaction_timeout.ms,
                step=self._step,
            ),
            Pace(
                None if commit.interval is None else commit.interval.seconds, commit.max_bytes, commit.max_age.seconds
            ),
            self._step,
            self._orders(number),
        )

    def _guard(self, run: Callable[[], None]) -> None:
        """A thread that ends against its will ends the flow, loudly: nothing keeps saying that it runs."""
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - carried to the main thread, which raises it
            self._failure = self._failure or error
            self.stop()

    # --- the look-outs

    def _watch_topics(self) -> None:
        """Discovery, on its own connections."""
        self._source_brokers = self._source.brokers(f"{self.flow.name}-watch")
        self._target_brokers = self._target.brokers(f"{self.flow.name}-watch")
        self._again_and_again(lambda: self._adopt(self._discover()), self.flow.discovery.interval.seconds, "discovery")

    def _watch_control(self) -> None:
        """Orders, on a connection and a thread of their own: a broker that hangs in discovery must not delay them."""
        self._control = Control(self._target.brokers(f"{self.flow.name}-control"), self.flow.name)
        self._again_and_again(self._read_control, CONTROL_SECONDS, "control")

    def _again_and_again(self, look: Callable[[], None], seconds: float, event: str) -> None:
        """Look until the flow stops; a cluster that is away is told and asked again."""
        while not self._stopping.wait(seconds):
            try:
                look()
            except (ConnectionLost, BrokerError, Preflight) as error:
                log.warning(f"{event}.failed", flow=self.flow.name, error=error.message)
            except Refused as error:
                # An order of a newer eomirror, say. What is mirrored already goes on; only what is new does not arrive.
                self._tell(error.message, log.error, f"{event}.refused")

    def _discover(self) -> Plan:
        """Look, plan, apply; and once more if that changed something."""
        seen = topology.look(self.flow, self._source, self._target, self._source_brokers, self._target_brokers)
        planned = topology.plan(self.flow, seen)
        if planned.creates or planned.grows:
            refused = topology.apply(planned, self._target, self._target_brokers)
            seen = topology.look(self.flow, self._source, self._target, self._source_brokers, self._target_brokers)
            done, planned = planned, topology.plan(self.flow, seen)
            for create in done.creates:
                if create not in planned.creates:
                    log.info("topic.created", flow=self.flow.name, topic=create.topic, partitions=create.partitions)
            for grow in done.grows:
                if grow not in planned.grows:
                    log.info("topic.grown", flow=self.flow.name, topic=grow.topic, partitions=grow.partitions)
            planned = msgspec.structs.replace(planned, problems=(*planned.problems, *refused))
        return planned

    def _adopt(self, planned: Plan) -> None:
        self._problems = planned.problems
        for problem in planned.problems:
            self._tell(problem, log.error, "topic.left_out")
        for warning in planned.warnings:
            self._tell(warning, log.warning, "topic.warning")
        # A topic that the source no longer has stays with its lane, which finds that out and says so by name.
        gone = {
            key: msgspec.structs.replace(spec, gone=True)
            for key, spec in self._specs.items()
            if key[0] not in planned.seen
        }
        if planned.routes | gone != self._specs:
            self._specs = planned.routes | gone
            self._order()

    def _mirrored(self) -> dict[RouteKey, RouteSpec]:
        """What this flow has mirrored before and still selects, as the checkpoint knows it."""
        metadata = self._target_brokers.metadata(self._topics.names())
        specs = {}
        for number in range(self.flow.lanes):
            state = checkpoint.look_lane(self._target_brokers, metadata, self._topics, number)
            for (topic, partition), position in state.positions.items():
                if self.flow.topics.matches(topic):
                    spec = RouteSpec(topic, partition, position.source_topic_id, EARLIEST, 0)
                    specs[spec.key] = spec
        return specs

    def _tell(self, text: str, say: Callable[..., None], event: str) -> None:
        if text not in self._told:
            self._told.add(text)
            say(event, flow=self.flow.name, detail=text)

    def _read_control(self) -> None:
        desired = self._control.read()
        if desired != self._desired:
            self._desired = desired
            self._order()

    def _order(self) -> None:
        with self._ordering:  # the last one sees what both look-outs have found
            for number, lane in self._lanes.items():
                orders = self._orders(number)
                if orders != lane.orders:
                    lane.orders = orders

    def _orders(self, number: int) -> Orders:
        def mine(key: RouteKey) -> bool:
            return lane_of(*key, self.flow.lanes) == number

        return Orders(
            {key: spec for key, spec in self._specs.items() if mine(key)},
            {key: desired for key, desired in self._desired.items() if mine(key)},
        )


class Progress(msgspec.Struct, frozen=True):
    """What a flow did since its process started, added up over its lanes. `lag` is in offsets of the source, None while
    the end of one of its partitions is not known: it has not answered yet, or is not read because it is FAULTED or its
    lane waits."""

    records: int
    bytes: int
    transactions: int
    rewinds: int
    lag: int | None
    faulted: int
    waiting: tuple[str, ...]


def progress(views: list[LaneView]) -> Progress:
    """The lanes' views added up."""
    wanted = [r for v in views for r in v.routes if r.state is not State.PAUSED]
    unknown = any(r.stable is None for r in wanted) or any(v.waiting for v in views)
    return Progress(
        sum(v.records for v in views),
        sum(v.bytes for v in views),
        sum(v.transactions for v in views),
        sum(v.rewinds for v in views),
        None if unknown else sum(max((r.stable or 0) - r.next_offset, 0) for r in wanted),
        sum(1 for v in views for r in v.routes if r.state is State.FAULTED),
        tuple(v.waiting for v in views if v.waiting),
    )
