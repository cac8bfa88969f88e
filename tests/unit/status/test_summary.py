"""Counts and exit codes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.model import State, StopCode, Stopped, Summary
from pipeline.job.job import Job
from pipeline.job.run_folder import RunFolder
from pipeline.ledger.queries import Counts, Ending, Unfinished
from pipeline.status.exit_codes import FailOn, RowsForExitCode
from pipeline.status.summary import as_json, for_person, summarize
from pipeline.status.summary_lines import next_lines

JOB = Job("j", RunFolder(Path("/tmp/j")), None, False, ("jobs/j.yaml", "--sandbox"))


def counts(given_up: int = 0, skipped: int = 0, **states: int) -> Counts:
    rows = sum(states.values()) + skipped
    endings = Counter({Ending(State(name)): n for name, n in states.items() if name != "pending"})
    endings -= Counter({Ending(State.FAILED): given_up})
    endings += Counter({Ending(State.FAILED, given_up=True): given_up})
    return Counts(endings, 3, 5, rows, skipped, "r", None)


def summary(stop: StopCode | None = None, signal: int | None = None, **states: int) -> Summary:
    stopped = Stopped(stop, "why") if stop else None
    return summarize(JOB, counts(**states), stopped=stopped, signal_exit=signal)


@pytest.mark.parametrize(
    ("stop", "signal", "states", "code"),
    [
        (None, None, {"ok": 3}, 0),
        (None, None, {"ok": 3, "pending": 2}, 0),
        (None, None, {"ok": 3, "failed": 1}, 3),
        (None, None, {"failed": 1, "ambiguous": 1}, 5),
        (None, None, {"sending": 1}, 5),
        (StopCode.NOT_SENT, None, {"ambiguous": 1}, 75),
        (StopCode.MAX_PAID, None, {"ambiguous": 1, "failed": 1}, 4),
        (StopCode.ALIKE, None, {"failed": 10}, 4),
        (StopCode.TLS, None, {"pending": 10}, 4),
        (StopCode.AMBIGUOUS, None, {"ambiguous": 10}, 5),
        (StopCode.INTERRUPTED, 143, {"ambiguous": 1}, 143),
        (StopCode.INTERRUPTED, None, {"ok": 1}, 130),
        (StopCode.UNAUTHORIZED, 130, {"pending": 1}, 130),
        (StopCode.STORAGE, 130, {"pending": 1}, 6),
    ],
)
def test_the_gravest_of_several_reasons_gives_the_exit_code(stop, signal, states, code):
    """In this order: 6, 130 or 143, 4, 75, 5, 3."""
    assert summary(stop, signal, **states).exit_code == code


def test_the_counts_add_up_and_rows_in_flight_count_as_ambiguous():
    """ok + failed + ambiguous + pending + skipped = rows."""
    found = summary(ok=5, failed=4, ambiguous=3, sending=2, pending=1, skipped=6)
    assert (found.ok, found.failed, found.ambiguous, found.pending, found.skipped) == (
        *(5, 4, 5, 1, 6),
    )
    assert found.rows == 21


def test_rows_in_flight_are_pending_while_a_run_is_active():
    """The run waits for the responses, so no decision is needed."""
    found = summarize(JOB, counts(ok=5, ambiguous=3, sending=2, pending=1), in_use=True)
    assert (found.ok, found.ambiguous, found.pending, found.rows) == (5, 3, 3, 11)
    assert summarize(JOB, counts(ok=1, sending=2), in_use=True).exit_code == 0
    assert summarize(JOB, counts(ok=1, sending=2)).exit_code == 5


@pytest.mark.parametrize(
    ("states", "command"),
    [
        ({"ok": 1}, None),
        ({"pending": 1, "ambiguous": 1}, "pipeline run jobs/j.yaml --sandbox"),
        ({"failed": 1, "pending": 1}, "pipeline run jobs/j.yaml --sandbox"),
        ({"failed": 1, "ambiguous": 1}, "pipeline resume jobs/j.yaml --sandbox"),
        ({"ambiguous": 1}, "pipeline resume jobs/j.yaml --sandbox --ambiguous"),
        ({"failed": 1, "given_up": 1}, None),
    ],
)
def test_the_command_that_continues_names_the_job_as_the_user_did(states, command):
    """Pending rows come first. If nothing is left to send, there is no command."""
    assert summary(**states).resume_command == command


@pytest.mark.parametrize(
    ("sending", "words"),
    [
        ((), ""),
        (("--max-paid", "6"), " --max-paid 6"),
        (("--max-paid", "5", "--rate", "2"), " --max-paid 7 --rate 2"),
        (("--max-paid", "4"), " --max-paid 7"),
        (("--max-paid", "many"), " --max-paid many"),
        (("--max-paid",), " --max-paid"),
    ],
)
def test_the_command_that_continues_names_a_limit_that_is_not_used_up(sending, words):
    """5 requests are paid and 2 rows are left, so a limit of 5 would send nothing."""
    job = replace(JOB, sending=sending)
    found = for_person(job, summarize(job, counts(ok=3, pending=2)))
    assert found.resume_command == f"pipeline run jobs/j.yaml --sandbox{words}"


@pytest.mark.parametrize("withheld", [{}, {"--base-url": "http://127.0.0.1:9"}])
def test_the_last_line_names_the_command_that_continues(withheld):
    """Nothing follows the command, so that it can be pasted to its end."""
    job = replace(JOB, withheld=withheld)
    found = for_person(job, summarize(job, counts(ok=3, pending=2)))
    *before, last = next_lines(found, rehearsal=False)
    assert last == "Next: pipeline run jobs/j.yaml --sandbox"
    assert before[0] == "The next command sends 2 rows."
    assert len(before) == 1 + len(withheld)
    assert next_lines(summary(ok=1), rehearsal=False) == []


def test_the_json_object_has_exactly_the_fields_that_scripts_use():
    """In this order."""
    fields = (
        "schema_version run_id job rows ok failed ambiguous pending skipped paid_min paid_max "
        "by_code stopped requests rate_limited duration_s results report failures "
        "resume_command exit_code failed_notifications resume_needs"
    )
    assert list(as_json(summary(ok=1))) == fields.split()


def test_the_exit_code_counts_only_the_rows_of_the_command():
    """Covered rows; with `new` those of this run; with `none` no row."""

    def row(number: int, state: State, new: bool) -> Unfinished:
        return Unfinished(1, number, state, "c", "", None, 1, False, 0.0, False, False, new)

    rows = [row(1, State.FAILED, True), row(2, State.AMBIGUOUS, False), row(3, State.FAILED, True)]
    covered = np.array([True, True, False])

    def concern(fail_on: FailOn) -> Counter[State]:
        found = RowsForExitCode(covered, fail_on)
        for one in rows:
            found.add(one)
        return found.states

    assert concern(FailOn.ANY) == {State.FAILED: 1, State.AMBIGUOUS: 1}
    assert concern(FailOn.NEW) == {State.FAILED: 1}
    assert concern(FailOn.NONE) == {}
