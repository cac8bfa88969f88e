"""The steps of buttons."""

from __future__ import annotations

import pytest

from pipeline.core.errors import Refused
from pipeline.core.model import State
from pipeline.ui.steps import Step


@pytest.mark.parametrize(
    "step",
    [
        Step(),
        Step(limit=5),
        Step("resume"),
        Step("resume", only="gateway,timeout", ambiguous=True),
        Step("resume", rows="3,7-9", ambiguous=True),
        Step(again="a-0123-4-5678"),
    ],
)
def test_a_step_returns_from_its_form(step: Step):
    assert Step.of_fields(step.fields) == step


def test_the_words_of_the_runner_become_a_step():
    assert Step.of_words(("run", "--limit", "5")) == Step(limit=5)
    words = ("resume", "--only", "timeout", "--ambiguous")
    assert Step.of_words(words) == Step("resume", only="timeout", ambiguous=True)


@pytest.mark.parametrize(
    "fields", [{"do": "settle"}, {"do": "run --yes"}, {"limit": "-1"}, {"limit": "5 --yes"}]
)
def test_no_form_has_another_command(fields: dict[str, str]):
    with pytest.raises(Refused):
        Step.of_fields(fields)


def test_a_value_cannot_become_an_option():
    """A code or an answer that begins with -- stays the value of its option."""
    assert Step("resume", only="--yes").options == ("--only=--yes",)
    assert Step(again="--accept-changes").options == ("--again=--accept-changes",)


def test_a_step_chooses_the_rows_of_its_command():
    assert Step("resume", only="a,b").selection().only == {"a", "b"}
    assert 8 in (Step("resume", rows="3,7-9").selection().rows or ())
    assert Step(again="refusal").selection().states == {State.OK}
    assert Step(limit=5).selection().limit == 5
