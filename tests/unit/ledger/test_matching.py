"""Finished rows that stand where they stood are found by one statement, all others one by one."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.model import Alike, Held, State
from pipeline.ledger import matching
from pipeline.ledger.schema import empty


class Known(NamedTuple):
    """A row of the ledger: its text, and where it stood at the last run. By default it is finished,
    and stood where it stands in the list."""

    text: int
    state: State = State.OK
    code: str | None = None
    answered: bool = True
    given_up: bool = False
    reviewed: bool = False
    place: str = "stays"


# Every way in which a row is not a plain finished one.
UNUSUAL = [
    *({"state": state} for state in State if state is not State.OK),
    {"code": "gateway"},
    {"answered": False},
    {"given_up": True},
    {"reviewed": True},
    {"place": "moved"},
    {"place": "gone"},
]
# Few texts, so that many rows are equal.
TEXTS = st.integers(0, 7)
KNOWN = TEXTS.map(Known) | st.builds(
    lambda text, some: Known(text, **{k: v for one in some for k, v in one.items()}),
    TEXTS,
    st.lists(st.sampled_from(UNUSUAL), max_size=2),
)
# The sheet now: the same rows with some edited, skipped or new ones among them.
EDITS = st.lists(st.sampled_from(["keep", "keep", "keep", "edit", "skip", "remove", "insert"]))


@given(st.lists(KNOWN, max_size=12), EDITS, st.lists(st.integers(0, 7), max_size=4), st.booleans())
def test_a_row_in_its_old_place_has_the_same_record_as_by_its_name(known, edits, more, sort):
    with closing(ledger_of(known)) as slow, closing(ledger_of(known)) as fast:
        sheet = sheet_after([row.text for row in known], edits, more)
        if sort:
            sheet.sort(key=lambda text: -1 if text is None else text)
        assert match(slow, sheet, in_place=False) == match(fast, sheet, in_place=True)
        assert after_match(slow) == after_match(fast)


@pytest.mark.parametrize("unusual", UNUSUAL, ids=str)
def test_one_thing_alone_leaves_a_row_to_the_look_up(unusual):
    """Row 3 is unusual in one way. The others are found in their places, and row 3 by its name."""
    known = [Known(0), Known(1), Known(2, **unusual), Known(3), Known(4), Known(5)]
    with closing(ledger_of(known)) as db:
        matching.begin(db)
        alike = matching.find_in_place(names_of([0, 1, 2, 3, 4, 5]), range(1, 100))(db)
        assert alike.held == Held(State.OK, answered=True, maybe_paid=True)
        assert alike.numbers.tolist() == [1, 2, 4, 5, 6] == alike.row_ids.tolist()
        assert list(by_row(matching.look_up([(3, identity_of(2), 0)])(db))) == [3]


def test_of_equal_rows_none_is_found_by_its_place():
    """`begin` ranks them: the sheet's first one may get the answer of the ledger's second one."""
    known = [Known(0, State.FAILED), Known(1), Known(0)]
    with closing(ledger_of(known)) as db:
        matching.begin(db)
        alike = matching.find_in_place(names_of([0, 1, 0]), range(1, 100))(db)
        assert alike.numbers.tolist() == [2]
        [(number, (held, row_id))] = by_row(matching.look_up([(1, identity_of(0), 0)])(db)).items()
    assert (number, held.state, row_id) == (1, State.OK, 3)


@pytest.mark.parametrize("stay", [0, 1], ids=["all skipped", "every second skipped"])
def test_what_the_match_asks_grows_with_the_rows_and_not_with_their_square(stay):
    """A reader that takes too many steps of SQLite calls the ledger damaged."""
    few, many = (steps_after_match(count, stay) for count in (300, 900))
    assert many < 4 * few


def steps_after_match(count: int, stay: int) -> int:
    """Returns hundreds of steps, where each row was finished and at least every second is skipped
    now."""
    with closing(ledger_of([Known(text) for text in range(count)])) as db:
        sheet = [text if stay and text % 2 else None for text in range(count)]
        matching.begin(db)
        matching.find_in_place(names_of(sheet), range(1, count + 1))(db)
        skipped = [(n, identity_of(n - 1)) for n, text in enumerate(sheet, 1) if text is None]
        steps = 0

        def count_steps() -> None:
            nonlocal steps
            steps += 1

        db.set_progress_handler(count_steps, 100)
        matching.keep_answers(skipped)(db)
        matching.answered_rows(finished=True)(db)
        matching.finished_before(db)
        matching.paid_and_absent([], "", unknown=True)(db)
        matching.check_absent(db)
        matching.adopt("snapshot", "sha256")(db)
        return steps


def sheet_after(texts: list[int], edits: list[str], more: list[int]) -> list[int | None]:
    """Returns the text of each row of the edited sheet, None for a skipped row."""
    sheet: list[int | None] = []
    for place, text in enumerate(texts):
        edit = edits[place] if place < len(edits) else "keep"
        if edit == "insert":
            sheet.append(len(edits) % 8)
        if edit in ("keep", "insert"):
            sheet.append(text)
        elif edit == "edit":
            sheet.append((text + 1) % 8)
        elif edit == "skip":
            sheet.append(None)
    return sheet + more


def ledger_of(known: list[Known]) -> sqlite3.Connection:
    """Returns a ledger with these rows. Row n stood at n, at another place, or nowhere."""
    db, occurrences, reviewed = empty(), Counter(), []
    db.execute("INSERT INTO runs (run_id, started_at, rows, skipped) VALUES ('run', 1.0, 1, 0)")
    for number, row in enumerate(known, 1):
        name = identity_of(row.text)
        where = {"stays": number, "moved": len(known) + 1 - number, "gone": None}[row.place]
        answer = number if row.answered else None
        db.execute(
            "INSERT INTO rows (identity, occurrence, row_key, state, code, last_attempt,"
            " ok_attempt, given_up, sheet_row) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(name, occurrences[row.text], name, row.state, row.code, number),
                *(answer, row.given_up, where),
            ),
        )
        db.execute(
            "INSERT INTO attempts (attempt_id, row_id, version, run, sheet_row, sent_at, verdict)"
            " VALUES (?, ?, 1, 1, ?, 1.0, 'ok')",
            (number, number, number),
        )
        occurrences[row.text] += 1
        reviewed += [number] if row.reviewed else []
    matching.protect(reviewed)(db)
    return db


def identity_of(text: int) -> bytes:
    return (text + 1).to_bytes(16, "big")


def names_of(sheet: list[int | None]) -> memoryview:
    """Returns the sheet as `find_in_place` takes it."""
    seen: set[int | None] = {None}
    names = np.zeros((len(sheet), 16), np.uint8)
    for place, text in enumerate(sheet):
        if text not in seen:
            names[place] = list(identity_of(text))
            seen.add(text)
    return names.data


def match(
    db: sqlite3.Connection, sheet: list[int | None], *, in_place: bool
) -> dict[int, tuple[Held, int]]:
    """Matches the whole sheet. Returns the record and the row id of each row that is found."""
    matching.begin(db)
    found = []
    if in_place:
        spans = (range(1, 4), range(4, 100))
        found += [matching.find_in_place(names_of(sheet), span)(db) for span in spans]
    done = {number for alike in found for number in alike.numbers.tolist()}
    ranks: Counter[int] = Counter()
    wanted = []
    for number, text in enumerate(sheet, 1):
        if text is None:
            continue
        if number not in done:
            wanted.append((number, identity_of(text), ranks[text]))
        ranks[text] += 1
    found += matching.look_up(wanted)(db)
    return by_row(found)


def after_match(db: sqlite3.Connection) -> list[object]:
    """Returns which rows the sheet has, and which it does not have, by everything that asks."""
    skipped = [(100 + text, identity_of(text)) for text in range(8)]
    asked = [
        *(sorted(matching.answered_rows(finished=finished)(db)) for finished in (True, False)),
        matching.finished_before(db),
        sorted(matching.paid_and_absent([], "", unknown=True)(db)),
        sorted(matching.keep_answers(skipped)(db)),
    ]
    matching.check_absent(db)
    matching.adopt("snapshot", "sha256")(db)
    return [*asked, db.execute("SELECT row_id, occurrence, sheet_row FROM rows").fetchall()]


def by_row(found: list[Alike]) -> dict[int, tuple[Held, int]]:
    pairs = [
        (number, (alike.held, row_id))
        for alike in found
        for number, row_id in zip(alike.numbers.tolist(), alike.row_ids.tolist(), strict=True)
    ]
    assert len(dict(pairs)) == len(pairs), "a row was found twice"
    return dict(pairs)
