"""MirrorMaker 2, the peer: Kafka's own jars, the property files and JVM flags of bench/mm2."""

from __future__ import annotations

import shlex
import string
from dataclasses import dataclass
from pathlib import Path

from integration.cluster import free_ports, java, kafka_jars

from .systems import Eomirror, Running, System, Task

MM2 = Path(__file__).with_name("mm2")
MAIN_CLASS = "org.apache.kafka.connect.mirror.MirrorMaker"


@dataclass(frozen=True)
class MirrorMaker:
    """MirrorMaker 2 in dedicated mode: common.properties, those of its mode, those of the scenario."""

    name: str
    title: str
    modes: tuple[str, ...]

    def properties(self, task: Task, rest: int) -> str:
        """Its configuration file."""
        values = {
            "source": task.source.bootstrap,
            "target": task.target.bootstrap,
            "topics": task.topic,
            "codec": task.codec,
            "rest": str(rest),
        }
        if task.header is not None:
            values |= dict(zip(("header", "value"), task.header, strict=True))
        parts = ["common", *self.modes, *task.overlays]
        return "\n".join(string.Template((MM2 / f"{part}.properties").read_text()).substitute(values) for part in parts)

    def command(self, path: Path) -> list[str]:
        """The JVM's command line."""
        log = ["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"]
        return [java(), *jvm_flags(), *log, "-cp", f"{kafka_jars()}/*", MAIN_CLASS, str(path)]

    def start(self, task: Task) -> Running:
        path = task.folder / f"{self.name}.properties"
        path.write_text(self.properties(task, free_ports(1)[0]))
        return Running(self.command(path), task.folder / f"{self.name}.log", {})

    def settings(self, task: Task) -> str:
        command = ["java", *jvm_flags(), "-cp", ".work/kafka/libs/*", MAIN_CLASS, f"{self.name}.properties"]
        return f"# {shlex.join(command)}\n{self.properties(task, 0)}"

    def is_internal(self, topic: str) -> bool:
        return topic.startswith(("mm2-", "heartbeats")) or topic.endswith("checkpoints.internal")


def jvm_flags() -> list[str]:
    """Those of bench/mm2/jvm.flags."""
    lines = (MM2 / "jvm.flags").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


OURS = Eomirror()
ONE_IDENTITY = Eomirror(
    "eomirror-one-identity",
    "eomirror with one identity and a floor of 20 ms",
    "bench.one_identity",
    {"commit": {"interval": "20ms"}},
)
WITH_FLOOR = Eomirror("eomirror-floor", "eomirror with a floor of 30 ms", flow={"commit": {"interval": "30ms"}})
EXACTLY_ONCE = MirrorMaker("mm2-exactly-once", "MirrorMaker 2 exactly-once", ("exactly-once",))
INTERVAL = MirrorMaker("mm2-interval", "MirrorMaker 2 exactly-once, by interval", ("exactly-once", "interval"))
AT_LEAST_ONCE = MirrorMaker("mm2-at-least-once", "MirrorMaker 2 at-least-once", ())
SYSTEMS: dict[str, System] = {
    one.name: one for one in (OURS, ONE_IDENTITY, WITH_FLOOR, EXACTLY_ONCE, INTERVAL, AT_LEAST_ONCE)
}
