"""How many rows another folder has paid for is what a plain count of its ledger says."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pipeline.ledger import matching
from pipeline.ledger.schema import empty


class Known(NamedTuple):
    """A row of the other ledger. `verdict` is that of its last attempt, None while it is out."""

    text: int
    answered: bool
    verdict: str | None


TEXTS = st.integers(0, 4)
KNOWN = st.builds(
    Known, TEXTS, st.booleans(), st.sampled_from([None, "ok", "failed", "refused", "ambiguous"])
)


@given(st.lists(KNOWN, max_size=12), st.lists(TEXTS, max_size=12))
def test_a_key_counts_as_often_as_it_is_asked_for_and_was_or_may_have_been_paid(known, asked):
    paid = Counter(row.text for row in known if row.answered or row.verdict in (None, "ambiguous"))
    with closing(empty()) as db:
        for number, row in enumerate(known, start=1):
            db.execute(
                "INSERT INTO rows (row_id, identity, occurrence, row_key, state, last_attempt,"
                " ok_attempt) VALUES (?, ?, ?, ?, 'ok', ?, ?)",
                (
                    number,
                    key(row.text),
                    number,
                    key(row.text),
                    number,
                    number * row.answered or None,
                ),
            )
            db.execute(
                "INSERT INTO attempts (attempt_id, row_id, version, run, sheet_row, sent_at,"
                " verdict) VALUES (?, ?, 1, 1, ?, 1.0, ?)",
                (number, number, number, row.verdict),
            )
        found = matching.count_paid(map(key, asked))(db)
    assert found == (paid & Counter(asked)).total()


def key(text: int) -> bytes:
    return bytes((text,)) * 16
