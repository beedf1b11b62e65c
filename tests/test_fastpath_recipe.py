"""Header recipes in the walk: reference == kernel, and each rule once by itself."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import reference
import reference_format as fmt
import reference_recipe
from batches import STAMP, Range, examples, header_lists, ranges
from hypothesis import given
from hypothesis import strategies as st
from reference_format import LOG_APPEND_TIME
from test_fastpath_pack import assert_same, failure, packed

from eomirror import _fastpath as kernel

Headers = list[tuple[bytes, bytes | None]]
names = st.sampled_from([b"", b"id", b"new", "größe".encode(), b"\xff", b"trace"])
patterns = st.one_of(
    st.sampled_from([b"*", b"", b"id", b"i*", b"*d", b"**", b"i*d", b"*i*d*", b"\xff*"]),
    st.lists(st.sampled_from([b"*", b"i", b"d", b"\xc3"]), max_size=6).map(b"".join),
)
parts = st.lists(st.sampled_from([b"", b"a", b"bc", b"x" * 200, "offset", "timestamp"]), max_size=5).map(tuple)
operations = st.one_of(
    st.tuples(st.just("remove"), names),
    st.tuples(st.just("remove_matching"), patterns),
    st.tuples(st.just("rename"), names, names),
    st.tuples(st.sampled_from(["set", "add"]), names, parts),
)
recipes = st.lists(operations, max_size=5).map(tuple)


def one_record(headers: Headers, offset: int = 5, timestamp: int = 1000, attributes: int = 0) -> bytes:
    payload = fmt.write_record(fmt.Rec(0, timestamp, b"k", b"v", tuple(headers)), 0)
    return fmt.write_batch(
        offset, payload, count=1, last_delta=0, attributes=attributes, max_timestamp=timestamp, base_timestamp=0
    )


def headers_after(steps: Any, headers: Headers, **record: Any) -> Headers:
    got = packed(one_record(headers, **record), recipe=kernel.Recipe(steps))
    assert got.error is None
    (batch,) = got.batches
    ((_, _, key, value, after),) = kernel.read_records(batch.view, 0, len(batch.view), [])
    assert (key, value) == (b"k", b"v")
    return after


@examples(150)
@given(ranges(), recipes)
def test_a_recipe_does_what_the_reference_says(fetched: Range, steps: tuple[Any, ...]) -> None:
    where = (fetched.start, fetched.end, fetched.position, fetched.aborted)
    got = kernel.pack(bytearray(fetched.data), *where, **STAMP, recipe=kernel.Recipe(steps))
    assert_same(got, reference.pack(fetched.data, *where, **STAMP, recipe=steps))
    assert all(batch.reencoded for batch in got.batches)


@examples(100)
@given(recipes, header_lists, st.integers(0, (1 << 63) - 2), st.integers(-(1 << 63), (1 << 63) - 1))
def test_a_record_s_headers_are_what_the_operations_make_of_them(
    steps: tuple[Any, ...], headers: Headers, offset: int, timestamp: int
) -> None:
    after = headers_after(steps, headers, offset=offset, timestamp=timestamp)
    assert after == reference_recipe.apply(steps, headers, offset=offset, timestamp=timestamp)


@examples(200)
@given(patterns, st.lists(st.sampled_from([b"i", b"d", b"\xc3", b"*"]), max_size=8).map(b"".join))
def test_a_pattern_matches_what_the_reference_matches(pattern: bytes, name: bytes) -> None:
    steps = (("remove_matching", pattern),)
    want = reference_recipe.apply(steps, [(name, b"v")], offset=0, timestamp=0)
    assert headers_after(steps, [(name, b"v")]) == want


def test_operations_see_what_those_before_them_left() -> None:
    steps = (
        ("rename", b"a", b"b"),
        ("set", b"b", (b"1",)),
        ("add", b"b", (b"2",)),
        ("rename", b"b", b"c"),
        ("remove", b"b"),
        ("remove_matching", b"x*"),
    )
    headers: Headers = [(b"a", b"0"), (b"x-1", None), (b"other", b""), (b"a", None), (b"x", b"")]
    assert headers_after(steps, headers) == [(b"other", b""), (b"c", b"1"), (b"c", b"2")]


@pytest.mark.parametrize("number", [0, 9, 10, 99, 100, 101, 12345678, 10**18, (1 << 63) - 1])
def test_numbers_are_decimal(number: int) -> None:
    offset = min(number, (1 << 63) - 2)
    steps = (("set", b"o", ("offset",)), ("set", b"t", (b"<", "timestamp", b"/", "offset", b">")))
    want = [(b"o", b"%d" % offset), (b"t", b"<%d/%d>" % (number, offset))]
    assert headers_after(steps, [], offset=offset, timestamp=number) == want
    for timestamp in (-1, -number, -(1 << 63)):
        steps = (("add", b"t", ("timestamp",)),)
        assert headers_after(steps, [], timestamp=timestamp) == [(b"t", b"%d" % timestamp)]


def test_the_timestamp_is_the_one_that_is_written() -> None:
    data = fmt.write_batch(
        0,
        fmt.write_record(fmt.Rec(0, 7), 0),
        count=1,
        last_delta=0,
        attributes=LOG_APPEND_TIME,
        max_timestamp=99,
    )
    (batch,) = packed(data, recipe=kernel.Recipe([("add", b"t", ("timestamp",))])).batches
    assert kernel.read_records(batch.view, 0, len(batch.view), []) == [(0, 99, None, None, [(b"t", b"99")])]


def test_a_recipe_without_operations_changes_nothing_but_reencodes() -> None:
    data = one_record([(b"a", None)])
    (batch,) = packed(data, recipe=kernel.Recipe(())).batches
    assert batch.reencoded
    assert kernel.read_records(batch.view, 0, len(batch.view), []) == kernel.read_records(
        packed(data).batches[0].view, 0, len(data), []
    )


def test_65_535_headers_are_rewritten() -> None:
    headers: Headers = [(b"id" if i % 2 else b"x", b"%d" % i) for i in range(65_535)]
    steps = (("rename", b"id", b"number"), ("remove", b"x"), ("add", b"last", (b"", "offset")))
    want = [(b"number", b"%d" % i) for i in range(1, 65_535, 2)]
    assert headers_after(steps, headers) == [*want, (b"last", b"5")]


def test_more_headers_than_a_list_holds_name_the_record() -> None:
    headers: Headers = [(b"", None)] * (1 << 20)
    payload = fmt.write_record(fmt.Rec(0, 0), 0) + fmt.write_record(fmt.Rec(1, 0, headers=tuple(headers)), 0)
    data = fmt.write_batch(5, b"", count=2, last_delta=1)
    data = data[:8] + (49 + len(payload)).to_bytes(4, "big") + data[12:] + payload
    data = data[:17] + kernel.crc32c(data[21:]).to_bytes(4, "big") + data[21:]
    assert packed(data, 5, recipe=kernel.Recipe([("remove", b"x")])).records == 2
    got = packed(data, 5, recipe=kernel.Recipe([("add", b"x", ())]))
    assert failure(got.error) == reference.Failure("RECORD_TOO_LARGE", 6, 7)
    assert str(got.error).endswith(
        "the record has 1048577 headers with those that are added, more than the 1048576 that can be rewritten"
    )
    assert (got.records, got.next_offset) == (1, 6)


def test_a_record_that_grows_beyond_the_limit_is_named_alone() -> None:
    data = one_record([]) + one_record([(b"id", b"")] * 2000, offset=6) + one_record([], offset=7)
    recipe = kernel.Recipe([("rename", b"id", b"x" * 1000)])
    got = packed(data, 5, recipe=recipe, max_batch_bytes=1 << 20)
    assert failure(got.error) == reference.Failure("RECORD_TOO_LARGE", 6, 7)
    assert str(got.error).endswith("the record alone is more than the 1048576 bytes that the target takes in a batch")
    assert ([b.runs for b in got.batches], got.next_offset) == ([((5, 1),)], 6)
    got = packed(data, 7, recipe=recipe, max_batch_bytes=1 << 20)
    assert (got.error, got.records, got.next_offset) == (None, 1, 8)


@pytest.mark.parametrize(
    "operation",
    [
        (),
        "remove",
        ["remove", b"a"],
        ("drop", b"a"),
        (1, b"a"),
        ("remove",),
        ("remove", b"a", b"b"),
        ("remove", "a"),
        ("remove", None),
        ("remove_matching", "a*"),
        ("rename", b"a"),
        ("rename", b"a", "b"),
        ("rename", "a", b"b"),
        ("set", b"a"),
        ("set", "a", ()),
        ("set", b"a", b"value"),
        ("set", b"a", ["offset"]),
        ("add", b"a", ("Offset",)),
        ("add", b"a", (7,)),
        ("add", b"a", (None,)),
        ("add", b"a", (bytearray(b"b"),)),
        ("add", b"a", (b"x" * (1 << 20),)),
        ("set", b"a", ("offset",) * (1 << 16)),
        ("remove", b"x" * ((1 << 20) + 1)),
        ([], b"a"),
    ],
)
def test_a_bad_operation_is_named_by_its_index(operation: Any) -> None:
    with pytest.raises(ValueError, match="operation 2: "):
        kernel.Recipe([("remove", b"a"), ("add", b"b", ()), operation])


def test_a_recipe_shows_its_operations_and_cannot_be_changed() -> None:
    recipe = kernel.Recipe([("set", b"a", (b"x", b"y", "offset", b"", b"z", b"")), ("add", b"b", (b"",))])
    assert recipe.operations == (("set", b"a", (b"xy", "offset", b"z")), ("add", b"b", ()))
    assert repr(recipe) == f"Recipe({recipe.operations!r})"
    assert pickle.loads(pickle.dumps(recipe)).operations == copy.copy(recipe).operations == recipe.operations
    with pytest.raises(AttributeError):
        recipe.operations = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        packed(one_record([]), recipe=recipe.operations)
