"""Keys, bodies, occurrences and selections."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.model import Held, State
from pipeline.plan import (
    Selection,
    Source,
    Variables,
    add_batch,
    bind,
    empty_plan,
    identity,
    occurrences,
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


def test_a_plan_sends_what_the_selection_names_up_to_its_limit():
    """And counts where every row stands."""
    states = [None, State.OK, State.PENDING, State.FAILED, State.AMBIGUOUS, None]
    held = [None if s is None else Held(n, s, None) for n, s in enumerate(states)]
    plan = empty_plan(6)
    add_batch(plan, range(1, 7), held, Selection())
    assert list(plan.send) == [True, False, True, False, False, True]
    assert (plan.to_send, plan.new) == (3, 2)
    assert plan.counts[State.PENDING] == 3
    limited = empty_plan(6)
    add_batch(limited, range(1, 7), held, Selection(limit=2))
    assert list(limited.send) == [True] + [False] * 5
