"""A flow with a `transform:` mirrors every record once, with its headers rewritten and nothing else touched."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eomirror.steps import KILL_VARIABLE
from tests.reference_recipe import transformed

from .cluster import Cluster
from .process import Eomirror
from .promise import SMALL, Content, Load, catch_up, contents, moved
from .rawlog import CODECS, partition_batches

STEPS: list[dict[str, Any]] = [
    {"set": {"header": "place", "value": "{{{flow}}} {source_cluster}:{topic}[{partition}]@{offset} {timestamp} é"}},
    {"remove": {"header": "t*g"}},
    {"rename": {"header": "number", "to": "event"}},
    {"provenance": {}},
]


def rewritten(flow: str, place: tuple[str, int], offset: int, content: Content) -> Content:
    """A source record as the target must have it, by the reference."""
    key, value, headers, timestamp = content
    words = {"flow": flow, "source_cluster": "source", "topic": place[0], "partition": place[1]}
    before = [(name.encode(), held) for name, held in headers or []]
    after = transformed(STEPS, before, offset=offset, timestamp=timestamp[1], **words)
    return key, value, [(name.decode(), held) for name, held in after], timestamp


def codecs(cluster: Cluster, topic: str) -> set[str]:
    """How the batches of a topic are compressed on disk, markers left out."""
    batches = [b for partition in (0, 1) for b in partition_batches(cluster.log_dir / f"{topic}-{partition}")]
    return {batch.codec for batch in batches if not batch.control}


def test_headers_are_rewritten_in_every_codec(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    topics = {f"{name}.{codec}{suffix}": 2 for codec in CODECS for suffix in ("", ".tx")}
    for topic, partitions in topics.items():
        source.create_topic(topic, partitions)
    Load(source, name)(topics, 400)
    assert {topic: codecs(source, topic) for topic in topics} == {topic: {topic.split(".")[1]} for topic in topics}
    config = flow_config(transform=STEPS, **SMALL)
    eomirror("run", "--until-caught-up", config=config, env={KILL_VARIABLE: "end_sent:12"}).expect(-signal.SIGKILL)
    left = moved(catch_up(eomirror, config))

    ours, theirs = contents(source, topics), contents(target, topics)
    wanted = {place: [rewritten(name, place, *one) for one in records] for place, records in ours.items()}
    assert 0 < left < sum(map(len, wanted.values())) >= 4000
    assert {place: [content for _, content in records] for place, records in theirs.items()} == wanted
    assert {topic: codecs(target, topic) for topic in topics} == {topic: codecs(source, topic) for topic in topics}

    assert moved(catch_up(eomirror, config)) == 0
    assert contents(target, topics) == theirs


def test_a_changed_transform_counts_from_the_next_start(
    source: Cluster, target: Cluster, eomirror: Eomirror, flow_config: Callable[..., Path], name: str
) -> None:
    source.create_topic(name, 2)
    write = Load(source, name)
    wanted: dict[tuple[str, int], list[Content]] = {(name, 0): [], (name, 1): []}
    for steps in (STEPS, []):
        write({name: 2}, 100)
        catch_up(eomirror, flow_config(transform=steps, **SMALL))
        for place, records in contents(source, [name]).items():
            new = records[len(wanted[place]) :]
            wanted[place] += [rewritten(name, place, *one) if steps else one[1] for one in new]
    assert sum(map(len, wanted.values())) == 200
    assert {place: [c for _, c in records] for place, records in contents(target, [name]).items()} == wanted
