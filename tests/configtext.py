"""Configurations to start from, and the ways the tests change them."""

from __future__ import annotations

import pytest

from eomirror import config
from eomirror.config import Config, InvalidConfig
from eomirror.errors import Exit

FULL = """\
apiVersion: eomirror/v1
clusters:
  paris:  {bootstrap: "127.0.0.1:19092", client: {security.protocol: PLAINTEXT}}
  dublin: {bootstrap: "${env:DUBLIN_BOOTSTRAP}"}
flows:
  - name: dr
    source: paris
    target: dublin
    topics: {include: ["orders.*"], exclude: ["orders.tmp.*"], replication_factor: broker}
    start: earliest
    lanes: 4
    commit: {interval: auto, max_bytes: 64MiB, max_age: 1s, transaction_timeout: 15s}
    fetch: {max_bytes: 8MiB}
    discovery: {interval: 10s}
    transform: []
    on_bad_record: fault
worker: {session_timeout: 10s, instance_id: null, stall_after: 60s}
telemetry:
  http: {listen: "127.0.0.1:9464"}
  metrics: {partitions: all}
  traces: {ratio: 0.01}
  logs: {level: info, format: auto}
  audit: {sink: null}
"""

MINIMAL = """\
apiVersion: eomirror/v1
clusters:
  paris: {bootstrap: "a:9092"}
  dublin: {bootstrap: "b:9092"}
flows:
  - name: dr
    source: paris
    target: dublin
    topics: {include: ["orders.*"]}
"""

ENV = {"DUBLIN_BOOTSTRAP": "10.0.0.1:9092,10.0.0.2:9092"}


def parse(text: str, **env: str) -> Config:
    return config.parse(text, "eomirror.yaml", env or ENV)


def refused(text: str, **env: str) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        parse(text, **env)
    assert caught.value.exit_code == Exit.USAGE
    return caught.value


def edited(old: str, new: str, text: str = MINIMAL) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def with_flow(line: str) -> str:
    return f"{MINIMAL}    {line}\n"


def with_client(entry: str) -> str:
    return edited('"a:9092"', f'"a:9092", client: {{{entry}}}')
