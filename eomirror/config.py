"""The configuration: one tree of frozen values, read from YAML or JSON, checked as a whole before anything starts.

Every problem names file, line and column, the cause, and the nearest known key. All problems of a file are reported
at once.
"""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import yaml
from msgspec import Meta

from eomirror import client_keys, transform
from eomirror.decode import Check, Decoder, schema_of
from eomirror.document import MAX_FILE_BYTES, InvalidConfig, Problem, compose, join, place_of, quote
from eomirror.errors import ConfigError
from eomirror.security import Untrusted, trust
from eomirror.transform import Step
from eomirror.units import Duration, Instant

__all__ = [
    "ClusterConfig",
    "Config",
    "Duration",
    "FlowConfig",
    "Instant",
    "InvalidConfig",
    "Problem",
    "load",
    "parse",
    "schema",
]

API_VERSION = "eomirror/v1"
DEFAULT_FILE = "./eomirror.yaml"

MAX_TRANSACTION_TIMEOUT = Duration(15 * 60_000)  # transaction.max.timeout.ms of a broker, unless somebody raised it

_NAME = r"^[a-z0-9-]{1,64}$"
_CLUSTER_NAME = r"^[A-Za-z0-9._-]{1,64}$"

FlowName = Annotated[str, Meta(pattern=_NAME, extra={"what": "a flow name: 1 to 64 of a-z, 0-9 and -"})]
ClusterName = Annotated[
    str, Meta(pattern=_CLUSTER_NAME, extra={"what": "a cluster name: 1 to 64 of letters, digits, . _ and -"})
]
InstanceId = Annotated[
    Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,200}$")] | None,
    Meta(extra={"what": "null or 1 to 200 of letters, digits, . _ and -"}),
]


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One Kafka cluster.

    `bootstrap`: addresses host:port, separated by commas
    `client`: librdkafka's own keys, for the connection only; what may not be set is refused with the reason
    """

    bootstrap: str
    client: Annotated[dict[str, str], Meta(extra_json_schema=client_keys.schema())] = {}

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """(host, port) of each bootstrap address, in the order written, an IPv6 host without its brackets."""
        return tuple(_address(one) for one in self.bootstrap.split(","))


class TopicsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which topics a flow mirrors, and how a missing target topic is created.

    A pattern is a Python regular expression that must match the whole name: "orders" matches orders alone, "orders.*"
    also orders-eu. Names that begin with two underscores are Kafka's and eomirror's own and never match.

    `include`: patterns of which one must match
    `exclude`: patterns of which none may match
    `replication_factor`: of a created topic; source (as there), broker (the target's default) or a number
    """

    include: Annotated[tuple[str, ...], Meta(min_length=1)]
    exclude: tuple[str, ...] = ()
    replication_factor: Literal["source", "broker"] | Annotated[int, Meta(ge=1, le=32767)] = "broker"

    def matches(self, topic: str) -> bool:
        """Whether a topic of this name is mirrored."""
        if topic.startswith("__"):
            return False
        return any(_pattern(one).fullmatch(topic) for one in self.include) and not any(
            _pattern(one).fullmatch(topic) for one in self.exclude
        )


class CommitConfig(msgspec.Struct, frozen=True, kw_only=True):
    """When a lane ends a transaction.

    `interval`: least time between two commits of a lane; None (auto) adapts it to the load
    `max_bytes`: a transaction that reaches this many bytes of record batches is committed
    `max_age`: a transaction of this age is committed
    `transaction_timeout`: the target's coordinator aborts a transaction that its dead owner left open for this long
    """

    interval: Annotated[
        Duration | None, Meta(extra={"none": "auto", "low": Duration(0), "high": MAX_TRANSACTION_TIMEOUT})
    ] = None
    max_bytes: Annotated[int, Meta(extra={"unit": "bytes", "low": 1 << 10, "high": 1 << 34})] = 64 << 20
    max_age: Annotated[Duration, Meta(extra={"low": Duration(1), "high": MAX_TRANSACTION_TIMEOUT})] = Duration(1_000)
    transaction_timeout: Annotated[Duration, Meta(extra={"low": Duration(100), "high": MAX_TRANSACTION_TIMEOUT})] = (
        Duration(15_000)
    )


class FetchConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a lane reads.

    `max_bytes`: most bytes of one fetch response; a lane holds two of them
    """

    max_bytes: Annotated[int, Meta(extra={"unit": "bytes", "low": 1 << 10, "high": 1 << 27})] = 8 << 20


class DiscoveryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How new topics and partitions are found.

    `interval`: time between two looks at the source
    """

    interval: Annotated[Duration, Meta(extra={"low": Duration(100), "high": Duration(86_400_000)})] = Duration(10_000)


class FlowConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Topics of one cluster, mirrored to another.

    `name`: of the flow, part of its internal topics and transactional ids
    `source`: name of the cluster to read from
    `target`: name of the cluster to write to
    `topics`: which topics
    `start`: where a partition without a checkpoint begins: earliest, latest, or a timestamp with a zone; pinned at
    the first start
    `lanes`: number of lanes; fixed when the flow is created
    `commit`: when a lane ends a transaction
    `fetch`: how a lane reads
    `discovery`: how new topics are found
    `transform`: what is done to the headers of every record, step by step; a change counts from the next start
    `on_bad_record`: what becomes of a record that the target refuses: its partition stands still (fault), or it is
    left out, with a copy in the flow's quarantine topic (quarantine) or without (drop)
    """

    name: FlowName
    source: str
    target: str
    topics: TopicsConfig
    start: Literal["earliest", "latest"] | Instant = "earliest"
    lanes: Annotated[int, Meta(ge=1, le=1024)] = 4
    commit: CommitConfig = CommitConfig()
    fetch: FetchConfig = FetchConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    transform: tuple[Step, ...] = ()
    on_bad_record: Literal["fault", "quarantine", "drop"] = "fault"


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The process that runs lanes.

    `session_timeout`: a worker that the target's coordinator has not heard of for this long loses its lanes
    `instance_id`: name for static membership; None for none
    `stall_after`: a lane that has made no step for this long is reported as stalled
    """

    session_timeout: Annotated[Duration, Meta(extra={"low": Duration(1_000), "high": Duration(1_800_000)})] = Duration(
        10_000
    )
    instance_id: InstanceId = None
    stall_after: Annotated[Duration, Meta(extra={"low": Duration(1_000), "high": Duration(86_400_000)})] = Duration(
        60_000
    )


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics, health and status over HTTP.

    `listen`: address host:port; None for no listener
    """

    listen: str | None = "127.0.0.1:9464"


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How fine the metrics are.

    `partitions`: a series per partition (all), per topic (topic) or per flow only (off)
    """

    partitions: Literal["all", "topic", "off"] = "all"


class TracesConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which transactions are traced.

    `ratio`: share of the transactions, 0 to 1
    """

    ratio: Annotated[float, Meta(ge=0, le=1)] = 0.01


class LogsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is logged to stderr, one line per event.

    `level`: the least level that is written
    `format`: human (for a terminal), json (one object per line), or auto (human if stderr is a terminal)
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"


class AuditConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where receipts are written.

    `sink`: a file, "-" for stdout, None for nowhere
    """

    sink: str | None = None


class TelemetryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a process tells about itself.

    `http`: metrics, health and status
    `metrics`: how fine the metrics are
    `traces`: which transactions are traced
    `logs`: what is logged
    `audit`: where receipts are written
    """

    http: HttpConfig = HttpConfig()
    metrics: MetricsConfig = MetricsConfig()
    traces: TracesConfig = TracesConfig()
    logs: LogsConfig = LogsConfig()
    audit: AuditConfig = AuditConfig()


class Config(msgspec.Struct, frozen=True, kw_only=True, rename={"api_version": "apiVersion"}):
    """A whole configuration file.

    `api_version`: eomirror/v1
    `clusters`: by name
    `flows`: what is mirrored, at least one
    `worker`: the process that runs lanes
    `telemetry`: what a process tells about itself
    """

    api_version: Literal["eomirror/v1"]
    clusters: Annotated[dict[ClusterName, ClusterConfig], Meta(min_length=1)]
    flows: Annotated[tuple[FlowConfig, ...], Meta(min_length=1)]
    worker: WorkerConfig = WorkerConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    # Set by the loader, not keys of the file: its name, and the paths whose values came from ${env:...} or ${file:...}.
    file: str = ""
    substituted: frozenset[str] = frozenset()

    def flow(self, name: str) -> FlowConfig:
        """The flow of this name. Raises ConfigError with the nearest known name."""
        for flow in self.flows:
            if flow.name == name:
                return flow
        names = [flow.name for flow in self.flows]
        raise ConfigError(f"{self.file}: no flow is named {quote(name)}", hint=client_keys.nearest(name, names))


def load(path: str | Path | None = None, env: Mapping[str, str] | None = None) -> Config:
    """The configuration from `path`, else from the file that $EOMIRROR_CONFIG names, else from ./eomirror.yaml.

    `env` is the environment for the search and for ${env:...}; the process's own if None. Raises ConfigError if there
    is no file, InvalidConfig (a ConfigError) with every problem and its place if it cannot be used.
    """
    env = os.environ if env is None else env
    file = str(path) if path is not None else env.get("EOMIRROR_CONFIG") or DEFAULT_FILE
    try:
        with Path(file).open("rb") as source:
            raw = source.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        cause = (error.strerror or type(error).__name__).lower()
        hint = 'name the file with "-c FILE" or in EOMIRROR_CONFIG'
        raise ConfigError(f"{file}: the configuration cannot be read: {cause}", hint=hint) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{file}: larger than 1 MiB", hint="is this the configuration file?")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = raw[: error.start].decode("utf-8-sig", "replace")
        line, column = place_of(good, len(good))
        raise InvalidConfig(file, [Problem(line, column, "", "not UTF-8 text", "store the file as UTF-8")]) from None
    return parse(text, file, env)


def parse(text: str, file: str, env: Mapping[str, str]) -> Config:
    """The configuration in a text; `file` is its name in messages. Raises InvalidConfig."""
    node = compose(text, file)
    decoder = Decoder(env, _CHECKS)
    _check_version(node, decoder, file)
    config = decoder.decode(node, Config)
    if config is None or decoder.problems:
        raise InvalidConfig(file, decoder.problems)
    return msgspec.structs.replace(config, file=file, substituted=frozenset(decoder.substituted))


def _check_version(node: yaml.Node, decoder: Decoder, file: str) -> None:
    # A file of another version may differ anywhere: its version is the one thing to say about it.
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.value == "apiVersion" and isinstance(value, yaml.ScalarNode) and value.value != API_VERSION:
            decoder.problem(
                value, "apiVersion", f"{quote(value.value)} is not known here", f'this version reads "{API_VERSION}"'
            )
            raise InvalidConfig(file, decoder.problems)


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors. The loader checks more: pairs of values, names, addresses, patterns."""
    return schema_of(Config, "urn:eomirror:config:v1", "eomirror configuration")


def _address(text: str) -> tuple[str, int]:
    """(host, port) of `host:port` or `[v6]:port`. Raises ValueError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", text.strip())
    if match is None or int(match[3]) > 65535:
        raise ValueError("not host:port")
    return match[1] or match[2], int(match[3])


@functools.lru_cache(maxsize=4096)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def _check_cluster(decoder: Decoder, path: str, cluster: ClusterConfig) -> None:
    where = f"{path}.bootstrap"
    try:
        ports = [port for _, port in cluster.addresses]
    except ValueError:
        ports = [0]
    if "@" in cluster.bootstrap:
        decoder.problem_at(where, "an address holds no user name or password", "write host:port alone")
    elif 0 in ports:
        decoder.problem_at(
            where,
            f"{decoder.quoted(where)} is not a list of addresses",
            'write host:port, several separated by commas: "a:9092,b:9092"',
        )
    for key, value in cluster.client.items():
        here = join(f"{path}.client", key)
        if found := client_keys.check(key, value, decoder.quoted(here)):
            decoder.problem_at(here, *found, key=True)
    for key, cause, hint in client_keys.check_together(cluster.client):
        decoder.problem_at(join(f"{path}.client", key), cause, hint, key=True)
    if "ssl.ca.location" in cluster.client:
        here = join(f"{path}.client", "ssl.ca.location")
        try:
            trust(cluster.client["ssl.ca.location"])
        except Untrusted as error:
            decoder.problem_at(here, f"{decoder.quoted(here)}: {error.cause}", error.hint, key=True)


def _check_topics(decoder: Decoder, path: str, topics: TopicsConfig) -> None:
    for name, patterns in (("include", topics.include), ("exclude", topics.exclude)):
        for index, text in enumerate(patterns):
            here = f"{path}.{name}[{index}]"
            try:
                # A set that later Pythons will read differently is a warning of the compiler; here it is an error.
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    _pattern(text)
            except (re.error, OverflowError, RecursionError, Warning) as error:
                hint = 'a pattern is a regular expression over the whole name, for example "orders.*"'
                # The compiler's words may repeat parts of the text; a substituted one is not repeated.
                detail = "" if here in decoder.substituted else f": {error}"
                decoder.problem_at(here, f"{decoder.quoted(here)} is not a regular expression{detail}", hint)
                continue
            if not text:
                decoder.problem_at(here, "an empty pattern matches no topic", 'write ".*" for all topics')
            elif name == "include" and re.match(r"\^?(\\?_){2}", text):
                decoder.problem_at(here, "names that begin with __ are never mirrored", "remove the pattern")


def _check_step(decoder: Decoder, path: str, step: Step) -> None:
    for flaw in transform.flaws(step):
        here = f"{path}.{flaw.field}"
        culprit = f": {quote(flaw.culprit)}" if flaw.culprit and here not in decoder.substituted else ""
        decoder.problem_at(here, f"{decoder.quoted(here)} {flaw.cause}{culprit}", flaw.hint)


def _check_flow(decoder: Decoder, path: str, flow: FlowConfig) -> None:
    for index, other in transform.idle_steps(flow.transform):
        decoder.problem_at(
            f"{path}.transform[{index}]", f"has no effect beside transform[{other}]", "leave out one of the two steps"
        )
    commit = flow.commit
    if commit.interval is not None and commit.interval > commit.max_age:
        decoder.problem_at(
            f"{path}.commit.interval",
            f"{commit.interval} is longer than commit.max_age, {commit.max_age}",
            "a transaction would be too old before it may end; lower the interval or raise max_age",
        )
    if commit.max_age >= commit.transaction_timeout:
        decoder.problem_at(
            f"{path}.commit.max_age",
            f"{commit.max_age} is not below commit.transaction_timeout, {commit.transaction_timeout}",
            "the coordinator would abort it while it is still filling; lower max_age or raise transaction_timeout",
        )
    if flow.source == flow.target:
        decoder.problem_at(
            f"{path}.target", f"{decoder.quoted(f'{path}.target')} is also the source", "name two clusters"
        )


def _check_whole(decoder: Decoder, _path: str, config: Config) -> None:
    first: dict[str, int] = {}
    for index, flow in enumerate(config.flows):
        path = f"flows[{index}]"
        if flow.name in first:
            other = f"flows[{first[flow.name]}]"
            decoder.problem_at(
                f"{path}.name",
                f"{decoder.quoted(f'{path}.name')} is also the name of {other}",
                "give each flow its own name",
            )
        first.setdefault(flow.name, index)
        for end, name in (("source", flow.source), ("target", flow.target)):
            if name not in config.clusters:
                hint = client_keys.nearest(name, list(config.clusters))
                decoder.problem_at(f"{path}.{end}", f"no cluster is named {decoder.quoted(f'{path}.{end}')}", hint)
        ends = [config.clusters.get(flow.source), config.clusters.get(flow.target)]
        if ends[0] and ends[1] and ends[0] is not ends[1] and set(ends[0].addresses) & set(ends[1].addresses):
            hint = "two names of one cluster would mirror it onto itself; name two clusters"
            decoder.problem_at(
                f"{path}.target", f"{decoder.quoted(f'{path}.target')} has an address of the source", hint
            )
        if config.worker.stall_after <= flow.commit.transaction_timeout:
            timeout = f"{path}.commit.transaction_timeout, {flow.commit.transaction_timeout}"
            decoder.problem_at(
                "worker.stall_after",
                f"{config.worker.stall_after} is not above {timeout}",
                "a lane may rightly wait that long for its target; raise stall_after",
            )


def _check_http(decoder: Decoder, path: str, http: HttpConfig) -> None:
    if http.listen is None:
        return
    try:
        _address(http.listen)
    except ValueError:
        where = f"{path}.listen"
        decoder.problem_at(
            where, f"{decoder.quoted(where)} is not an address", 'write host:port, for example "127.0.0.1:9464"'
        )


_CHECKS: dict[type, Check] = {
    ClusterConfig: _check_cluster,
    TopicsConfig: _check_topics,
    FlowConfig: _check_flow,
    HttpConfig: _check_http,
    Config: _check_whole,
    **dict.fromkeys(get_args(Step), _check_step),
}
