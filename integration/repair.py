"""What docs/operations.md says to do about MARKER_LOST, done: the marker that the fault's detail names is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kio.schema.write_txn_markers.v1.request import WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest

from eomirror.brokers import Brokers
from eomirror.wire import Address, TcpNetwork

from .cluster import Cluster
from .promise import Place, positions, settle_fault

DETAIL = re.compile(r"producer (\d+) epoch (\d+) has .* that was (committed|aborted); .*\(coordinator epoch (\d+)\)")


def repair(config: Path, target: Cluster, place: Place) -> None:
    """Writes the marker that a partition lacks, and lets it try again."""
    fault = positions(config)[place].fault
    found = DETAIL.search(fault.detail) if fault is not None else None
    assert found is not None, fault
    producer, epoch, decided, coordinator_epoch = found.groups()
    topic, partition = place
    brokers = Brokers("target", [Address("127.0.0.1", target.port)], "repair", TcpNetwork())
    leader = brokers.metadata([topic]).topics[topic].partitions[partition].node
    assert leader is not None
    marker: Any = WritableTxnMarker(
        producer_id=int(producer),  # type: ignore[arg-type]
        producer_epoch=int(epoch),  # type: ignore[arg-type]
        coordinator_epoch=int(coordinator_epoch),  # type: ignore[arg-type]
        transaction_result=decided == "committed",
        topics=(WritableTxnMarkerTopic(name=topic, partition_indexes=(partition,)),),  # type: ignore[arg-type]
    )
    connection = brokers.dial(brokers.address(leader))
    response = connection.request(WriteTxnMarkersRequest(markers=(marker,)), brokers.deadline())
    assert [int(p.error_code) for m in response.markers for t in m.topics for p in t.partitions] == [0]
    connection.close()
    brokers.close()
    settle_fault(config, place, "retry")
