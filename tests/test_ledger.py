"""Runs, tallies and the chain: what is booked is what was written, and nobody can rewrite it unseen."""

from __future__ import annotations

import hashlib
import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eomirror import _fastpath, ledger
from eomirror.errors import Reason
from eomirror.ledger import Book, Run, decode_runs, encode_runs
from eomirror.records import Gap, LedgerRecord, LedgerRoute, Tally
from tests.fakes import batch, lane_record

relaxed = settings(deadline=None)
steps = st.tuples(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 2**20))


def _runs(triples: list[tuple[int, int, int]]) -> list[Run]:
    """Runs from the skips before each of them and their sizes."""
    runs = []
    source = target = 0
    for source_skip, target_skip, size in triples:
        runs.append(Run(source + source_skip, target + target_skip, size))
        source, target = source + source_skip + size, target + target_skip + size
    return runs


def _pairs(runs: list[Run]) -> list[tuple[int, int]]:
    return [(r.source_first + i, r.target_first + i) for r in runs for i in range(r.size)]


@relaxed
@given(st.lists(steps, max_size=40))
def test_runs_read_back_as_they_were_written(triples: list[tuple[int, int, int]]) -> None:
    runs = _runs(triples)
    assert list(decode_runs(encode_runs(runs))) == runs
    assert encode_runs(runs) == tuple(itertools.chain.from_iterable(triples))


def test_runs_are_delta_coded_triples() -> None:
    assert encode_runs([Run(10, 100, 5), Run(15, 106, 2), Run(20, 108, 1)]) == (10, 100, 5, 0, 1, 2, 3, 0, 1)
    assert encode_runs([]) == ()
    assert list(decode_runs(())) == []


@pytest.mark.parametrize(
    "runs",
    [
        [Run(0, 0, 0)],
        [Run(-1, 0, 1)],
        [Run(0, -1, 1)],
        [Run(5, 5, 3), Run(7, 8, 1)],
        [Run(5, 5, 3), Run(8, 7, 1)],
        [Run(5, 5, 3), Run(0, 0, 1)],
    ],
)
def test_runs_that_do_not_ascend_are_not_written(runs: list[Run]) -> None:
    with pytest.raises(ValueError, match="runs do not ascend at"):
        encode_runs(runs)


@pytest.mark.parametrize("flat", [(1,), (1, 2), (1, 2, 3, 4), (1, 2, 3, 4, 5)])
def test_half_a_triple_is_an_error(flat: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="runs end within a triple"):
        list(decode_runs(flat))


@pytest.mark.parametrize("flat", [(-1, 0, 1), (0, -1, 1), (0, 0, 0), (5, 5, 5, 0, 0, -2)])
def test_numbers_that_are_no_run_are_an_error(flat: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not a run"):
        list(decode_runs(flat))


@st.composite
def _written(draw: st.DrawFn) -> list[tuple[tuple[tuple[int, int], ...], int, bytes, int]]:
    """Batches as a lane writes them: (runs, base offset, payload, newest timestamp), ascending on both sides."""
    source = target = 0
    written = []
    for _ in range(draw(st.integers(0, 12))):
        runs = []
        for _ in range(draw(st.integers(1, 4))):
            source += draw(st.integers(0, 3))
            size = draw(st.integers(1, 5))
            runs.append((source, size))
            source += size
        target += draw(st.integers(0, 2))
        written.append((tuple(runs), target, draw(st.binary(max_size=9)), draw(st.integers(-1, 99))))
        target += sum(size for _, size in runs)
    return written


@relaxed
@given(_written(), st.integers(0, 12))
def test_the_book_holds_exactly_what_was_written(
    written: list[tuple[tuple[tuple[int, int], ...], int, bytes, int]], restart: int
) -> None:
    book = Book()
    naive: list[tuple[int, int]] = []
    for number, (runs, base, payload, newest) in enumerate(written):
        if number == restart:
            book = Book(book.tally())  # the lane rewinds: the checkpoint's pending tally is all that is left
        book.wrote(batch(*runs, payload=payload, newest=newest), base)
        sources = [first + i for first, size in runs for i in range(size)]
        naive += list(zip(sources, itertools.count(base), strict=False))
    tally = book.tally()
    decoded = list(decode_runs(tally.runs))
    assert _pairs(decoded) == naive
    assert tally.records == len(naive)
    assert tally.bytes == sum(61 + len(payload) for _, _, payload, _ in written)
    assert tally.digest == f"{_fastpath.crc32c(b''.join(payload for _, _, payload, _ in written)):08x}"
    assert tally.max_timestamp_ms == max((newest for *_, newest in written), default=None)
    assert book.run_count == len(decoded)
    for one, following in itertools.pairwise(decoded):
        assert (one.source_first + one.size, one.target_first + one.size) != (
            following.source_first,
            following.target_first,
        ), "a run that continues on both sides is the same run"


def test_a_marker_between_two_batches_begins_a_new_run() -> None:
    book = Book()
    book.wrote(batch((0, 3)), 0)
    book.wrote(batch((3, 3)), 3)
    book.wrote(batch((6, 3)), 7)
    assert book.tally().runs == (0, 0, 6, 0, 1, 3)


def test_a_book_that_goes_back_cannot_be_written_down() -> None:
    book = Book()
    book.wrote(batch((10, 3)), 10)
    book.wrote(batch((5, 3)), 13)
    with pytest.raises(ValueError, match="runs do not ascend"):
        book.tally()


def test_what_was_dropped_and_accepted_is_in_the_tally() -> None:
    book = Book()
    assert book.empty
    book.dropped(2, 30)
    book.dropped(1, 0)
    gap = Gap(5, 9, Reason.SOURCE_GAP, "ada")
    book.accept(gap)
    assert not book.empty
    assert book.tally() == Tally(control_batches=3, aborted_records=30, gaps=(gap,))
    assert Book(book.tally()).tally() == book.tally()


def test_nothing_dropped_leaves_the_book_empty() -> None:
    book = Book()
    book.dropped(0, 0)
    assert book.empty
    assert book.tally() == Tally()


@relaxed
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)), min_size=1, max_size=8))
def test_the_chain_verifies(transactions: list[tuple[int, int]]) -> None:
    """Each record names the hash of the one before, the next number, and the transactions right after its own."""
    head = lane_record(n=0, announced={})
    values = []
    for passed, size in transactions:
        head = msgspec.structs.replace(head, n=head.n + passed)
        routes = (LedgerRoute("orders", 0, "orders", 0, Tally(records=size)),)
        value, digest = ledger.chain(3, head, routes, written_at_ms=77, rewinds={"epoch": size})
        values.append(value)
        head = msgspec.structs.replace(
            head, n=head.n + 1, ledger_sequence=head.ledger_sequence + 1, ledger_hash=digest, ledger_n=head.n
        )
    previous, following = "", 0
    for sequence, value in enumerate(values):
        record = msgspec.json.decode(value, type=LedgerRecord)
        assert (record.lane, record.sequence, record.previous) == (3, sequence, previous)
        assert record.first_n == following
        assert record.last_n >= record.first_n
        previous, following = hashlib.sha256(value).hexdigest(), record.last_n + 1
    assert (head.ledger_hash, head.ledger_sequence, head.ledger_n) == (previous, len(values), following - 1)
