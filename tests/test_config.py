"""The configuration: what a file may say, what of it is shown, and the schema that describes it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from configtext import ENV, FULL, MINIMAL, edited, parse, refused, with_client, with_flow

from eomirror import config, shown
from eomirror.config import Config, Instant, InvalidConfig
from eomirror.errors import ConfigError
from eomirror.transform import Provenance, RemoveHeaders, RenameHeaders, SetHeader

TRANSFORM = """\
transform:
      - set: {header: region, value: "${env:REGION}-{source_cluster}"}
      - remove: {header: "x-internal-*"}
      - rename: {header: old, to: new}
      - provenance: {}
      - provenance:
          header: via"""

# What a file says


def test_every_key_of_the_documented_file_is_read() -> None:
    read = parse(FULL)
    flow = read.flow("dr")
    assert read.file == "eomirror.yaml"
    assert read.clusters["paris"].client == {"security.protocol": "PLAINTEXT"}
    assert read.clusters["dublin"].addresses == (("10.0.0.1", 9092), ("10.0.0.2", 9092))
    assert (flow.source, flow.target, flow.start, flow.lanes) == ("paris", "dublin", "earliest", 4)
    assert (flow.topics.include, flow.topics.exclude) == (("orders.*",), ("orders.tmp.*",))
    assert flow.topics.replication_factor == "broker"
    assert flow.commit.interval is None
    assert (flow.commit.max_bytes, flow.commit.max_age.seconds, flow.commit.transaction_timeout.ms) == (
        64 << 20,
        1.0,
        15000,
    )
    assert (flow.fetch.max_bytes, flow.discovery.interval.ms) == (8 << 20, 10_000)
    assert (flow.transform, flow.on_bad_record) == ((), "fault")
    assert (read.worker.session_timeout.ms, read.worker.instance_id, read.worker.stall_after.ms) == (
        10_000,
        None,
        60_000,
    )
    assert read.telemetry.http.listen == "127.0.0.1:9464"
    assert (read.telemetry.metrics.partitions, read.telemetry.traces.ratio) == ("all", 0.01)
    assert (read.telemetry.logs.level, read.telemetry.logs.format, read.telemetry.audit.sink) == ("info", "auto", None)


def test_the_documented_file_says_only_defaults_beyond_the_minimum() -> None:
    full = edited('"${env:DUBLIN_BOOTSTRAP}"', '"b:9092"', edited('"127.0.0.1:19092"', '"a:9092"', FULL))
    full = edited(", client: {security.protocol: PLAINTEXT}", "", edited(', exclude: ["orders.tmp.*"]', "", full))
    assert parse(full) == parse(MINIMAL)


def test_a_transform_is_a_list_of_steps_with_one_key_each() -> None:
    read = parse(with_flow(TRANSFORM), REGION="eu")
    assert read.flows[0].transform == (
        SetHeader(header="region", value="eu-{source_cluster}"),
        RemoveHeaders(header="x-internal-*"),
        RenameHeaders(header="old", to="new"),
        Provenance(header="eomirror.origin"),
        Provenance(header="via"),
    )
    assert parse(with_flow("transform: []")).flows == parse(MINIMAL).flows


def test_json_is_read_as_the_same_configuration() -> None:
    tree = yaml.safe_load(FULL)
    for indent in (None, 2, "\t"):
        assert parse(json.dumps(tree, indent=indent)) == parse(FULL)


def test_json_escapes_of_characters_beyond_the_basic_plane_are_joined() -> None:
    tree = yaml.safe_load(MINIMAL)
    tree["telemetry"] = {"audit": {"sink": "/tmp/\N{FOX FACE}\t/"}}
    assert parse(json.dumps(tree)).telemetry.audit.sink == "/tmp/\N{FOX FACE}\t/"


def test_a_word_stays_a_word_whatever_yaml_would_make_of_it() -> None:
    read = parse(edited("name: dr", "name: off") + "telemetry: {metrics: {partitions: off}}\n")
    assert read.flows[0].name == "off"
    assert read.telemetry.metrics.partitions == "off"


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        ("2026-03-01T06:00:00Z", 1_772_344_800_000),
        ("2026-03-01T07:00:00+01:00", 1_772_344_800_000),
        ("2026-03-01 06:00:00.5Z", 1_772_344_800_500),
        ("2026-03-01T06:00:00.000001Z", 1_772_344_800_001),
        ("1970-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59Z", 253_402_300_799_000),
    ],
)
def test_start_may_be_a_timestamp_with_its_zone(written: str, ms: int) -> None:
    assert parse(with_flow(f"start: {written}")).flows[0].start == Instant(ms)


def test_a_pattern_matches_the_whole_name_and_never_an_internal_topic() -> None:
    topics = parse(edited('["orders.*"]', '["orders|o2", ".*x", ".*offsets"], exclude: ["ordersx"]')).flows[0].topics
    names = ["orders", "o2", "orders2", "ax", "ordersx", "__consumer_offsets", "__x", "_offsets", ""]
    assert [name for name in names if topics.matches(name)] == ["orders", "o2", "ax", "_offsets"]


def test_a_flow_is_found_by_name_or_the_nearest_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(MINIMAL).flow("dr1")
    assert (caught.value.message, caught.value.hint) == ('eomirror.yaml: no flow is named "dr1"', 'did you mean "dr"?')


# Where the file is


def test_the_option_comes_before_the_variable_and_the_variable_before_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("option.yaml", "variable.yaml", "eomirror.yaml"):
        Path(name).write_text(MINIMAL)
    assert config.load("option.yaml", {"EOMIRROR_CONFIG": "variable.yaml"}).file == "option.yaml"
    assert config.load(None, {"EOMIRROR_CONFIG": "variable.yaml"}).file == "variable.yaml"
    assert config.load(None, {}).file == "./eomirror.yaml"
    monkeypatch.setenv("EOMIRROR_CONFIG", "variable.yaml")
    assert config.load().file == "variable.yaml"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "none.yaml", {})
    assert caught.value.message == f"{tmp_path}/none.yaml: the configuration cannot be read: no such file or directory"
    assert caught.value.hint == 'name the file with "-c FILE" or in EOMIRROR_CONFIG'
    with pytest.raises(ConfigError, match="is a directory"):
        config.load(tmp_path, {})


def test_a_file_must_be_utf_8_and_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert config.load(file, {}).flows == parse(MINIMAL).flows
    file.write_bytes(b"apiVersion: eomirror/v1\nflows: \xff\n")
    with pytest.raises(InvalidConfig, match=r"c\.yaml:2:8: not UTF-8 text"):
        config.load(file, {})
    file.write_bytes(b"#" * (1 << 20) + b"##")
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        config.load(file, {})


# show, schema, units


def test_show_is_the_whole_configuration_in_the_file_s_own_words() -> None:
    plain = yaml.safe_load(shown.text(parse(FULL)))
    expected = yaml.safe_load(FULL)
    expected["clusters"]["paris"]["client"] = {"security.protocol": "PLAINTEXT"}
    expected["clusters"]["dublin"] = {"bootstrap": ENV["DUBLIN_BOOTSTRAP"], "client": {}}
    expected["worker"]["stall_after"] = "1m"
    assert plain == expected


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL,
        edited('"orders.*"', '"a, b", "null", "1", "é\\t\\u2028", "~"'),
        with_flow(
            "start: 2026-03-01T06:00:00.5+01:00\n    commit: {interval: 20ms, max_bytes: 1025B, max_age: 61s, "
            "transaction_timeout: 62s}"
        )
        + "worker: {instance_id: '007', stall_after: 2m}\n",
        f"{MINIMAL}telemetry: {{audit: {{sink: '-'}}, metrics: {{partitions: off}}, http: {{listen: null}}}}\n",
        f"{MINIMAL}telemetry: {{traces: {{ratio: 1}}}}\n",
        with_client("client.rack: 'on', socket.timeout.ms: 5000"),
        with_flow(TRANSFORM.replace("${env:REGION}", "{{é}}")),
    ],
)
def test_what_show_prints_reads_back_as_the_same_configuration(text: str) -> None:
    read = parse(text)
    assert parse(shown.text(read)) == read


def test_show_masks_what_may_be_a_secret() -> None:
    text = (
        edited("orders.*", "${env:SECRET}", with_flow('lanes: "${env:N}"'))
        + 'telemetry: {audit: {sink: "${env:SECRET}"}}\n'
    )
    read = parse(edited("a:9092", "${env:ADDRESS}", text), SECRET="hunter2", ADDRESS="h:1", N="2")
    plain = yaml.safe_load(shown.text(read))
    assert "hunter2" not in shown.text(read)
    assert plain["flows"][0]["topics"]["include"] == ["***"]
    assert plain["telemetry"]["audit"]["sink"] == "***"
    assert (plain["clusters"]["paris"]["bootstrap"], plain["flows"][0]["lanes"]) == ("h:1", 2)


def test_what_a_transform_is_compiled_to_is_shown_on_demand() -> None:
    read = parse(with_flow(TRANSFORM.replace("${env:REGION}-{source_cluster}", "eu-{source_cluster}-{topic}")))
    assert "recipe" not in shown.tree(read)["flows"][0]
    resolved = shown.tree(read, resolved=True)["flows"][0]
    assert resolved.pop("recipe") == [
        'set "region" = "eu-paris-{topic}"',
        'remove "x-internal-*"',
        'rename "old" to "new"',
        'add "eomirror.origin" = "paris/{topic}/{partition}/{offset}"',
        'add "via" = "paris/{topic}/{partition}/{offset}"',
    ]
    assert resolved == shown.tree(read)["flows"][0]
    assert shown.tree(parse(MINIMAL), resolved=True)["flows"][0]["recipe"] == []


def test_a_substituted_value_of_a_transform_is_never_shown() -> None:
    read = parse(edited("header: old", 'header: "${env:REGION}"', with_flow(TRANSFORM)), REGION="hunter2")
    resolved = shown.tree(read, resolved=True)["flows"][0]
    assert resolved["transform"][0] == {"set": {"header": "region", "value": "***"}}
    assert resolved["recipe"][0] == 'set "region" = ***'
    assert resolved["transform"][2] == {"rename": {"header": "hunter2", "to": "new"}}
    assert yaml.safe_load(shown.text(read, resolved=True))["flows"][0] == resolved


def test_show_masks_every_client_key_that_is_not_on_the_list() -> None:
    cluster = config.ClusterConfig(
        bootstrap="a:1", client={"sasl.password": "hunter2", "client.id": "me", "new.key": "x"}
    )
    read = parse(MINIMAL)
    masked = shown.tree(Config(api_version="eomirror/v1", clusters={"paris": cluster}, flows=read.flows))
    assert masked["clusters"]["paris"]["client"] == {"sasl.password": "***", "client.id": "me", "new.key": "***"}


def fits(value: Any, rule: dict[str, Any], root: dict[str, Any]) -> bool:
    """A validator for the words that our schema uses; an unknown word is an error, so that nothing goes unchecked."""
    types: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    for word, want in rule.items():
        match word:
            case "type":
                good = isinstance(value, types[want]) and (want == "boolean" or not isinstance(value, bool))
            case "$ref":
                good = fits(value, root["$defs"][want.removeprefix("#/$defs/")], root)
            case "anyOf":
                good = any(fits(value, one, root) for one in want)
            case "enum":
                good = value in want
            case "const":
                good = value == want
            case "required":
                good = all(key in value for key in want)
            case "properties":
                good = all(fits(value[key], one, root) for key, one in want.items() if key in value)
            case "additionalProperties":
                others = [one for key, one in value.items() if key not in rule.get("properties", {})]
                good = not others if want is False else all(fits(one, want, root) for one in others)
            case "propertyNames":
                good = all(fits(key, want, root) for key in value)
            case "items":
                good = all(fits(one, want, root) for one in value)
            case "minItems" | "minProperties":
                good = len(value) >= want
            case "maxItems":
                good = len(value) <= want
            case "minimum":
                good = value >= want
            case "maximum":
                good = value <= want
            case "pattern":
                good = re.search(want, value) is not None
            case "format":
                good = want == "date-time" and "T" in value
            case "$schema" | "$id" | "$defs" | "title" | "description":
                good = True
            case _:
                raise AssertionError(f"unknown word {word}")
        if not good:
            return False
    return True


def test_the_schema_accepts_the_documented_file_and_says_what_every_key_is() -> None:
    schema = config.schema()
    assert fits(yaml.safe_load(FULL), schema, schema)
    assert fits(yaml.safe_load(MINIMAL), schema, schema)
    assert fits(yaml.safe_load(with_flow(TRANSFORM)), schema, schema)
    undescribed = [
        f"{name}.{key}"
        for name, rule in schema["$defs"].items()
        for key, field in rule["properties"].items()
        if not field.get("description")
    ]
    assert undescribed == []
    assert "file" not in schema["$defs"]["Config"]["properties"]
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize(
    "text",
    [
        with_flow("lane: 4"),
        with_flow("lanes: 0"),
        with_flow("lanes: many"),
        with_flow("commit: {max_age: 20}"),
        with_flow("commit: {interval: never}"),
        with_flow("fetch: {max_bytes: 8MB}"),
        with_flow("transform: [x]"),
        with_flow("transform: [{}]"),
        with_flow("transform: [{drop: {header: a}}]"),
        with_flow("transform: [{set: {header: a}}]"),
        with_flow("transform: [{remove: {header: a}, provenance: {}}]"),
        edited("name: dr", "name: Dr_1"),
        edited("  paris:", '  "pa ris":'),
        edited('["orders.*"]', "[]"),
        edited("apiVersion: eomirror/v1\n", ""),
        edited("    source: paris\n", ""),
        with_client("acks: 1"),
        with_client("socket.timeout.ms: 5"),
        with_client("security.protocol: SSL"),
        f"{MINIMAL}telemetry: {{traces: {{ratio: 2}}}}\n",
    ],
)
def test_what_the_schema_refuses_the_loader_refuses_too(text: str) -> None:
    schema = config.schema()
    assert not fits(yaml.safe_load(text), schema, schema)
    assert refused(text).problems
