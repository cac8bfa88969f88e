"""Rows as lines of text."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pipeline.core.model import Citation
from pipeline.show.rows import ShownAttempt, ShownRow, ShownVersion
from pipeline.show.text import Page, broken

MOMENT = datetime(2026, 3, 2, 14, 5, 11, tzinfo=UTC)
SENT = ShownAttempt(1, MOMENT, 1.234, 200, "ok", None, "", "paid")
ROW = ShownRow(
    row=7,
    name="row 7 (line 8)",
    id=None,
    status="ok",
    error_code=None,
    error_message=None,
    skipped=False,
    flags=("refusal", "repeated"),
    sent=True,
    variables={"topic": "foxes"},
    answer="First line.\n\nSecond line.",
    columns={"title": "One", "score": None},
    citations=(Citation("A page", "https://example.com/1"),),
    attempts=(SENT,),
)
STYLE = re.compile(r"\x1b\[\d+m")


def lines(row: ShownRow, **page: object) -> list[str]:
    text = "".join(Page(**page).printed(row))  # type: ignore[arg-type]
    return text.removesuffix("\n").split("\n")


def test_a_row_is_a_head_line_and_indented_parts():
    """In the order in which a person reads them. The time is local."""
    at = MOMENT.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert lines(ROW) == [
        "row 7 (line 8): ok, flagged refusal, repeated",
        "  Sent:",
        "    topic: foxes",
        "  Answer:",
        "    First line.",
        "",
        "    Second line.",
        "  Columns:",
        "    title: One",
        "    score: -",
        "  Citations:",
        "    1. A page https://example.com/1",
        "  Requests:",
        f"    1. {at}, HTTP 200, 1.23 s, ok, paid",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("aaa bbb ccc", ["aaa bbb", "ccc"]),
        ("aaaaaaaaaaaa", ["aaaaaaaa", "aaaa"]),
        ("  aaa bbb", ["  aaa", "bbb"]),
        ("aaa\n\nbbb\n", ["aaa", "", "bbb", ""]),
        ("東京東京東京", ["東京東京", "東京"]),
        ("東京 ab", ["東京 ab"]),
        ("e\u0301" * 6, ["e\u0301" * 4, "e\u0301" * 2]),
        ("", [""]),
    ],
)
def test_lines_are_broken_at_spaces_and_by_the_columns_that_they_take(text, shown):
    """A wide character takes two of the eight columns."""
    assert [text[begin:end] for begin, end in broken(text, 8)] == shown


@pytest.mark.parametrize("text", ["x" * 10_000_000, "東" * 3_000_000, "a b\n" * 2_000_000])
def test_a_long_text_is_broken_in_a_time_in_proportion(text):
    """Whatever its lines are."""
    begun = time.process_time()
    assert sum(end - begin for begin, end in broken(text, 76)) >= len(text) * 0.7
    assert time.process_time() - begun < 8


def test_long_lines_are_broken_and_nothing_is_cut_off():
    """The later lines of a variable are deeper than the names of others."""
    answer = " ".join(f"word{number}" for number in range(200))
    row = replace(ROW, answer=answer, variables={"topic": "foxes " * 20})
    shown = lines(row, width=60)
    assert max(map(len, shown)) <= 60
    assert " ".join(" ".join(shown).split()).count("foxes") == 20
    assert answer in " ".join(" ".join(shown).split())
    assert shown[3].startswith("      foxes")
    assert f"    {answer}" in lines(row)


def test_requests_that_were_turned_away_are_one_entry():
    """With the time of the last one. Others stand on their own."""
    busy = replace(SENT, outcome="refused", code="rate_limited", http_status=429, paid="not paid")
    failed = replace(SENT, outcome="failed", code="run_failed", paid="not paid")
    row = replace(ROW, attempts=(failed, failed, *[busy] * 12, SENT))
    shown = [line.partition(", ")[2] for line in lines(row)[-4:]]
    assert [line.split(".")[0].strip() for line in lines(row)[-4:]] == ["1", "2", "3-14", "15"]
    assert shown[2] == "HTTP 429, 1.23 s, refused (rate_limited), not paid"


def test_a_long_answer_comes_in_parts(tmp_path):
    """All of its lines, each indented. An answer of one line is one part."""
    row = replace(ROW, answer="word\n\n" * 100_000)
    parts = list(Page().printed(row))
    assert len(parts) > 5
    assert max(map(len, parts)) < 200_000
    assert "".join(parts).count("    word\n") == 100_000
    assert lines(replace(ROW, answer="word " * 100_000)).count("    " + "word " * 100_000) == 1


HOSTILE = "a\x1b]0;title\x07b\x9b31mc\u202ed\u200be\r\nf\rg\u2028h\x0ci\x00j"


def test_no_text_commands_the_terminal():
    """Line breaks of any kind stay line breaks."""
    row = replace(
        ROW,
        name=HOSTILE,
        variables={HOSTILE: HOSTILE},
        answer=HOSTILE + "\n::error::x",
        columns={HOSTILE: HOSTILE},
        citations=(Citation(HOSTILE, HOSTILE),),
        attempts=(replace(SENT, code="x", message=HOSTILE, outcome="failed"),),
        versions=(
            ShownVersion(1, MOMENT, "old " + HOSTILE, ()),
            ShownVersion(2, MOMENT, HOSTILE, ()),
        ),
    )
    for shown in (row, replace(row, versions=())):
        for colour in (False, True):
            text = "\n".join(STYLE.sub("", line) for line in lines(shown, width=80, colour=colour))
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u202e]", text)
            if not colour:
                assert not re.search(r"^\s*::", text, re.MULTILINE)
    answer = lines(replace(row, versions=()))
    begin = answer.index("  Answer:")
    assert [line.strip()[0] for line in answer[begin + 1 : begin + 6]] == list("afghi"[:5])


def test_a_wrapped_line_commands_no_hosted_ci():
    """Also if the line begins in the middle of a text."""
    row = replace(ROW, answer="x" * 20 + " ::error::boo")
    assert not any(line.lstrip().startswith("::") for line in lines(row, width=24))


def test_versions_are_shown_with_their_changes():
    """The first one as it is, an equal one in a sentence."""
    versions = tuple(
        ShownVersion(number, MOMENT, text, ())
        for number, text in enumerate(["a red fox", "a grey fox", "a grey fox"], 1)
    )
    shown = lines(replace(ROW, versions=versions, answer="a grey fox"))
    assert "    a red fox" in shown
    assert "    a [-red-]{+grey+} fox" in shown
    assert "    The same text." in shown
    assert "  Answer:" not in shown
    coloured = lines(replace(ROW, versions=versions), colour=True, width=20)
    assert any("\x1b[32m{+grey+}\x1b[0m" in line for line in coloured)
    assert [STYLE.sub("", line) for line in coloured] == lines(
        replace(ROW, versions=versions), width=20
    )


@pytest.mark.parametrize(
    ("row", "note"),
    [
        (
            replace(ROW, status="ambiguous", error_code="gateway", answer=None),
            "A proxy answered in place of the API",
        ),
        (
            replace(ROW, status="failed", error_code="request_blocked", answer=None),
            "The server refuses this text.",
        ),
        (
            replace(ROW, status="skipped", skipped=True, error_message="hidden", answer=None),
            "The last run skipped this row: hidden.",
        ),
        (replace(ROW, skipped=True, error_message="hidden"), "It keeps its answer."),
        (
            replace(ROW, error_code="run_failed", error_message="no"),
            "A newer answer was asked for: run_failed. no",
        ),
        (
            replace(
                ROW,
                status="pending",
                answer=None,
                attempts=(replace(SENT, outcome="in flight", paid="maybe paid"),),
            ),
            "The run waits for it.",
        ),
    ],
)
def test_a_row_without_a_new_answer_says_why(row, note):
    """In the words of the report where it has the same case."""
    assert note in " ".join(" ".join(lines(row)).split())


def test_a_row_that_was_never_sent_shows_what_a_run_would_send():
    """It has no requests."""
    row = replace(ROW, status="pending", sent=False, answer=None, attempts=(), citations=())
    shown = lines(row)
    assert shown[1:3] == ["  Not sent yet. A run would send:", "    topic: foxes"]
    assert "  Requests:" not in shown
    assert "  No answer:" not in shown
