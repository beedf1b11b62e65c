"""The event log: whatever is in a field, an event is one line that reads back as it was."""

from __future__ import annotations

import datetime
import enum
import io
import json
import math
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eomirror import logs
from eomirror.errors import Refused
from eomirror.units import Duration

relaxed = settings(deadline=None)

NOON = datetime.datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=datetime.UTC)

# All of Unicode, half surrogate pairs included: topic names are tame, error texts and file names are not.
any_text = st.text(st.characters(codec=None), max_size=40)
any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
field_names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    logs.configure()


def written(format: logs.Format, event: str, fields: dict[str, Any], *, level: str = "debug") -> str:
    stream = io.StringIO()
    logs.configure(level, format, stream, now=lambda: NOON)
    logs.get("lane").info(event, **fields)
    return stream.getvalue()


def test_json_line_has_time_level_logger_event_then_the_fields_in_order() -> None:
    line = written("json", "lane.committed", {"lane": 3, "records": 100, "seconds": 0.2})
    assert line == (
        '{"ts":"2026-03-01T12:00:00.123Z","level":"info","logger":"lane","event":"lane.committed",'
        '"lane":3,"records":100,"seconds":0.2}\n'
    )


def test_human_line_has_time_level_event_and_key_value_pairs() -> None:
    fields = {"lane": 3, "topic": "orders", "seconds": 0.1234567, "why": "a b", "n": None}
    line = written("human", "lane.committed", fields)
    local = NOON.astimezone().strftime("%H:%M:%S")
    assert line == f'{local}.123 info    lane.committed lane=3 topic=orders seconds=0.123457 why="a b" n=null\n'


def single_line(text: str) -> str:
    """The text without its line end, checked: no reader can see two lines in it, no terminal a command."""
    assert text.endswith("\n")
    body = text[:-1]
    assert body.isprintable()
    assert len(body.splitlines()) == 1
    return body


def escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


@relaxed
@given(fields=st.dictionaries(field_names | any_text, any_value, max_size=4), event=any_text)
@example(fields={}, event="\ud800")
@example(fields={"\udfff": "\ud800"}, event="e")
@example(fields={"topic": {"\ud800": b"\xff"}}, event="e")
@example(fields={"a\u2028b": "\x9b\x85\x7f"}, event="a\nb")
def test_any_value_in_any_field_is_one_json_object_on_one_line(fields: dict[str, Any], event: str) -> None:
    parsed = json.loads(single_line(written("json", event or "e", fields)))
    assert parsed["event"] == escaped(event or "e")
    assert set(parsed) == {"ts", "level", "logger", "event"} | {
        f"{key}_" if key in ("ts", "level", "logger", "event") else escaped(key) for key in fields
    }


@relaxed
@given(text=any_text)
@example("\ud83d\ude00 half \ud83d")
@example('a" b=1')
@example("a=1")
@example("")
@example("null")
@example("\\")
def test_text_reads_back_from_json_as_it_was(text: str) -> None:
    assert json.loads(single_line(written("json", "e", {"topic": text})))["topic"] == escaped(text)


@relaxed
@given(text=any_text)
@example("\ud83d\ude00 half \ud83d")
@example('a" b=1')
@example("a=1")
@example("")
@example("null")
@example("\\")
def test_text_reads_back_from_the_human_line_and_cannot_forge_a_field(text: str) -> None:
    line = single_line(written("human", "e", {"topic": text, "end": 1}))
    match = re.fullmatch(r"\S+ info    e topic=(\"(?:[^\"\\]|\\.)*\"|[^\s\"=]+) end=1", line)
    assert match is not None
    shown = match[1]
    assert (json.loads(shown) if shown.startswith('"') else shown) == escaped(text)


@relaxed
@given(fields=st.dictionaries(field_names | any_text, any_value, max_size=4), event=any_text)
@example(fields={}, event="\ud800")
@example(fields={"\udfff": "\ud800"}, event="e")
@example(fields={"topic": {"\ud800": b"\xff"}}, event="e")
@example(fields={"a\u2028b": "\x9b\x85\x7f"}, event="a\nb")
def test_any_value_in_any_field_is_one_human_line(fields: dict[str, Any], event: str) -> None:
    single_line(written("human", event, fields))


def test_a_name_that_looks_like_a_second_event_stays_inside_its_field() -> None:
    forged = 'orders\n{"ts":"2026-01-01T00:00:00Z","level":"error","event":"lane.lost"}'
    lines = written("json", "lane.fault", {"topic": forged}).splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["lane.fault"]
    assert json.loads(lines[0])["topic"] == forged


def test_an_exception_is_shown_with_type_message_and_hint() -> None:
    error = Refused("orders[3]: source starts at 812", hint='Run "eomirror fault accept dr orders 3".')
    assert json.loads(written("json", "e", {"error": error}))["error"] == {
        "type": "Refused",
        "message": "orders[3]: source starts at 812",
        "hint": 'Run "eomirror fault accept dr orders 3".',
    }


def fail() -> None:
    raise ValueError("outer") from OSError("inner")


def test_an_exception_is_shown_with_its_cause_and_knows_where_it_came_from() -> None:
    with pytest.raises(ValueError, match="outer") as caught:
        fail()
    told = json.loads(written("json", "e", {"error": caught.value}))["error"]
    assert told == {"type": "ValueError", "message": "outer", "cause": "OSError: inner"}
    assert re.fullmatch(r".*test_logs\.py:\d+ fail", logs.where(caught.value)[-1])


class Step(enum.StrEnum):
    END_SENT = "end_sent"


class Count(enum.IntEnum):
    ONE = 1


class Route(msgspec.Struct, frozen=True):
    topic: str
    partition: int


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Duration(1500), "1500ms"),
        (Step.END_SENT, "end_sent"),
        (Count.ONE, "ONE"),
        (Route("orders", 3), {"topic": "orders", "partition": 3}),
        (b"\x00\xff", "00ff"),
        (NOON, "2026-03-01T12:00:00.123456+00:00"),
        ((1, 2), [1, 2]),
        ({3, 1}, [1, 3]),
        (math.inf, "inf"),
        (1 << 64, "0x10000000000000000"),
        ((1 << 64) - 1, (1 << 64) - 1),
        ({("a", 1): True}, {"('a', 1)": True}),
        (Mute(), "<Mute without text: RuntimeError>"),
    ],
)
def test_values_are_shown_in_json_types(value: object, shown: object) -> None:
    assert json.loads(written("json", "e", {"value": value}))["value"] == shown


def test_a_value_that_contains_itself_does_not_stop_the_lane() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert "[[[" in written("json", "e", {"loop": loop})


def test_fields_named_like_the_line_s_own_keys_are_kept_beside_them() -> None:
    parsed = json.loads(written("json", "e", {"level": 7, "event": "x", "ts": 1}))
    assert (parsed["level"], parsed["event"]) == ("info", "e")
    assert (parsed["level_"], parsed["event_"], parsed["ts_"]) == (7, "x", 1)


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["d", "i", "w", "e"]),
        ("info", ["i", "w", "e"]),
        ("warning", ["w", "e"]),
        ("error", ["e"]),
    ],
)
def test_events_below_the_level_are_not_written(level: str, seen: list[str]) -> None:
    stream = io.StringIO()
    logs.configure(level, "json", stream)
    log = logs.get("lane")
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == seen
    assert log.enabled(logs.Level.INFO) == ("i" in seen)
    assert logs.configured() == (level, "json")


def test_bound_fields_are_in_every_line_and_the_nearest_wins() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    outer = logs.get("lane", flow="dr", lane=1)
    outer.bind(lane=2).info("a", records=1)
    outer.info("b", lane=3)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["flow"], line["lane"]) for line in lines] == [("dr", 2), ("dr", 3)]


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("", True), ("1", False)])
def test_auto_is_human_on_a_terminal_and_coloured_unless_no_color(
    monkeypatch: pytest.MonkeyPatch, no_color: str | None, coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    stream = Terminal()
    logs.configure("info", "auto", stream)
    logs.get("lane").warning("lane.rewind", topic="\x1b[2J")
    line = stream.getvalue()
    assert (line.count("\x1b") == 2) == coloured
    assert line.count("\x1b") in (0, 2)
    assert line.endswith('lane.rewind topic="\\u001b[2J"\n')


def test_auto_is_json_without_a_terminal() -> None:
    assert json.loads(written("auto", "e", {}))["event"] == "e"


def test_json_on_a_terminal_has_no_colours() -> None:
    stream = Terminal()
    logs.configure("info", "json", stream)
    logs.get("lane").error("e")
    assert json.loads(stream.getvalue())["level"] == "error"


def test_the_default_stream_is_stderr_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logs.get("lane").info("e")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "e"


class Slow(io.StringIO):
    """Gives way in the middle of each write, so that a second writer would be seen inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.inside = 0
        self.overlaps = 0

    def write(self, text: str) -> int:
        self.inside += 1
        time.sleep(0.0002)
        self.overlaps += self.inside > 1
        self.inside -= 1
        self.writes.append(text)
        return len(text)


def test_lines_of_many_threads_are_whole() -> None:
    stream = Slow()
    logs.configure("info", "json", stream)

    def work(lane: int) -> None:
        log = logs.get("lane", lane=lane)
        for index in range(100):
            log.info("e", index=index)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [json.loads(text) for text in stream.writes]
    assert sorted((line["lane"], line["index"]) for line in seen) == [
        (lane, i) for lane in range(4) for i in range(100)
    ]
    assert stream.overlaps == 0


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_stream_that_is_gone_never_stops_a_lane() -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (Broken(), closed):
        logs.configure("info", "auto", stream)
        logs.get("lane").info("e")
    assert logs.configured() == ("info", "json")


@pytest.mark.parametrize(
    ("number", "level"), [(5, "debug"), (10, "debug"), (20, "info"), (35, "warning"), (40, "error"), (50, "error")]
)
def test_lines_of_librdkafka_come_in_through_log(number: int, level: str) -> None:
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    logs.get("admin", cluster="paris").log(number, "%s: %s", "FAIL", "refused\nx")
    parsed = json.loads(single_line(stream.getvalue()))
    assert (parsed["level"], parsed["event"], parsed["message"]) == (level, "admin.librdkafka", "FAIL: refused\nx")


def test_a_message_of_librdkafka_that_does_not_fit_its_arguments_is_shown_as_it_is() -> None:
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    logs.get("admin").log(20, "100% %d", "x")
    parsed = json.loads(stream.getvalue())
    assert (parsed["message"], parsed["args"]) == ("100% %d", ["x"])
