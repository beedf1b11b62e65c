"""A `transform:` list from the file to what the kernel is given: the same headers at each end."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import reference_recipe
import yaml
from batches import examples
from configtext import MINIMAL, parse, with_flow
from hypothesis import given
from hypothesis import strategies as st

from eomirror import _fastpath, transform
from eomirror.transform import Step

names = st.sampled_from(["a", "b", "x-a", "x-b", "größe", "a b"])
patterns = st.one_of(names, st.sampled_from(["", "*", "x-*", "*a", "x*-*b", "**", "ö*", "*ö*"]))
constants = st.text(st.sampled_from("ab{}-é\n"), max_size=6).map(
    lambda text: text.replace("{", "{{").replace("}", "}}")
)
values = st.lists(
    st.one_of(constants, st.sampled_from([f"{{{name}}}" for name in transform.PLACEHOLDERS])), max_size=5
).map("".join)
steps = st.lists(
    st.one_of(
        st.builds(lambda header, value: {"set": {"header": header, "value": value}}, names, values),
        st.builds(lambda header: {"remove": {"header": header}}, patterns),
        st.tuples(st.one_of(names, st.just("")), names)
        .filter(lambda pair: pair[0] != pair[1])
        .map(lambda pair: {"rename": {"header": pair[0], "to": pair[1]}}),
        st.builds(lambda header: {"provenance": {"header": header}}, names),
        st.just({"provenance": {}}),
    ),
    max_size=6,
)
headers = st.lists(
    st.tuples(
        st.one_of(names, st.sampled_from(["", "x-", "eomirror.origin", "x-größe-b"])).map(str.encode),
        st.one_of(st.none(), st.binary(max_size=3)),
    ),
    max_size=6,
)
words = st.fixed_dictionaries(
    {
        "flow": st.sampled_from(["dr", "x"]),
        "source_cluster": st.sampled_from(["paris", "p.1"]),
        "topic": st.sampled_from(["orders", "a.b"]),
        "partition": st.integers(0, 2**31 - 1),
        "offset": st.integers(0, 2**63 - 1),
        "timestamp": st.integers(-(2**63), 2**63 - 1),
    }
)


KINDS = {
    "set": transform.SetHeader,
    "remove": transform.RemoveHeaders,
    "rename": transform.RenameHeaders,
    "provenance": transform.Provenance,
}


def decoded(plain: list[dict[str, Any]]) -> tuple[Step, ...]:
    """Steps as the file's rules let them through, but for those without effect."""
    made = tuple(KINDS[verb](**what) for step in plain for verb, what in step.items())
    assert [flaw for step in made for flaw in transform.flaws(step)] == []
    return made


@examples(300)
@given(steps, headers, words)
def test_the_operations_do_what_the_steps_say(
    plain: list[dict[str, Any]], before: reference_recipe.Headers, word: dict[str, Any]
) -> None:
    known = {name: str(word[name]) for name in ("flow", "source_cluster", "topic", "partition")}
    operations = transform.operations(decoded(plain), known)
    assert len(operations) == len(plain)
    after = reference_recipe.apply(operations, before, offset=word["offset"], timestamp=word["timestamp"])
    assert after == reference_recipe.transformed(plain, before, **word)
    # What `verify` holds the target against says the same.
    names = [(name.decode(), held) for name, held in before]
    again = transform.rewritten(operations, names, offset=word["offset"], timestamp=word["timestamp"])
    assert [(name.encode(), held) for name, held in again] == after


@examples(200)
@given(steps, st.lists(headers, min_size=1, max_size=4))
def test_a_step_that_is_called_idle_can_be_left_out(
    plain: list[dict[str, Any]], records: list[reference_recipe.Headers]
) -> None:
    made = decoded(plain)
    everything = [(name.encode(), b"") for name in ("a", "b", "x-a", "x-b", "größe", "a b", "", "eomirror.origin")]
    for index, _ in transform.idle_steps(made):
        left = [*made[:index], *made[index + 1 :]]
        for before in (everything, *records):
            assert _after(left, before) == _after(made, before)


def _after(made: Any, before: reference_recipe.Headers) -> reference_recipe.Headers:
    known = dict.fromkeys(("flow", "source_cluster", "topic", "partition"), "1")
    return reference_recipe.apply(transform.operations(made, known), before, offset=2, timestamp=3)


@pytest.mark.parametrize(
    ("plain", "idle"),
    [
        ('[{set: {header: a, value: x}}, {set: {header: a, value: "y"}}]', [(0, 1)]),
        ("[{remove: {header: a}}, {set: {header: a, value: x}}]", [(0, 1)]),
        ('[{set: {header: a, value: x}}, {remove: {header: "*"}}]', [(0, 1)]),
        ("[{provenance: {header: a}}, {provenance: {header: a}}, {remove: {header: a}}]", [(0, 2), (1, 2)]),
        ("[{remove: {header: a}}, {remove: {header: b}}, {remove: {header: a}}]", [(0, 2)]),
        ("[{rename: {header: a, to: b}}, {rename: {header: a, to: c}}]", [(1, 0)]),
        ('[{remove: {header: "x-*"}}, {rename: {header: x-a, to: b}}]', [(1, 0)]),
        ("[{set: {header: a, value: x}}, {remove: {header: b}}, {set: {header: c, value: x}}]", []),
        ("[{set: {header: a, value: x}}, {rename: {header: a, to: b}}, {set: {header: a, value: y}}]", []),
        ("[{remove: {header: a}}, {rename: {header: b, to: a}}, {rename: {header: a, to: c}}]", []),
        ("[{remove: {header: a}}, {set: {header: a, value: x}}, {rename: {header: a, to: c}}]", [(0, 1)]),
        ('[{remove: {header: a}}, {remove: {header: "*"}}]', [(0, 1)]),
        ('[{remove: {header: "*"}}, {remove: {header: a}}]', [(1, 0)]),
        ('[{remove: {header: "a*"}}, {remove: {header: "*"}}]', []),
        ("[{provenance: {}}, {provenance: {}}]", []),
    ],
)
def test_steps_without_effect_are_found(plain: str, idle: list[tuple[int, int]]) -> None:
    assert list(transform.idle_steps(decoded(yaml.safe_load(plain)))) == idle


@examples(300)
@given(st.text("ab*", max_size=8), st.text("ab*\n", max_size=8))
def test_a_star_stands_for_any_text(pattern: str, name: str) -> None:
    rule = ".*".join(re.escape(piece) for piece in pattern.split("*"))
    assert transform.matches(pattern, name) == (re.fullmatch(rule, name, re.DOTALL) is not None)


def test_constants_that_meet_are_one_part() -> None:
    flow = parse(with_flow('transform: [{set: {header: h, value: "{{{flow}}}/{topic}-{offset}{timestamp}é"}}]')).flows[
        0
    ]
    known = {"flow": "dr", "topic": "orders"}
    assert transform.operations(flow.transform, known) == [
        ("set", b"h", (b"{dr}/orders-", "offset", "timestamp", "é".encode()))
    ]


def test_what_is_filled_in_is_not_searched_for_placeholders() -> None:
    step = transform.SetHeader(header="h", value="{topic}{offset}")
    assert transform.operations([step], {"topic": "{offset}{{"}) == [("set", b"h", (b"{offset}{{", "offset"))]


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("{set: {header: a, value: '{{{topic}}}-{source_cluster}'}}", 'set "a" = "{{{topic}}}-paris"'),
        ("{set: {header: a, value: ''}}", 'set "a" = ""'),
        ("{remove: {header: a}}", 'remove "a"'),
        ("{remove: {header: 'x-*'}}", 'remove "x-*"'),
        ("{rename: {header: '', to: größe}}", 'rename "" to "größe"'),
        ("{provenance: {}}", 'add "eomirror.origin" = "paris/{topic}/{partition}/{offset}"'),
        ("{provenance: {header: h}}", 'add "h" = "paris/{topic}/{partition}/{offset}"'),
    ],
)
def test_an_operation_can_be_read(step: str, text: str) -> None:
    (made,) = parse(with_flow(f"transform: [{step}]")).flows[0].transform
    (operation,) = transform.operations([made], {"source_cluster": "paris"})
    assert transform.described(operation) == text


def test_what_is_no_operation_is_not_described() -> None:
    with pytest.raises(ValueError, match="not an operation"):
        transform.described(("drop", b"x"))


def test_a_flow_without_steps_has_no_operations() -> None:
    assert transform.operations(parse(MINIMAL).flows[0].transform, {}) == []


def test_no_steps_are_no_recipe() -> None:
    assert transform.compile_recipe((), flow="dr", source_cluster="paris", topic="orders", partition=0) is None


@pytest.mark.parametrize("placeholder", transform.PLACEHOLDERS)
def test_the_kernel_takes_the_longest_step_that_the_file_may_hold(placeholder: str) -> None:
    text = f"{{{placeholder}}}"
    step = transform.SetHeader(header="é" * 8192, value=text * (transform.LONGEST // len(text)))
    assert list(transform.flaws(step)) == []
    longest = {"flow": "f" * 64, "source_cluster": "c" * 64, "topic": "t" * 249, "partition": 2**31 - 1}
    recipe = transform.compile_recipe([step], **longest)  # type: ignore[arg-type]
    assert isinstance(recipe, _fastpath.Recipe)


def test_json_and_yaml_make_the_same_steps() -> None:
    plain = [{"set": {"header": "a", "value": "b"}}, {"provenance": {}}]
    assert parse(with_flow(f"transform: {json.dumps(plain)}")).flows[0].transform == decoded(plain)
