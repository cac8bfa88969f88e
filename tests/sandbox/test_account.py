"""Tests the account's file, its workflows, and the format of lengths of time."""

from __future__ import annotations

import statistics

import pytest

from pipeline.sandbox.account import SHIPPED, load_account
from pipeline.sandbox.durations import parse_latency, parse_seconds
from pipeline.sandbox.workflows import Workflow, rehearsal
from tests.support.plain_http import run

GOOD = """
keys: [sk_one, sk_two]
credits: 70
workflows:
  wf_a:
    template: "About {{ name }}, {{tone}}: {{name}}"
    published: false
    web_search: true
    cache: 10m
    model: large
    fault: html-502
  wf_b: {template: "no variables"}
"""


def test_three_workflows_ship_with_the_sandbox():
    """So does the key from the README."""
    account = load_account(SHIPPED)
    assert (account.keys, account.credits) == (("sk_sandbox",), 10_000_000)
    assert {name: each.variables for name, each in account.workflows.items()} == {
        "wf_story": ("story",),
        "wf_product": ("name", "tone", "features"),
        "wf_research": ("question",),
    }
    assert [name for name, each in account.workflows.items() if each.web_search] == ["wf_research"]


def test_a_file_has_keys_credits_and_workflows(tmp_path):
    """Only the workflows are required."""
    path = tmp_path / "account.yaml"
    path.write_text(GOOD, encoding="utf-8")
    account = load_account(path)
    assert (account.keys, account.credits) == (("sk_one", "sk_two"), 70)
    first = account.workflows["wf_a"]
    assert (first.published, first.web_search, first.cache_s) == (False, True, 600)
    assert (first.model, first.fault) == ("large", "html-502")
    assert account.workflows["wf_b"].published
    path.write_text("workflows: {wf_b: {template: x}}", encoding="utf-8")
    assert load_account(path).keys == ("sk_sandbox",)


def test_a_server_serves_the_account_of_its_file(start_sandbox, tmp_path):
    """It uses the file's keys and credits, and publishes only its workflows."""
    path = tmp_path / "account.yaml"
    path.write_text(GOOD, encoding="utf-8")
    sandbox = start_sandbox(workflows=str(path))
    assert run(sandbox.port, {}, "wf_b").status == 401
    assert run(sandbox.port, {}, "wf_b", "sk_two").status == 200
    assert run(sandbox.port, {}, "wf_a", "sk_two").status == 404
    assert run(sandbox.port, {}, "wf_story", "sk_two").status == 404


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, 2", "is not YAML"),
        ("", "has no workflows. Write `workflows:`"),
        ("wf_a: {template: x}", "has no workflows. Write `workflows:`"),
        ("workflows: {}", "has no workflows. Write one"),
        ("workflows: {wf_a: x}", "workflow wf_a: it has no template. Write one"),
        ("workflows: {wf a: {template: x}}", "workflow wf a: the id must have"),
        ("workflows: {wf_a: {template: x, tempalte: y}}", "Did you mean template?"),
        ("workflows: {wf_a: {template: 7}}", "template is 7. Write text"),
        ("workflows: {wf_a: {template: x, published: 'no'}}", "Write true or false"),
        ("workflows: {wf_a: {template: x, cache: 10}}", "Write a length of time such as 10m"),
        ("workflows: {wf_a: {template: x, cache: '10'}}", "'10' is not a length of time"),
        ("workflows: {wf_a: {template: x, fault: html-501}}", "Did you mean html-50"),
        ("workflows: {wf_a: {template: x}}\nkey: [a]", "Did you mean keys?"),
        ("workflows: {wf_a: {template: x}}\nkeys: sk_a", "Write a list of texts"),
        ("workflows: {wf_a: {template: x}}\ncredits: many", "Write a whole number"),
        (
            "workflows:\n  wf_a: {template: x}\n  wf_a: {template: y}",
            "line 3: 'wf_a' is there twice",
        ),
        ("workflows: {? [1, 2] : {template: x}}", "is not YAML"),
        ("- {workflows: {}}", "has no workflows"),
    ],
)
def test_the_refusal_of_a_wrong_file_says_how_to_fix_it(tmp_path, text, says):
    """It names the file, what is wrong, and what would be right."""
    path = tmp_path / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r".+") as refused:
        load_account(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_a_file_that_is_not_text_are_refused(tmp_path):
    """Both messages say that the file cannot be read."""
    path = tmp_path / "wrong.yaml"
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be read"):
            load_account(path)
        path.write_bytes(b"\xff\xfe\x00")


def test_only_the_first_mention_of_a_variable_is_replaced():
    """Other servers of this family do the same. Values are inserted unchanged."""
    workflow = Workflow("wf_a", "{{a}} {{ b }} {{a}} {{b}}")
    assert workflow.render({"a": "{{b}}", "b": "$& \\1"}) == "{{b}} $& \\1 {{a}} {{b}}"
    assert workflow.render({"a": "1"}) == "1 undefined {{a}} {{b}}"


def test_a_rehearsal_mentions_every_variable_of_the_job():
    """So each row has a different prompt."""
    workflow = rehearsal("wf_job", ["my name", "tone"])
    assert workflow.variables == ("my name", "tone")
    assert workflow.render({"my name": "a", "tone": "b"}) == "my name: a\ntone: b"


def test_lengths_of_time_need_a_unit():
    """The units are milliseconds to hours. A number without a unit is refused."""
    texts = ["500ms", "1s", "1.5m", "1h"]
    assert [parse_seconds(text) for text in texts] == [0.5, 1, 90, 3600]
    for text in ("1", "s", "-1s", "1 s", "1d", "1.s", "nan s"):
        with pytest.raises(ValueError, match="Write it like 500ms"):
            parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "median_s", "largest_s"),
    [
        ("2s", 2.0, 2.0),
        ("uniform:1s-5s", 3.0, 5.0),
        ("exponential:2s", 1.386, 60.0),
        ("lognormal:20s", 20.0, 2000.0),
    ],
)
def test_latencies_have_the_given_distribution(text, median_s, largest_s):
    """Each start of the server draws the same sequence."""
    first, second = parse_latency(text), parse_latency(text)
    drawn = [first() for _ in range(5000)]
    assert drawn == [second() for _ in range(5000)]
    assert statistics.median(drawn) == pytest.approx(median_s, rel=0.1)
    assert 0 <= min(drawn) <= max(drawn) <= largest_s


@pytest.mark.parametrize("text", ["", "2", "uniform:1s", "gauss:2s", "lognormal:", "uniform:1s-x"])
def test_a_latency_that_cannot_be_read_is_refused(text):
    """The message lists the valid forms."""
    with pytest.raises(ValueError, match="Write it like"):
        parse_latency(text)
