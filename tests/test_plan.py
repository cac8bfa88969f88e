"""Keys, bodies, occurrences and selections."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Refused
from pipeline.model import Held, State
from pipeline.plan import (
    Alike,
    Duplicates,
    Plan,
    Selection,
    Source,
    Variables,
    add_batch,
    bind,
    empty_plan,
    find_duplicates,
    finish_plan,
    identity,
    occurrences,
    parse_rows,
    select_again,
    select_resume,
)
from pipeline.spec import JobSpec

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PAIRS = st.dictionaries(TEXT, TEXT, min_size=1, max_size=4)


def request(pairs: dict[str, str], workflow: str = "wf"):
    sources = tuple(Source(name, n) for n, name in enumerate(sorted(pairs)))
    [found] = Variables(workflow, sources).requests([[pairs[n]] for n in sorted(pairs)])
    return found


@given(PAIRS)
def test_a_body_is_the_flat_map_of_variables_in_the_order_of_their_names(pairs):
    """As JSON in UTF-8, and the same at each attempt."""
    body = request(pairs).body
    assert json.loads(body) == pairs
    assert list(json.loads(body)) == sorted(pairs)
    assert request(pairs).body == body


@given(PAIRS, PAIRS)
def test_two_sets_of_variables_have_one_key_only_if_they_are_the_same(one, other):
    """However their texts run together."""
    assert (request(one).row_key == request(other).row_key) == (one == other)


def test_keys_do_not_depend_on_where_the_columns_stand_but_on_the_workflow():
    """Reordering a sheet changes nothing."""
    spec = JobSpec(Path("s"), "job", "wf", Path("i"), Path("o"))
    [ab] = bind(spec, ["a", "b"]).requests([["1"], ["2"]])
    [ba] = bind(spec, ["b", "a"]).requests([["2"], ["1"]])
    assert ab == ba
    assert request({"a": "1"}, "wf").row_key != request({"a": "1"}, "wf2").row_key


def test_the_key_is_the_same_in_every_release():
    """A changed key would pay for every finished row again."""
    found = request({"story": "a dog", "tone": "warm"}, "wf_story")
    assert found.row_key.hex() == "16f3c47f2e630dfbde96390ebfdfe7ac"
    assert identity(found.row_key, "sku 1").hex() == "904c647ee9a8758967be15676ca637ad"
    assert identity(found.row_key, None) == found.row_key


@given(st.lists(st.integers(0, 4), max_size=40))
def test_occurrences_count_the_equal_ones_before(values):
    """In the order of the sheet."""
    raw = b"".join(value.to_bytes(16, "big") for value in values)
    assert list(occurrences(raw)) == [values[:n].count(v) for n, v in enumerate(values)]


def planned(
    rows: int, held: dict[int, Held], selection: Selection, duplicates: Duplicates | None = None
) -> Plan:
    plan = empty_plan(rows, selection, duplicates)
    later = [] if duplicates is None else duplicates.numbers
    numbers = np.setdiff1d(np.arange(1, rows + 1), later)
    known = [Alike(one, np.array([n]), np.array([10 * n])) for n, one in held.items()]
    add_batch(plan, numbers, known, selection)
    finish_plan(plan, duplicates)
    return plan


def test_duplicates_are_the_rows_that_are_equal_to_an_earlier_one():
    """Each with the sheet row of the first of them; skipped rows have no place among them."""
    raw = b"".join(letter.encode().ljust(16, b".") for letter in "abacab")
    found = find_duplicates(raw, np.array([1, 2, 4, 5, 8, 9]))
    assert list(zip(found.numbers, found.firsts, strict=True)) == [(4, 1), (8, 1), (9, 2)]


def test_keys_that_share_their_first_half_are_told_apart():
    """Sorting goes by 64 bits until two of them are equal."""
    raw = b"".join(b"12345678" + str(n).encode().ljust(8) for n in (2, 1, 2))
    assert list(occurrences(raw)) == [0, 0, 1]


def test_duplicates_count_as_rows_and_are_sent_never():
    """Naming one of them names the row that is sent for it; each has the exit code's ear."""
    duplicates = Duplicates(np.array([3, 4]), np.array([1, 1]))
    plan = planned(4, {}, Selection(), duplicates)
    assert list(plan.send) == [True, True, False, False]
    assert (plan.to_send, plan.new, plan.counts[State.PENDING]) == (2, 2, 4)
    failed = {1: Held(State.FAILED, "request_blocked", maybe_paid=True)}
    again = planned(4, failed, select_resume(rows=parse_rows("4")), duplicates)
    assert list(again.send) == [True, False, False, False]
    assert list(again.covered) == [False, False, False, True]
    assert (again.counts[State.FAILED], again.codes["request_blocked"]) == (3, 3)
    assert again.risky == {State.FAILED: [1]}
    limited = planned(4, failed, select_resume(limit=2), duplicates)
    assert list(limited.send) == [True, True, False, False]
    none = planned(4, failed, select_resume(only=frozenset({"gateway"})), duplicates)
    assert not none.send.any()
    assert none.kept == Counter({State.FAILED: 3, State.PENDING: 1})


def test_a_plan_sends_what_the_selection_names_up_to_its_limit():
    """And counts where every row stands."""
    states = [None, State.OK, State.PENDING, State.FAILED, State.AMBIGUOUS, None]
    held = {n: Held(s, None) for n, s in enumerate(states, start=1) if s is not None}
    plan = planned(6, held, Selection())
    assert list(plan.send) == [True, False, True, False, False, True]
    assert (plan.to_send, plan.new) == (3, 2)
    assert plan.counts[State.PENDING] == 3
    limited = planned(6, held, Selection(limit=2))
    assert list(limited.send) == [True] + [False] * 5


@pytest.mark.parametrize(
    ("text", "rows"),
    [("3", {3}), ("3,7-9", {3, 7, 8, 9}), (" 1 , 2 - 3 ", {1, 2, 3}), ("5,5-6,6", {5, 6})],
)
def test_rows_are_listed_as_people_list_them(text, rows):
    """Single numbers and spans."""
    listed = parse_rows(text)
    assert {n for n in range(20) if n in listed} == rows
    assert listed.last == max(rows)


@pytest.mark.parametrize("text", ["", "0", "3-", "-3", "9-7", "a", "1,,2", "1.5", "٣-"])
def test_what_is_no_list_of_rows_is_refused(text):
    """With an example."""
    with pytest.raises(Refused, match="3,7-9"):
        parse_rows(text)


GIVEN_UP = Held(State.FAILED, "request_blocked", given_up=True)


def test_a_row_that_was_given_up_is_sent_only_when_it_is_named():
    """By its number; a code does not name it."""
    assert not select_resume().chooses(GIVEN_UP)
    assert not select_resume(only=frozenset({"request_blocked"})).chooses(GIVEN_UP)
    assert select_resume(rows=parse_rows("1")).chooses(GIVEN_UP)


def test_a_plan_knows_what_may_be_paid_twice():
    """Ambiguous rows, answered ones, and failed ones that may have been billed."""
    held = {
        1: Held(State.AMBIGUOUS, "gateway", maybe_paid=True),
        2: Held(State.FAILED, "run_failed", maybe_paid=True),
        3: Held(State.FAILED, "request_blocked"),
        4: Held(State.OK, answered=True, maybe_paid=True),
    }
    plan = planned(4, held, select_resume(ambiguous=True))
    assert plan.risky == {State.AMBIGUOUS: [1], State.FAILED: [2]}
    assert plan.kept == Counter({State.OK: 1})
    again = planned(4, held, select_again(None))
    assert (again.risky, again.chosen_ids) == ({State.OK: [4]}, [40])
    assert list(again.covered) == [True] * 4
