"""A model of Kafka for tests: clusters, their transaction coordinators and the network, in memory and deterministic.

Production code gets an `Owner` in place of its `Network` and speaks real protocol bytes; a test or Hypothesis picks
what happens next.

    source, target = ModelCluster("source"), ModelCluster("target")
    source.create_topic("orders")
    target.create_topic("orders")
    source.write("orders", 0, [b"one", b"two"])
    with ModelNetwork(source, target) as net:
        mirror = ExactlyOnce(source, target, [(("orders", 0), ("orders", 0))])
        net.each_step(mirror.check)
        net.spawn("X", run_lane)        # run_lane(network) -> dials ("target", 9092)
        net.spawn("Y", run_lane, after=40)
        net.run(Script(choices, Faults(kills=1)), until=mirror.complete)
"""

from .cluster import Clock, ModelCluster, OpenTransaction
from .coordinator import State
from .log import Fate, PartitionLog, Stored
from .messages import ModelError
from .network import Event, ModelNetwork
from .owner import Killed, ModelSocket, Owner, Stuck
from .policy import Faults, Only, Script, Seeded
from .records import Record, build_batch, read_header, read_records
from .story import Handled
from .view import ExactlyOnce, repeated

__all__ = [
    "Clock",
    "Event",
    "ExactlyOnce",
    "Fate",
    "Faults",
    "Handled",
    "Killed",
    "ModelCluster",
    "ModelError",
    "ModelNetwork",
    "ModelSocket",
    "Only",
    "OpenTransaction",
    "Owner",
    "PartitionLog",
    "Record",
    "Script",
    "Seeded",
    "State",
    "Stored",
    "Stuck",
    "build_batch",
    "read_header",
    "read_records",
    "repeated",
]
