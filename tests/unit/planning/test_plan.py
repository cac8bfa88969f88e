"""Keys, bodies, occurrences and selections."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import Refused
from pipeline.core.model import Alike, Held, State
from pipeline.inputs.identity import (
    Duplicates,
    find_duplicates,
    identity,
    key_of,
    no_duplicates,
    occurrences,
)
from pipeline.inputs.mapping import Variables, VariableSource, bind
from pipeline.job.spec import JobSpec
from pipeline.planning.plan import Plan, add_batch, empty_plan, finish_plan
from pipeline.planning.selection import (
    Flagged,
    Selection,
    parse_rows,
    select_again,
    select_resume,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PAIRS = st.dictionaries(TEXT, TEXT, min_size=1, max_size=4)


class Request(NamedTuple):
    row_key: bytes
    body: bytes


def request(pairs: dict[str, str], workflow: str = "wf") -> Request:
    sources = tuple(VariableSource(name, n) for n, name in enumerate(sorted(pairs)))
    [found] = requests(Variables(workflow, sources), [[pairs[n]] for n in sorted(pairs)])
    return found


def requests(variables: Variables, columns: list[list[str]]) -> list[Request]:
    return list(map(Request, variables.keys(columns), variables.bodies(columns)))


@given(PAIRS)
def test_a_body_is_the_flat_map_of_variables_in_the_order_of_their_names(pairs):
    """It is JSON in UTF-8, and the same for each attempt."""
    body = request(pairs).body
    assert json.loads(body) == pairs
    assert list(json.loads(body)) == sorted(pairs)
    assert request(pairs).body == body
    assert key_of("wf", dict(sorted(pairs.items()))) == request(pairs).row_key


@given(PAIRS, PAIRS)
def test_two_sets_of_variables_have_the_same_key_only_if_they_are_equal(one, other):
    """Also if their texts joined together are equal."""
    assert (request(one).row_key == request(other).row_key) == (one == other)


def spec_of(**fields) -> JobSpec:
    return JobSpec(Path("job.yaml"), "job", "wf", Path("data/sheet.csv"), Path("o"), **fields)


def test_a_workbook_with_a_title_above_its_table_gets_a_hint_about_header_row():
    """A workbook has no separators, so those are not the cause."""
    spec = replace(spec_of(variables=(("name", "Name"),)), input=Path("data/sheet.xlsx"))
    with pytest.raises(Refused, match=r"only one column\. If another row .* set `header_row:`"):
        bind(spec, ["Our articles, as of November"])


def test_constants_are_sent_with_every_row_and_belong_to_its_key():
    """In the order of the names, as UTF-8 without spaces: these bytes are the same in every
    release."""
    bound = bind(spec_of(variables=(("b", "B"),), constants=(("a", "wärm"),)), ["x", "B"])
    made = requests(bound, [["-", "-"], ["1", "2"]])
    assert [one.body.decode() for one in made] == [
        '{"a":"wärm","b":"1"}',
        '{"a":"wärm","b":"2"}',
    ]
    assert made[1].row_key == key_of("wf", {"a": "wärm", "b": "2"})
    assert bound.mapped == (1,)
    [source] = [source for source in bound.sources if source.column is not None]
    assert source.column_name == "B"


def test_without_a_mapping_columns_keep_their_names_except_those_the_runner_added():
    """Columns of an export and columns named like a constant are not sent."""
    columns = ["tone", "story", "result", "citations", "_status", "_row"]
    bound = bind(spec_of(constants=(("tone", "warm"),)), columns)
    assert [(s.name, s.column, s.constant) for s in bound.sources] == [
        ("story", 1, ""),
        ("tone", None, "warm"),
    ]


@pytest.mark.parametrize(
    ("fields", "columns", "words"),
    [
        (
            {},
            ["a", "result"],
            [
                'data/sheet.csv: the column "result" would be',
                "answer. Rename the column, or map it",
            ],
        ),
        ({}, ["result", "_status"], ["data/sheet.csv: no column is mapped to a variable"]),
        (
            {"variables": (("story", "Story"),), "lines": {"variables.story": 7}},
            ["Stories", "SKU"],
            [
                'job.yaml line 7: sheet.csv has no column "Story" for the variable "story".',
                'Did you mean "Stories"? It has: Stories, SKU. Nothing was sent.',
            ],
        ),
        (
            {"variables": (("story", "Story"),)},
            ["Idea;Tone"],
            ["It has: Idea;Tone. That is only one column. If another row is the header"],
        ),
        (
            {"id": "SKU", "lines": {"id": 9}},
            ["sku", "b"],
            [
                'job.yaml line 9: sheet.csv has no column "SKU".',
                'Did you mean "sku"? It has: sku, b. Nothing was sent.',
            ],
        ),
    ],
)
def test_a_mapping_that_does_not_fit_the_sheet_is_refused_with_what_to_do(fields, columns, words):
    """The message says where, what is wrong, and what the sheet has instead."""
    with pytest.raises(Refused) as refused:
        bind(spec_of(**fields), columns)
    for part in [*words, "Nothing was sent."]:
        assert part in str(refused.value)


def test_an_existing_id_column_and_a_mapped_result_are_accepted():
    """Mapping `result` by name says that it is not an answer."""
    bound = bind(spec_of(variables=(("result", "result"),), id="SKU"), ["SKU", "result"])
    assert bound.mapped == (1,)


def test_keys_depend_on_the_workflow_and_not_on_the_order_of_columns():
    """So moving columns in a sheet changes nothing."""
    spec = spec_of()
    [ab] = requests(bind(spec, ["a", "b"]), [["1"], ["2"]])
    [ba] = requests(bind(spec, ["b", "a"]), [["2"], ["1"]])
    assert ab == ba
    assert request({"a": "1"}, "wf").row_key != request({"a": "1"}, "wf2").row_key


def test_the_key_is_the_same_in_every_release():
    """A changed key would pay for every finished row again."""
    found = request({"story": "a dog", "tone": "warm"}, "wf_story")
    assert found.row_key.hex() == "16f3c47f2e630dfbde96390ebfdfe7ac"
    assert identity(found.row_key, "sku 1").hex() == "904c647ee9a8758967be15676ca637ad"
    assert identity(found.row_key, None) == found.row_key


@given(st.lists(st.integers(0, 4), max_size=40))
def test_occurrences_count_the_equal_rows_before(values):
    """In the order of the sheet."""
    raw = b"".join(value.to_bytes(16, "big") for value in values)
    assert list(occurrences(raw)) == [values[:n].count(v) for n, v in enumerate(values)]
    assert occurrences(raw).dtype == np.int32  # a million rows, 4 MB


def planned(
    rows: int,
    held: dict[int, Held],
    selection: Selection,
    duplicates: Duplicates | None = None,
    flagged: Flagged | None = None,
) -> Plan:
    plan = empty_plan(rows, selection, duplicates)
    later = [] if duplicates is None else duplicates.numbers
    numbers = np.setdiff1d(np.arange(1, rows + 1), later)
    known = [Alike(one, np.array([n]), np.array([10 * n])) for n, one in held.items()]
    add_batch(plan, numbers, known, selection, flagged)
    finish_plan(plan, duplicates)
    return plan


def test_duplicates_are_the_rows_that_are_equal_to_an_earlier_one():
    """Each has the row number of the first equal row. Skipped rows are not among them."""
    raw = b"".join(letter.encode().ljust(16, b".") for letter in "abacab")
    found = find_duplicates(raw, np.array([1, 2, 4, 5, 8, 9]))
    assert list(zip(found.numbers, found.firsts, strict=True)) == [(4, 1), (8, 1), (9, 2)]


def test_keys_with_the_same_first_half_are_different():
    """The sort uses 64 bits unless two of them are equal."""
    raw = b"".join(b"12345678" + str(n).encode().ljust(8) for n in (2, 1, 2))
    assert list(occurrences(raw)) == [0, 0, 1]
    assert list(occurrences(b"0" * 16 + raw)) == [0, 0, 0, 1]


@pytest.mark.parametrize("place", range(16))
def test_keys_that_differ_in_one_bit_are_different(place):
    """Otherwise the runner would take a row for another, paid one and never send it."""
    one, other = bytearray(b"\xff" * 16), bytearray(b"\xff" * 16)
    other[place] ^= 1
    assert list(occurrences(bytes(one + other + one))) == [0, 0, 1]


def test_duplicates_count_as_rows_and_are_never_sent():
    """Naming one of them names the row that is sent for it. Each affects the exit code."""
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


def test_a_plan_sends_the_rows_of_the_selection_up_to_its_limit():
    """It counts the state of every row."""
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


def test_rows_and_limit_narrow_a_selection_together():
    """`--rows 2,4-9 --limit 5` names the listed rows among the first five."""
    selection = Selection(rows=parse_rows("2,4-9"), limit=5)
    assert list(np.flatnonzero(selection.named(12)) + 1) == [2, 4, 5]
    kept = np.array([3, 4, 7, 8, 9, 10, 12])  # the other rows are skipped
    assert list(np.flatnonzero(selection.named(12, kept) & np.isin(range(1, 13), kept)) + 1) == [
        *(4, 7, 8, 9),
    ]


@pytest.mark.parametrize("text", ["", "0", "3-", "-3", "9-7", "a", "1,,2", "1.5", "٣-"])
def test_a_text_that_is_not_a_list_of_rows_is_refused(text):
    """With an example of one."""
    says = "such as 3,7-9. Row 1 is the first row below the column names. Nothing was sent."
    with pytest.raises(Refused, match=says):
        parse_rows(text)


FAILED_A, FAILED_B = Held(State.FAILED, "a"), Held(State.FAILED, "b")
LOST = Held(State.AMBIGUOUS, "a", maybe_paid=True)
ANSWERED = Held(State.OK, answered=True, maybe_paid=True)
EVERY = [None, FAILED_A, FAILED_B, LOST, ANSWERED]


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, [None, FAILED_A, FAILED_B]),
        ({"rows": "1"}, [None, FAILED_A, FAILED_B]),
        ({"only": "a"}, [FAILED_A]),
        ({"excluded": "a"}, [FAILED_B]),
        ({"only": "a", "ambiguous": True}, [FAILED_A, LOST]),
        ({"excluded": "b", "ambiguous": True}, [FAILED_A, LOST]),
        ({"ambiguous": True}, [None, FAILED_A, FAILED_B, LOST]),
    ],
)
def test_resume_sends_the_rows_of_its_line_in_the_table_and_no_others(options, sent):
    """Ambiguous rows only if the user says so, and rows with an answer never."""
    codes = {name: frozenset({options[name]}) for name in ("only", "excluded") if name in options}
    rows = parse_rows(options["rows"]) if "rows" in options else None
    selection = select_resume(**(options | codes | {"rows": rows}))
    assert [held for held in EVERY if selection.chooses(held)] == sent


def test_run_sends_pending_rows_and_again_sends_rows_with_an_answer():
    """Neither sends failed or ambiguous rows."""
    assert [held for held in EVERY if Selection().chooses(held)] == [None]
    assert [held for held in EVERY if select_again(None).chooses(held)] == [ANSWERED]


def test_a_selection_keeps_the_options_that_narrow_a_command():
    """Rows, the limit, and the wish for another version."""
    rows = parse_rows("1-2")
    assert select_resume(rows=rows, limit=3).named(4).tolist() == [True, True, False, False]
    assert select_resume(limit=3).named(4).tolist() == [True, True, True, False]
    again = select_again(rows, limit=1)
    assert (again.rows, again.limit, again.again) == (rows, 1, True)
    assert not select_resume().again


GIVEN_UP = Held(State.FAILED, "request_blocked", given_up=True)


def test_a_row_that_was_given_up_is_sent_only_if_it_is_named():
    """By its number. An error code does not name it."""
    assert not select_resume().chooses(GIVEN_UP)
    assert not select_resume(only=frozenset({"request_blocked"})).chooses(GIVEN_UP)
    assert select_resume(rows=parse_rows("1")).chooses(GIVEN_UP)


def test_a_plan_knows_which_rows_may_be_paid_twice():
    """Ambiguous rows, rows with an answer, and failed rows that may have been billed."""
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


def test_a_plan_sends_the_rows_whose_answers_are_flagged():
    """By the ledger's ids. Rows that were tried before are listed, unless their number is named."""
    held = {n: Held(State.OK, answered=True, maybe_paid=True) for n in (1, 2, 3, 4)}
    held |= {5: LOST, 6: FAILED_A}
    reasons = {10: "empty", 20: "empty", 30: "refusal", 50: "empty", 60: "empty", 99: "empty"}
    flagged = Flagged(frozenset({"empty"}), reasons, tried=frozenset({20, 30, 50}))
    plan = planned(7, held, select_again(flags=["empty"]), flagged=flagged)
    assert (plan.chosen_ids, plan.tried_left) == ([10], [2, 3])
    assert plan.covered.tolist() == [True] + [False] * 6
    limited = planned(7, held, select_again(flags=["empty"], limit=2), flagged=flagged)
    assert (limited.chosen_ids, limited.tried_left) == ([10], [2])
    named = planned(7, held, select_again(parse_rows("2-7"), flags=["empty"]), flagged=flagged)
    assert (named.chosen_ids, named.tried_left) == ([20, 30], [])


def test_a_plan_adds_up_rows_of_several_states_and_batches():
    """Error codes, rows that are not sent, and rows that may be paid twice, by number."""
    held = {
        1: Held(State.FAILED, "a", maybe_paid=True),
        2: Held(State.FAILED, "b", maybe_paid=True),
        3: Held(State.AMBIGUOUS, "a", maybe_paid=True),
        4: Held(State.AMBIGUOUS, "b", maybe_paid=True),
        5: Held(State.OK, answered=True, maybe_paid=True),
        6: Held(State.OK, "an old code", answered=True, maybe_paid=False),
    }
    plan = planned(8, held, select_resume())
    assert plan.codes == Counter(a=2, b=2)
    assert plan.risky == {State.FAILED: [1, 2]}
    assert plan.kept == Counter({State.AMBIGUOUS: 2, State.OK: 2})
    assert (plan.to_send, plan.new, plan.ambiguous_left) == (4, 2, 2)
    again = planned(8, held, select_again(None))
    assert again.chosen_ids == [50, 60]
    batches = empty_plan(4, Selection())
    for numbers in ([1, 2], [3, 4]):
        known = [Alike(held[1], np.array(numbers[:1]), np.array(numbers[:1]))]
        add_batch(batches, np.array(numbers), known, Selection())
    assert (batches.new, batches.to_send) == (2, 2)
    assert batches.codes == Counter(a=2)
    assert batches.kept == Counter({State.FAILED: 2})


def test_only_rows_with_the_named_codes_raise_the_exit_code():
    """And of those only the named rows. Ambiguous ones that are left out are counted."""
    held = {1: FAILED_A, 2: FAILED_B, 3: LOST, 4: Held(State.AMBIGUOUS, "b"), 5: LOST}
    plan = planned(6, held, select_resume(only=frozenset({"a"}), limit=4))
    assert plan.covered.tolist() == [True, False, True, False, False, False]
    assert plan.ambiguous_left == 1


def test_rows_that_were_given_up_are_listed_if_the_command_would_have_sent_them():
    """By their numbers, so that the user can name them. Others are not listed."""
    held = {
        1: GIVEN_UP,
        2: FAILED_A,
        3: Held(State.FAILED, "gateway", given_up=True),
        4: GIVEN_UP,
    }
    assert planned(4, held, select_resume()).given_up_left == [1, 3, 4]
    assert planned(4, held, select_resume(limit=3)).given_up_left == [1, 3]
    only = select_resume(only=frozenset({"request_blocked"}))
    assert planned(4, held, only).given_up_left == [1, 4]
    assert planned(4, held, Selection()).given_up_left == []
    named = planned(4, held, select_resume(rows=parse_rows("1,2")))
    assert (named.given_up_left, named.send.tolist()) == ([], [True, True, False, False])


def test_without_duplicates_a_plan_is_the_same_with_and_without_dedupe():
    """`dedupe: true` on a sheet whose rows all differ."""
    held = {1: FAILED_A, 2: ANSWERED}
    one, other = planned(4, held, Selection()), planned(4, held, Selection(), no_duplicates())
    assert (one.send.tolist(), one.counts, one.kept) == (
        other.send.tolist(),
        other.counts,
        other.kept,
    )


def test_an_empty_list_of_flags_does_not_choose_every_row():
    """A program that found no flag would else pay for all rows again."""
    for flags in ([], frozenset()):
        with pytest.raises(Refused, match="`flags` is empty"):
            select_again(flags=flags)
