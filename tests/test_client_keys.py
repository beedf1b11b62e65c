"""Client keys: what safety rests on is refused with its reason, what is accepted works."""

from __future__ import annotations

import pytest
from configtext import parse, refused, with_client
from confluent_kafka.admin import AdminClient

from eomirror import client_keys


@pytest.mark.parametrize("key", sorted(client_keys.FORCED))
def test_a_client_key_that_safety_rests_on_is_refused_with_its_reason(key: str) -> None:
    error = refused(with_client(f"{key}: x"))
    assert f"this key cannot be set: {client_keys.FORCED[key].reason}" in error.message
    assert error.hint == client_keys.FORCED[key].hint
    assert "auto.offset.reset" in client_keys.FORCED


def test_no_client_key_is_both_accepted_and_forced_and_only_accepted_ones_are_shown() -> None:
    assert not client_keys.ACCEPTED.keys() & client_keys.FORCED.keys()
    assert client_keys.ACCEPTED.keys() >= client_keys.SHOWN


# Those of secured clusters go together only; tests/test_security.py has them.
ALONE = sorted(key for key in client_keys.ACCEPTED if not key.startswith(("sasl.", "ssl.", "security.")))


@pytest.mark.parametrize("key", ALONE)
def test_what_is_accepted_for_a_client_key_librdkafka_takes_too(key: str) -> None:
    match client_keys.ACCEPTED[key]:
        case client_keys.Number(low, high):
            values = [str(low), str(high)]
            for beyond in (low - 1, high + 1):
                assert "is not a whole number" in refused(with_client(f"{key}: {beyond}")).message
        case client_keys.Word(words):
            values = list(words)
        case client_keys.Text():
            values = ["a-b_c.1"]
    for value in values:
        assert parse(with_client(f"{key}: {value}")).clusters["paris"].client == {key: value}
        AdminClient({"bootstrap.servers": "127.0.0.1:1", "log_level": 0, key: value})
