"""The configuration as people see it: in the file's own units and words, without secrets."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

from eomirror import client_keys, transform
from eomirror.config import ClusterConfig, CommitConfig, Config, FetchConfig, FlowConfig
from eomirror.decode import LOADER_FIELDS
from eomirror.document import join
from eomirror.units import Duration, Instant, size_text

MASK = "***"

# Text that names things or is one of a few words: shown even if it was substituted. Numbers, durations and sizes are
# no secrets.
_SHOWN = frozenset(
    {
        "apiVersion",
        "bootstrap",
        "format",
        "header",
        "instance_id",
        "level",
        "listen",
        "name",
        "on_bad_record",
        "partitions",
        "replication_factor",
        "source",
        "start",
        "target",
        "to",
    }
)


def text(config: Config, *, resolved: bool = False) -> str:
    """`tree` as YAML."""
    return yaml.safe_dump(tree(config, resolved=resolved), sort_keys=False, allow_unicode=True, width=100_000)


def tree(config: Config, *, resolved: bool = False) -> dict[str, Any]:
    """The whole configuration as plain values, defaults included. Reads back as the same, unless `resolved`: then each
    flow has a `recipe` beside its `transform`, what the kernel does to each record's headers, one operation per step.

    Of a `client:` section only keys of an allow-list show their values. Text that came from the environment or a file
    shows only where it names something (a cluster, a flow, a header, an address). Everything else is `***`.
    """
    found = _plain(config, "", config.substituted)
    assert isinstance(found, dict)
    if resolved:
        for index, flow in enumerate(config.flows):
            found["flows"][index]["recipe"] = _recipe(flow, f"flows[{index}].transform", config.substituted)
    return found


def _recipe(flow: FlowConfig, path: str, substituted: frozenset[str]) -> list[str]:
    """What differs between records or partitions stays a placeholder."""
    known = {"flow": flow.name, "source_cluster": flow.source}
    return [
        transform.described(operation, masked=f"{path}[{index}].set.value" in substituted)
        for index, operation in enumerate(transform.operations(flow.transform, known))
    ]


def _plain(value: object, path: str, substituted: frozenset[str]) -> object:
    match value:
        case msgspec.Struct():
            # A step of a transform: the one key that says which.
            tag = value.__struct_config__.tag
            inner = _fields(value, join(path, tag) if isinstance(tag, str) else path, substituted)
            return {tag: inner} if isinstance(tag, str) else inner
        case dict():
            return {key: _plain(one, join(path, key), substituted) for key, one in value.items()}
        case tuple():
            return [_plain(one, f"{path}[{index}]", substituted) for index, one in enumerate(value)]
        case Duration() | Instant():
            return str(value)
        case str() if path in substituted and path.rpartition(".")[2] not in _SHOWN:
            return MASK
    return value


def _fields(value: msgspec.Struct, path: str, substituted: frozenset[str]) -> dict[str, object]:
    return {
        field.encode_name: _field(
            value, field.name, getattr(value, field.name), join(path, field.encode_name), substituted
        )
        for field in msgspec.structs.fields(value)
        if field.name not in LOADER_FIELDS
    }


def _field(owner: msgspec.Struct, name: str, value: Any, path: str, substituted: frozenset[str]) -> object:
    """One field of a Struct: the few whose value needs its owner to be understood, then all others."""
    match owner, name:
        case ClusterConfig(), "client":
            return {key: one if key in client_keys.SHOWN else MASK for key, one in value.items()}
        case CommitConfig(), "interval":
            return "auto" if value is None else str(value)
        case ((CommitConfig() | FetchConfig()), "max_bytes"):
            return size_text(value)
    return _plain(value, path, substituted)
