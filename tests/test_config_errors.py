"""Every error in a configuration names its place, its cause and the way out."""

from __future__ import annotations

import textwrap

import pytest
from configtext import MINIMAL, edited, refused, with_client, with_flow

KNOWN_FLOW_KEYS = "commit, discovery, fetch, lanes, name, on_bad_record, source, start, target, topics, transform"
NEEDS_DURATION = "write a whole number and a unit, one of ms s m h d, for example 20ms"
NEEDS_SIZE = "write a whole number and a unit, one of B KiB MiB GiB TiB, for example 8MiB"
REGEX = 'a pattern is a regular expression over the whole name, for example "orders.*"'
PLACEHOLDERS = "known here: {flow}, {offset}, {partition}, {source_cluster}, {timestamp}, {topic}"
BRACES = "write {{ and }} for braces, or a placeholder such as {topic}"
ADDRESSES = 'write host:port, several separated by commas: "a:9092,b:9092"'
SUBSTITUTIONS = "write ${env:NAME}, ${env:NAME:-default} or ${file:/path}; $${ stands for the characters themselves"

GOLDEN = {
    "empty file": ("", "1:1: the file is empty", 'start it with "apiVersion: eomirror/v1"'),
    "a list": ("- a\n", "1:1: expected a mapping, found a list", 'write "key: value" lines, indented by spaces'),
    "version": (
        edited("eomirror/v1", "eomirror/v2"),
        '1:13: apiVersion: "eomirror/v2" is not known here',
        'this version reads "eomirror/v1"',
    ),
    "no version": (
        edited("apiVersion: eomirror/v1\n", ""),
        '1:1: "apiVersion" is missing',
        'add "apiVersion: eomirror/v1"',
    ),
    "no source": (edited("    source: paris\n", ""), '6:5: flows[0]: "source" is missing', 'add "source: ..."'),
    "unknown key": (with_flow("lane: 4"), "10:5: flows[0].lane: unknown key", 'did you mean "lanes"?'),
    "unknown key, nothing near": (
        with_flow("zzz: 4"),
        "10:5: flows[0].zzz: unknown key",
        f"known here: {KNOWN_FLOW_KEYS}",
    ),
    "wrong level": (
        edited("name: dr", "name: dr\n    include: [a]"),
        "7:5: flows[0].include: unknown key",
        '"include" belongs inside "topics"',
    ),
    "twice": (
        with_flow("name: dr2"),
        '10:5: flows[0]: key "name" comes twice, first at 6:5',
        "keep one of them",
    ),
    "merge": (
        with_flow("<<: {lanes: 1}"),
        '10:5: flows[0]: merge keys ("<<") are not supported',
        "write the keys out; a plain alias is fine",
    ),
    "tag": (
        with_flow("lanes: !!python/int 4"),
        '10:12: flows[0].lanes: tag "tag:yaml.org,2002:python/int" is not known',
        "write the plain value without a tag",
    ),
    "not a number": (
        with_flow("lanes: many"),
        '10:12: flows[0].lanes: "many" is not a whole number from 1 to 1024',
        "",
    ),
    "no lanes": (with_flow("lanes: 0"), '10:12: flows[0].lanes: "0" is not a whole number from 1 to 1024', ""),
    "too many": (with_flow("lanes: 1025"), '10:12: flows[0].lanes: "1025" is not a whole number from 1 to 1024', ""),
    "octal": (with_flow("lanes: 010"), '10:12: flows[0].lanes: "010" is not a whole number from 1 to 1024', ""),
    "nothing": (with_flow("lanes:"), "10:11: flows[0].lanes: nothing is not a whole number from 1 to 1024", ""),
    "null": (with_flow("lanes: null"), '10:12: flows[0].lanes: "null" is not a whole number from 1 to 1024', ""),
    "list for a number": (
        with_flow("lanes: [1]"),
        "10:12: flows[0].lanes: expected a whole number from 1 to 1024, found a list",
        "",
    ),
    "no unit": (
        with_flow("commit: {max_age: 20}"),
        '10:23: flows[0].commit.max_age: "20" is not a duration from 1ms to 15m',
        NEEDS_DURATION,
    ),
    "interval": (
        with_flow("commit: {interval: never}"),
        '10:24: flows[0].commit.interval: "never" is not auto or a duration from 0s to 15m',
        NEEDS_DURATION,
    ),
    "timeout beyond the broker's": (
        with_flow("commit: {transaction_timeout: 16m}"),
        '10:35: flows[0].commit.transaction_timeout: "16m" is not a duration from 100ms to 15m',
        NEEDS_DURATION,
    ),
    "decimal unit": (
        with_flow("fetch: {max_bytes: 8MB}"),
        '10:24: flows[0].fetch.max_bytes: "8MB" is not a size from 1KiB to 128MiB',
        NEEDS_SIZE,
    ),
    "start without a zone": (
        with_flow("start: 2026-03-01T06:00:00"),
        '10:12: flows[0].start: "2026-03-01T06:00:00" is not earliest or latest or a timestamp with a zone',
        "for example 2026-03-01T06:00:00Z",
    ),
    "start beyond what can be shown": (
        with_flow("start: 9999-12-31T23:59:59-14:00"),
        '10:12: flows[0].start: "9999-12-31T23:59:59-14:00" is not earliest or latest or a timestamp with a zone',
        "for example 2026-03-01T06:00:00Z",
    ),
    "start before 1970": (
        with_flow("start: 1969-12-31T23:59:59Z"),
        '10:12: flows[0].start: "1969-12-31T23:59:59Z" is not earliest or latest or a timestamp with a zone',
        "for example 2026-03-01T06:00:00Z",
    ),
    "word": (
        f"{MINIMAL}telemetry: {{logs: {{format: humane}}}}\n",
        '10:28: telemetry.logs.format: "humane" is not auto, human or json',
        'did you mean "human"?',
    ),
    "ratio": (
        f"{MINIMAL}telemetry: {{traces: {{ratio: 1.5}}}}\n",
        '10:29: telemetry.traces.ratio: "1.5" is not a number from 0 to 1',
        "",
    ),
    "instance id": (
        f"{MINIMAL}worker: {{instance_id: 'a b'}}\n",
        '10:23: worker.instance_id: "a b" is not null or 1 to 200 of letters, digits, . _ and -',
        "",
    ),
    "listen": (
        f"{MINIMAL}telemetry: {{http: {{listen: '9464'}}}}\n",
        '10:28: telemetry.http.listen: "9464" is not an address',
        'write host:port, for example "127.0.0.1:9464"',
    ),
    "flow name": (
        edited("name: dr", "name: Dr_1"),
        '6:11: flows[0].name: "Dr_1" is not a flow name: 1 to 64 of a-z, 0-9 and -',
        "",
    ),
    "cluster name": (
        edited("  paris:", '  "pa ris":'),
        '3:3: clusters: "pa ris" is not a cluster name: 1 to 64 of letters, digits, . _ and -',
        "",
    ),
    "unknown cluster": (
        edited("source: paris", "source: pari"),
        '7:13: flows[0].source: no cluster is named "pari"',
        'did you mean "paris"?',
    ),
    "same cluster": (
        edited("target: dublin", "target: paris"),
        '8:13: flows[0].target: "paris" is also the source',
        "name two clusters",
    ),
    "same flow name": (
        MINIMAL + MINIMAL.partition("flows:\n")[2],
        '10:11: flows[1].name: "dr" is also the name of flows[0]',
        "give each flow its own name",
    ),
    "same address": (
        edited("b:9092", "c:9092,a:9092"),
        '8:13: flows[0].target: "dublin" has an address of the source',
        "two names of one cluster would mirror it onto itself; name two clusters",
    ),
    "no flows": (MINIMAL.partition("flows:\n")[0] + "flows: []\n", "5:8: flows: is empty", "add at least one entry"),
    "no clusters": (
        edited('  paris: {bootstrap: "a:9092"}\n  dublin: {bootstrap: "b:9092"}\n', "").replace(
            "clusters:", "clusters: {}"
        ),
        "2:11: clusters: is empty",
        "add at least one entry",
    ),
    "no include": (edited('["orders.*"]', "[]"), "9:23: flows[0].topics.include: is empty", "add at least one entry"),
    "include is no list": (
        edited('["orders.*"]', '"orders.*"'),
        "9:23: flows[0].topics.include: expected a list, found a single value",
        "write it in brackets, separated by commas, or as lines that begin with a dash",
    ),
    "glob": (
        edited("orders.*", "*orders"),
        '9:24: flows[0].topics.include[0]: "*orders" is not a regular expression: nothing to repeat at position 0',
        REGEX,
    ),
    "ambiguous set": (
        edited("orders.*", "[[a]"),
        '9:24: flows[0].topics.include[0]: "[[a]" is not a regular expression: Possible nested set at position 1',
        REGEX,
    ),
    "empty pattern": (
        edited("orders.*", ""),
        "9:24: flows[0].topics.include[0]: an empty pattern matches no topic",
        'write ".*" for all topics',
    ),
    "internal topics": (
        edited("orders.*", "__eomirror.*"),
        "9:24: flows[0].topics.include[0]: names that begin with __ are never mirrored",
        "remove the pattern",
    ),
    "replication factor": (
        edited('["orders.*"]', '["orders.*"], replication_factor: 0'),
        '9:57: flows[0].topics.replication_factor: "0" is not broker or source or a whole number from 1 to 32767',
        "known here: broker, source",
    ),
    "interval above age": (
        with_flow("commit: {interval: 2s}"),
        "10:24: flows[0].commit.interval: 2s is longer than commit.max_age, 1s",
        "a transaction would be too old before it may end; lower the interval or raise max_age",
    ),
    "age above timeout": (
        with_flow("commit: {transaction_timeout: 500ms}"),
        "10:13: flows[0].commit.max_age: 1s is not below commit.transaction_timeout, 500ms",
        "the coordinator would abort it while it is still filling; lower max_age or raise transaction_timeout",
    ),
    "stall before timeout": (
        f"{MINIMAL}worker: {{stall_after: 15s}}\n",
        "10:23: worker.stall_after: 15s is not above flows[0].commit.transaction_timeout, 15s",
        "a lane may rightly wait that long for its target; raise stall_after",
    ),
    "a step that is a word": (
        with_flow("transform: [drop_headers]"),
        "10:17: flows[0].transform[0]: expected a mapping, found a single value",
        'write "key: value" lines, indented by spaces',
    ),
    "unknown step": (
        with_flow("transform: [{sett: {header: a, value: b}}]"),
        "10:18: flows[0].transform[0].sett: unknown key",
        'did you mean "set"?',
    ),
    "unknown step, nothing near": (
        with_flow("transform: [{filter: {}}]"),
        "10:18: flows[0].transform[0].filter: unknown key",
        "known here: provenance, remove, rename, set",
    ),
    "empty step": (
        with_flow("transform: [{}]"),
        "10:17: flows[0].transform[0]: is empty",
        "known here: provenance, remove, rename, set",
    ),
    "two steps in one": (
        with_flow("transform: [{remove: {header: a}, provenance: {}}]"),
        '10:39: flows[0].transform[0]: "provenance" stands beside "remove"',
        "give each an entry of its own",
    ),
    "step not indented": (
        with_flow("transform:\n      - remove: {}\n        header: a"),
        "12:9: flows[0].transform[0].header: unknown key",
        '"header" belongs inside "remove"',
    ),
    "step without a mapping": (
        with_flow("transform: [provenance: true]"),
        "10:29: flows[0].transform[0].provenance: expected a mapping, found a single value",
        'write "provenance: {}"',
    ),
    "step with a word for a mapping": (
        with_flow("transform: [remove: x-a]"),
        "10:25: flows[0].transform[0].remove: expected a mapping, found a single value",
        'write "key: value" lines, indented by spaces',
    ),
    "step without a value": (
        with_flow("transform: [{set: {header: a}}]"),
        '10:23: flows[0].transform[0].set: "value" is missing',
        'add "value: ..."',
    ),
    "no text": (
        with_flow("transform: [{set: {header: a, value: null}}]"),
        '10:42: flows[0].transform[0].set.value: "null" is not text',
        "",
    ),
    "unknown placeholder": (
        with_flow('transform: [{set: {header: a, value: "x-{tpic}"}}]'),
        '10:42: flows[0].transform[0].set.value: "x-{tpic}" holds an unknown placeholder: "{tpic}"',
        'did you mean "{topic}"?',
    ),
    "empty placeholder": (
        with_flow('transform: [{set: {header: a, value: "{}"}}]'),
        '10:42: flows[0].transform[0].set.value: "{}" holds an unknown placeholder: "{}"',
        PLACEHOLDERS,
    ),
    "substituted placeholder": (
        with_flow('transform: [{set: {header: a, value: "${env:HELD}"}}]'),
        "10:42: flows[0].transform[0].set.value: the value of ${env:HELD} holds an unknown placeholder",
        PLACEHOLDERS,
    ),
    "open brace": (
        with_flow('transform: [{set: {header: a, value: "{topic"}}]'),
        '10:42: flows[0].transform[0].set.value: "{topic" holds a single brace',
        BRACES,
    ),
    "closing brace": (
        with_flow('transform: [{set: {header: a, value: "{topic}}"}}]'),
        '10:42: flows[0].transform[0].set.value: "{topic}}" holds a single brace',
        BRACES,
    ),
    "header without a name": (
        with_flow('transform: [{set: {header: "", value: a}}]'),
        '10:32: flows[0].transform[0].set.header: "" is not a header\'s name',
        "write at least one character",
    ),
    "origin without a name": (
        with_flow('transform: [{provenance: {header: ""}}]'),
        '10:39: flows[0].transform[0].provenance.header: "" is not a header\'s name',
        "write at least one character",
    ),
    "renamed to nothing": (
        with_flow('transform: [{rename: {header: a, to: ""}}]'),
        '10:42: flows[0].transform[0].rename.to: "" is not a header\'s name',
        "write at least one character",
    ),
    "renamed to itself": (
        with_flow("transform: [{rename: {header: a, to: a}}]"),
        '10:42: flows[0].transform[0].rename.to: "a" is the name that it has already',
        "give another name, or leave the step out",
    ),
    "pattern where a name belongs": (
        with_flow('transform: [{rename: {header: "x-*", to: a}}]'),
        '10:35: flows[0].transform[0].rename.header: "x-*" holds a *, which is a pattern, and only remove takes one',
        "write the whole name",
    ),
    "placeholder in a name": (
        with_flow('transform: [{remove: {header: "{topic}-id"}}]'),
        '10:35: flows[0].transform[0].remove.header: "{topic}-id" holds a placeholder, and only a value takes them',
        "write the name itself",
    ),
    "name too long": (
        with_flow(f"transform: [{{remove: {{header: {'é' * 8193}}}}}]"),
        f'10:35: flows[0].transform[0].remove.header: "{"é" * 77}..." is longer than 16 KiB',
        "every record would carry it; shorten it",
    ),
    "value too long": (
        with_flow("transform: [{set: {header: a, value: '${env:LONG}'}}]"),
        "10:42: flows[0].transform[0].set.value: the value of ${env:LONG} is longer than 16 KiB",
        "every record would carry it; shorten it",
    ),
    "step without effect": (
        with_flow("transform: [{set: {header: a, value: b}}, {remove: {header: a}}]"),
        "10:17: flows[0].transform[0]: has no effect beside transform[1]",
        "leave out one of the two steps",
    ),
    "bad record": (
        with_flow("on_bad_record: skip"),
        '10:20: flows[0].on_bad_record: "skip" is not drop, fault or quarantine',
        "known here: drop, fault, quarantine",
    ),
    "no port": (edited("a:9092", "a"), '3:22: clusters.paris.bootstrap: "a" is not a list of addresses', ADDRESSES),
    "scheme": (
        edited("a:9092", "PLAINTEXT://a:9092"),
        '3:22: clusters.paris.bootstrap: "PLAINTEXT://a:9092" is not a list of addresses',
        ADDRESSES,
    ),
    "port": (
        edited("a:9092", "a:65536"),
        '3:22: clusters.paris.bootstrap: "a:65536" is not a list of addresses',
        ADDRESSES,
    ),
    "user in an address": (
        edited("a:9092", "me:secret@a:9092"),
        "3:22: clusters.paris.bootstrap: an address holds no user name or password",
        "write host:port alone",
    ),
    "forced key": (
        with_client("isolation.level: read_uncommitted"),
        '3:41: clusters.paris.client["isolation.level"]: this key cannot be set: '
        "only committed records are mirrored, read_uncommitted would copy aborted ones",
        "remove the key",
    ),
    "forced key with a setting": (
        with_client("bootstrap.servers: 'x:1'"),
        '3:41: clusters.paris.client["bootstrap.servers"]: this key cannot be set: '
        "the address is the cluster's own key",
        'write it as "bootstrap", beside "client"',
    ),
    "unknown client key": (
        with_client("socket.timeout: 5"),
        '3:41: clusters.paris.client["socket.timeout"]: unknown client key',
        'did you mean "socket.timeout.ms"?',
    ),
    "client value": (
        with_client("socket.timeout.ms: 5"),
        '3:41: clusters.paris.client["socket.timeout.ms"]: "5" is not a whole number from 1000 to 300000',
        "",
    ),
    "secured": (
        with_client("security.protocol: SSL"),
        '3:41: clusters.paris.client["security.protocol"]: "SSL" has not been tried, so it is refused',
        "what works: security.protocol PLAINTEXT, or SASL_SSL with sasl.mechanism SCRAM-SHA-512",
    ),
    "secret": (
        with_client("sasl.password: hunter2"),
        '3:41: clusters.paris.client["sasl.password"]: has no effect with security.protocol PLAINTEXT, '
        "which is the default",
        'set "security.protocol" to SASL_SSL, or remove the key',
    ),
    "variable": (
        edited("a:9092", "${env:NOWHERE}"),
        "3:22: clusters.paris.bootstrap: environment variable NOWHERE is not set",
        "export NOWHERE, or give a default: ${env:NOWHERE:-value}",
    ),
    "substitution": (
        edited("a:9092", "${NOWHERE}"),
        '3:22: clusters.paris.bootstrap: "${NOWHERE}" is no substitution',
        SUBSTITUTIONS,
    ),
    "open substitution": (
        edited("a:9092", "${env:NOWHERE"),
        '3:22: clusters.paris.bootstrap: "${env:NOWHERE" has no end',
        "close it with }",
    ),
    "file": (
        edited("a:9092", "${file:/nowhere/at/all}"),
        '3:22: clusters.paris.bootstrap: file "/nowhere/at/all" cannot be read: no such file or directory',
        "check the path and its permissions",
    ),
    "relative file": (
        edited("a:9092", "${file:secret}"),
        '3:22: clusters.paris.bootstrap: file "secret" is not an absolute path',
        "write ${file:/path/from/the/root}",
    ),
    "unquoted substitution": (
        edited('"a:9092"', "${env:X}"),
        "3:23: not YAML: while parsing a flow mapping, expected ',' or '}', but got '{'",
        'put a value with ${...} in double quotes, for example "${env:BOOTSTRAP}"',
    ),
    "unquoted star": (
        edited('"orders.*"', "*orders"),
        "9:24: not YAML: found undefined alias 'orders'",
        'put values that hold one of : { } [ ] , & * # ? | > ! % @ ` in double quotes, for example "orders.*"',
    ),
    "tab": (
        f"{MINIMAL}\tlanes: 4\n",
        "10:1: not YAML: while scanning for the next token, found character '\\t' that cannot start any token",
        "indent with spaces, YAML takes no tabs",
    ),
    "control character": (
        edited("name: dr", "name: d\x07r"),
        "6:12: character U+0007 is not allowed in YAML",
        "remove the character, or write it as an escape",
    ),
    "half a pair": (
        edited('"orders.*"', '"\\ud83d"'),
        "9:24: flows[0].topics.include[0]: the text holds half of a surrogate pair",
        "write the character itself, or both halves",
    ),
    "two documents": (
        f"{MINIMAL}---\n{MINIMAL}",
        "10:1: not YAML: expected a single document in the stream, but found another document",
        "keep one document",
    ),
    "too deep": ("[" * 20_000, "1:1: nested too deeply", "no value needs more than six levels"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_an_error_has_place_cause_and_hint(name: str) -> None:
    text, message, hint = GOLDEN[name]
    error = refused(text, DUBLIN_BOOTSTRAP="b:9092", HELD="{hunter2}", LONG="a" * 16_385)
    assert error.message == f"eomirror.yaml:{message}"
    assert error.hint == hint


def test_all_problems_of_a_file_are_told_at_once_in_the_order_of_the_text() -> None:
    error = refused(edited("source: paris", "sauce: paris", with_flow("lanes: none\n    commit: {max_age: 1}")))
    assert error.message == textwrap.dedent("""\
        eomirror.yaml:6:5: flows[0]: "source" is missing
          hint: add "source: ..."
        eomirror.yaml:7:5: flows[0].sauce: unknown key
          hint: did you mean "source"?
        eomirror.yaml:10:12: flows[0].lanes: "none" is not a whole number from 1 to 1024
        eomirror.yaml:11:23: flows[0].commit.max_age: "1" is not a duration from 1ms to 15m
          hint: write a whole number and a unit, one of ms s m h d, for example 20ms""")
    assert error.hint == 'correct these 4 places, then run "eomirror config validate -c eomirror.yaml"'
    assert [problem.line for problem in error.problems] == [6, 7, 10, 11]
