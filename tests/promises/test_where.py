"""`where:` chooses the rows to send, and paid rows stay paid."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.core.errors import Refused
from pipeline.inputs.where import wanted
from pipeline.job.spec import Condition, load_spec

LEAST = "name: stories\nworkflow: wf_abc123\ninput: sheet.csv\n"


def parsed(tmp_path: Path, text: str) -> tuple[Condition, ...]:
    (tmp_path / "job.yaml").write_text(LEAST + text, encoding="utf-8")
    return load_spec(tmp_path / "job.yaml").where


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("where: {column: a, empty: true}", [Condition("a", "empty")]),
        ("where: [{column: a, empty: false}]", [Condition("a", "empty", negated=True)]),
        ("where: [{column: a, empty: false, not: yes}]", [Condition("a", "empty")]),
        (
            'where:\n- {column: lang, equals: de}\n- {column: b, matches: "^A", not: true}\n',
            [Condition("lang", "equals", "de"), Condition("b", "matches", "^A", negated=True)],
        ),
        ("where: null", []),
        ("where: []", []),
    ],
)
def test_conditions_are_read_as_they_are_written(tmp_path, text, conditions):
    """One condition, or a list of conditions that must all be true."""
    assert list(parsed(tmp_path, text)) == conditions


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("where: status", ["line 4", "{column: status, empty: true}"]),
        ("where:\n- {column: a, empty: true}\n- {columm: a}", ["line 6", '"column"']),
        ("where: {column: a, equal: x}", ["line 4", '"equals"']),
        ("where: {column: a, starts: x}", ["The keys are: column, not, empty, equals, matches"]),
        ("where: {column: a}", ["one of empty, equals, matches"]),
        ("where: {empty: true}", ["needs a `column`"]),
        ("where: {column: a, empty: true, equals: x}", ["one of empty, equals, matches"]),
        ("where: {column: a, empty: maybe}", ["`empty` must be true or false"]),
        ("where: {column: a, empty: true, not: 1}", ["`not` must be true or false"]),
        ("where: {column: a, equals: no}", ["yes/no value", '"no"']),
        ("where: {column: 1, empty: true}", ["`column`", '"1"']),
        ('where: {column: a, matches: "("}', ["line 4", "not a pattern", "RE2"]),
        ('where: {column: a, matches: "(?=x)"}', ["not a pattern", "look-around"]),
        ("dedupe: maybe", ["line 4", "`dedupe` must be true or false"]),
        ('dedupe: "true"', ["`dedupe` must be true or false"]),
        ("dedupe: [true]", ["`dedupe` must be true or false"]),
    ],
)
def test_an_invalid_condition_is_refused_with_its_line(tmp_path, text, words):
    """The message shows what is valid."""
    with pytest.raises(Refused) as caught:
        parsed(tmp_path, text)
    for word in words:
        assert word in str(caught.value), caught.value
    assert str(caught.value).endswith("Nothing was sent.")


@pytest.mark.parametrize(
    ("condition", "flags"),
    [
        (Condition("a", "empty"), [True, False, False, False]),
        (Condition("a", "empty", negated=True), [False, True, True, True]),
        (Condition("a", "equals", "Äb"), [False, True, False, False]),
        (Condition("a", "matches", "^Ä"), [False, True, False, False]),
        (Condition("a", "matches", "b"), [False, True, True, False]),
        (Condition("a", "matches", "(?i)^ B$", negated=True), [True, True, False, True]),
    ],
)
def test_a_condition_looks_at_the_exact_text_of_the_cell(condition, flags):
    """A cell with a space is not empty, and a pattern may match anywhere in the text."""
    assert list(wanted([condition], {"a": pa.array(["", "Äb", " b", " "])})) == flags


def test_every_pattern_takes_time_in_proportion_to_the_text():
    """Python's `re` would take years for this one."""
    texts = {"a": pa.array(["a" * 100_000 + "!"] * 10)}
    begun = time.monotonic()
    assert not wanted([Condition("a", "matches", "^(a+)+$")], texts).any()
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('where: {column: a, matches: "' + "a" * 2001 + '"}', ["line 4", "2,001 characters"]),
        (
            'where:\n- {column: a, matches: "' + "a" * 1000 + '"}\n'
            '- {column: a, matches: "' + "(" * 1001 + '"}',
            ["2,001 characters together, and the limit is 2,000", "Shorten them"],
        ),
        ("where: [" + "{column: a, empty: true}," * 101 + "]", ["line 4", "101 conditions"]),
    ],
)
def test_a_pattern_that_is_too_large_never_reaches_the_library(tmp_path, text, words):
    """45 KB of `\\pL` would take 577 MB in the library, and 240 KB would end the process."""
    with pytest.raises(Refused) as caught:
        parsed(tmp_path, text)
    for word in words:
        assert word in str(caught.value), caught.value
    assert "not a pattern" not in str(caught.value)


def test_the_largest_allowed_conditions_are_read(tmp_path):
    """100 conditions, or a pattern of 2,000 characters."""
    assert len(parsed(tmp_path, "where: [" + "{column: a, empty: true}," * 100 + "]")) == 100
    assert parsed(tmp_path, 'where: {column: a, matches: "' + "a" * 2000 + '"}')


def test_rows_that_where_leaves_out_are_skipped_with_the_reason(sandbox, make_job):
    """The reason differs from that of empty cells and of rows that another run left ambiguous."""
    sheet = [
        ["de", "a", ""],
        ["en", "b", ""],
        ["de", "", ""],
        ["de", "c", "ambiguous"],
        ["en", "", "ambiguous"],
    ]
    job = make_job(
        sandbox.url,
        ["lang", "story", "_status"],
        sheet,
        variables={"story": "story"},
        where=[{"column": "lang", "equals": "de"}],
        empty="skip",
    )
    checked = json.loads(job.call("check", "--json").stdout)
    assert checked["skipped_by"] == {"where": 2, "ambiguous": 1, "empty": 1}
    summary = job.run()
    assert (summary["rows"], summary["ok"], summary["skipped"]) == (5, 1, 4)
    exported = job.export()
    reasons = list(exported["_error_message_2"])
    assert reasons[0] is None
    assert ["where:" in reasons[1], "empty" in reasons[2], "ambiguous" in reasons[3]] == [True] * 3
    assert reasons[4] == reasons[1]
    assert list(exported["_status_2"]) == ["ok"] + ["skipped"] * 4
    assert job.call("verify").returncode == 0


def test_a_where_that_matches_no_row_sends_nothing_and_succeeds(sandbox, make_job):
    """All rows are skipped, also with `dedupe: true`."""
    job = make_job(sandbox.url, rows=[["a"], ["a"]], where={"column": "story", "equals": "z"})
    for dedupe in (False, True):
        job.write_spec(where={"column": "story", "equals": "z"}, dedupe=dedupe)
        summary = job.run()
        assert (summary["rows"], summary["skipped"], summary["requests"]) == (2, 2, 0)
    assert job.call("verify").returncode == 0
    assert sandbox.received() == 0


def test_a_missing_column_is_refused_with_the_nearest_name(sandbox, make_job):
    """Before anything is sent."""
    job = make_job(sandbox.url, rows=[["a"]], where={"column": "stori", "empty": True})
    done = job.call("check")
    assert done.returncode == 2
    assert 'no column "stori"' in done.stderr
    assert '"story"' in done.stderr


def test_changing_where_never_pays_for_a_row_again(sandbox, make_job):
    """Row keys do not depend on it. A paid answer is back as soon as its row is wanted again."""
    job = make_job(sandbox.url, rows=[["a"], ["b"], ["c"]])
    not_b = {"column": "story", "equals": "b", "not": True}
    job.write_spec(where=not_b)
    assert job.run()["requests"] == 2
    job.write_spec()
    assert job.run()["requests"] == 1
    job.write_spec(where=not_b | {"not": False})
    summary = job.run()
    # a and c are skipped now, and keep their answers.
    assert (summary["requests"], summary["ok"], summary["skipped"]) == (0, 3, 0)
    job.write_spec()
    assert job.run()["ok"] == 3
    assert set(sandbox.billed().values()) == {1}
    assert job.call("verify").returncode == 0


def test_a_limit_counts_rows_that_are_not_skipped_done_or_not(sandbox, make_job):
    """`--limit 3` sends 3 of 8 rows, of which 3 are skipped. The same again sends nothing more."""
    stories = ["no 1", "no 2", "a", "no 3", "b", "c #fault:blocked", "d", "e"]
    job = make_job(
        sandbox.url,
        rows=[[story] for story in stories],
        where={"column": "story", "matches": "^no", "not": True},
    )
    assert json.loads(job.call("check", "--limit", "3", "--json").stdout)["to_send"] == 3
    first = job.run("--limit", "3", expect=3)
    assert (first["requests"], first["ok"], first["failed"], first["pending"]) == (3, 2, 1, 2)
    assert json.loads(job.call("check", "--limit", "3", "--json").stdout)["to_send"] == 0
    assert job.run("--limit", "3", expect=3)["requests"] == 0
    assert job.run("--limit", "4", expect=3)["requests"] == 1
    assert json.loads(job.call("resume", "--limit", "2", "--json").stdout)["requests"] == 0
    assert json.loads(job.call("resume", "--limit", "3", "--json").stdout)["requests"] == 1
    assert job.run("--limit", "0")["requests"] == 0
    assert {json.loads(body)["story"]: n for body, n in sandbox.billed().items()} == {
        **{"a": 1, "b": 1, "d": 1},
        "c #fault:blocked": 0,
    }


def test_with_dedupe_a_limit_counts_rows_and_not_requests(sandbox, make_job):
    """Three rows have one text and the first row is skipped, so one request is the whole sample."""
    where = {"column": "story", "equals": "no", "not": True}
    rows = [["no"], ["a"], ["a"], ["a"], ["b"]]
    job = make_job(sandbox.url, rows=rows, where=where, dedupe=True)
    summary = job.run("--limit", "3")
    assert (summary["requests"], summary["ok"], summary["pending"]) == (1, 3, 1)
    assert job.run("--limit", "3")["requests"] == 0


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".xlsx", ".jsonl"])
def test_another_folder_sends_exactly_the_unanswered_rows_of_an_export(sandbox, make_job, ending):
    """First 5 of 50 rows, an export, then the rest: 45 requests, and no row is paid twice. The
    first answers stay where they are."""
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(50)])
    assert job.run("--limit", "5")["requests"] == 5
    exported = job.folder / f"done{ending}"
    assert job.call("export", "--to", str(exported)).returncode == 0
    unanswered = {"column": "result", "empty": True}
    job.write_spec(name="rest", input=exported.name, where=unanswered)
    summary = job.run()
    assert (summary["requests"], summary["ok"], summary["skipped"]) == (45, 45, 5)
    assert list(sandbox.billed().values()) == [1] * 50
    frame = job.export()
    assert list(frame["_status"]) == ["ok"] * 5 + ["pending"] * 45
    assert list(frame["_status_2"]) == ["skipped"] * 5 + ["ok"] * 45
    answers = {entry["body"]: entry["result"] for entry in sandbox.bills()}
    results = [*frame["result"][:5], *frame["result_2"][5:]]
    assert results == [
        answers[json.dumps({"story": story}, separators=(",", ":"))] for story in frame["story"]
    ]
    for citations in frame["citations_2"][5:]:
        assert [set(one) for one in citations] == [{"title", "url"}] * len(citations)
        assert all(one["url"].startswith("https://") for one in citations)


@pytest.mark.parametrize(
    ("ending", "dedupe"),
    [
        (ending, dedupe)
        if (ending, dedupe) in ((".csv", False), (".xlsx", True))
        else pytest.param(ending, dedupe, marks=pytest.mark.long)
        for ending in (".csv", ".parquet", ".xlsx", ".jsonl")
        for dedupe in (False, True)
    ],
)
def test_a_row_that_is_skipped_now_keeps_its_paid_answer(sandbox, make_job, ending, dedupe):
    """In every kind of export and in every count. The reason for skipping is next to the answer."""
    rows = [["de", "a"], ["en", "a"], ["de", "b"], ["en", "c #fault:blocked"], ["en", ""]]
    fields = {"variables": {"story": "story"}, "empty": "skip", "dedupe": dedupe}
    job = make_job(sandbox.url, ["lang", "story"], rows, **fields)
    before = job.run(expect=3)
    assert (before["ok"], before["failed"], before["skipped"]) == (3, 1, 1)
    answers = list(job.export()["result"])
    job.write_spec(**fields, where={"column": "lang", "equals": "de"})
    after = job.run()
    assert (after["requests"], after["ok"], after["skipped"]) == (0, 3, 2)
    checked = json.loads(job.call("check", "--json").stdout)
    assert (checked["ok"], checked["skipped_by"]) == (3, {"where": 2})
    exported = job.export()
    assert list(exported["result"]) == answers
    assert list(exported["_status"]) == ["ok", "ok", "ok", "skipped", "skipped"]
    assert "where" in exported["_error_message"][1]
    target = job.folder / f"done{ending}"
    assert job.call("export", "--to", str(target)).returncode == 0
    status = job.status()
    assert (status["ok"], status["skipped"]) == (3, 2)
    assert job.call("verify").returncode == 0
    job.write_spec(**fields)
    assert job.run(expect=3)["requests"] == 0


def test_equal_rows_keep_one_answer_each_if_one_of_them_is_skipped(sandbox, make_job):
    """The row that is sent gets its answer first, and no answer belongs to two rows."""
    rows = [["en", "same"], ["de", "same"], ["en", "same"]]
    job = make_job(sandbox.url, ["lang", "story"], rows[:2], variables={"story": "story"})
    job.run()
    job.write_sheet(["lang", "story"], rows)
    job.write_spec(variables={"story": "story"}, where={"column": "lang", "equals": "de"})
    summary = job.run()
    assert (summary["requests"], summary["ok"], summary["skipped"]) == (0, 2, 1)
    assert list(job.export()["_status"]) == ["ok", "ok", "skipped"]
    job.write_spec(variables={"story": "story"})
    assert job.run()["requests"] == 1
    assert sum(sandbox.billed().values()) == 3
