"""Substitution brings in text and never structure, and secrets stay out of messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from configtext import MINIMAL, edited, parse, refused, with_flow
from hypothesis import example, given, settings
from hypothesis import strategies as st

relaxed = settings(deadline=None)


@relaxed
@given(value=st.text(st.characters(codec="utf-8", exclude_characters="\0")))
@example("a]} : b #\n- ${env:OTHER} $${ *x !!python/object:os.system &y")
def test_what_a_variable_holds_is_text_and_never_structure(value: str) -> None:
    text = MINIMAL + 'telemetry: {audit: {sink: "<${env:VALUE}|${env:VALUE:-d}>"}}\n'
    assert parse(text, VALUE=value).telemetry.audit.sink == f"<{value}|{value or 'd'}>"


@relaxed
@given(value=st.text(st.characters(codec="utf-8"), max_size=40))
def test_a_file_s_value_is_its_text_without_the_last_line_end(
    tmp_path_factory: pytest.TempPathFactory, value: str
) -> None:
    file = tmp_path_factory.mktemp("s") / "value"
    text = MINIMAL + f'telemetry: {{audit: {{sink: "${{file:{file}}}"}}}}\n'
    for end in ("\n", "\r\n"):
        file.write_bytes((value + end).encode())
        expected = value if end == "\r\n" else value.removesuffix("\r")
        assert parse(text).telemetry.audit.sink == expected


@pytest.mark.parametrize(
    ("content", "cause"), [(b"\xff", "is not UTF-8 text"), (("é" * (1 << 19) + "x").encode(), "is larger than 1 MiB")]
)
def test_a_file_that_is_no_value_is_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    file = tmp_path / "value"
    file.write_bytes(content)
    error = refused(MINIMAL + f'telemetry: {{audit: {{sink: "${{file:{file}}}"}}}}\n')
    assert error.message == f'eomirror.yaml:10:27: telemetry.audit.sink: file "{file}" {cause}'


@pytest.mark.parametrize(
    ("written", "env", "read"),
    [
        ("${env:A:-x}", {"B": ""}, "x"),
        ("${env:A:-x}", {"A": ""}, "x"),
        ("${env:A:-x}", {"A": "y"}, "y"),
        ("${env:A:-}", {"B": ""}, ""),
        ("${env:A:-a:-b c}", {"B": ""}, "a:-b c"),
        ("${env:A}", {"A": ""}, ""),
        ("$${env:A}", {"A": "y"}, "${env:A}"),
        ("$$${env:A}", {"A": "y"}, "$${env:A}"),
        ("${env:A}${env:B}", {"A": "${env:B}", "B": "b"}, "${env:B}b"),
        ("a$b", {"A": ""}, "a$b"),
    ],
)
def test_substitution(written: str, env: dict[str, str], read: str) -> None:
    text = MINIMAL + f'telemetry: {{audit: {{sink: "{written}"}}}}\n'
    assert parse(text, **env).telemetry.audit.sink == read


def test_the_field_decides_what_a_substituted_value_is() -> None:
    text = with_flow('lanes: "${env:N}"\n    commit: {interval: "${env:I}", max_bytes: "${env:S}"}') + (
        'worker: {instance_id: "${env:N}"}\ntelemetry: {audit: {sink: "${env:NULL}"}}\n'
    )
    read = parse(text, N="16", I="auto", S="1MiB", NULL="null")
    assert (read.flows[0].lanes, read.flows[0].commit.interval, read.flows[0].commit.max_bytes) == (16, None, 1 << 20)
    assert (read.worker.instance_id, read.telemetry.audit.sink) == ("16", "null")


def test_keys_are_not_substituted() -> None:
    assert "unknown key" in refused(with_flow('"${env:N}": 4'), N="lanes").message


SECRET_PLACES = [
    edited("paris: {", 'paris: {client: {client.id: "${env:SECRET}"}, '),
    edited("paris: {", 'paris: {client: {socket.timeout.ms: "${env:SECRET}"}, '),
    edited("paris: {", 'paris: {client: {security.protocol: "${env:SECRET}"}, '),
    edited("paris: {", 'paris: {client: {sasl.password: "${env:SECRET}"}, '),
    edited("a:9092", "${env:SECRET}"),
    edited("name: dr", 'name: "${env:SECRET}"'),
    edited("source: paris", 'source: "${env:SECRET}"'),
    edited("orders.*", "${env:SECRET}"),
    with_flow('lanes: "${env:SECRET}"'),
    with_flow('start: "${env:SECRET}"'),
    with_flow('commit: {max_age: "${env:SECRET}"}'),
    with_flow('fetch: {max_bytes: "${env:SECRET}"}'),
    f'{MINIMAL}telemetry: {{logs: {{level: "${{env:SECRET}}"}}}}\n',
    f'{MINIMAL}telemetry: {{http: {{listen: "${{env:SECRET}}"}}}}\n',
    f'{MINIMAL}telemetry: {{traces: {{ratio: "${{env:SECRET}}"}}}}\n',
]


@pytest.mark.parametrize("text", SECRET_PLACES)
def test_no_error_repeats_a_substituted_value(text: str) -> None:
    error = refused(text, SECRET="*Hunter2 (?P<Hunter3")
    assert "Hunter" not in error.message + error.hint


@relaxed
@given(st.text(st.sampled_from("{}[]:,-&*!|>'\"%@`# \n\tab${env:}~?0")) | st.text())
def test_no_text_does_worse_than_a_problem_with_its_place(text: str) -> None:
    problems = refused(text, A="x").problems
    assert all(problem.line >= 1 and problem.column >= 1 and problem.cause for problem in problems)
