"""The bar of a run on a terminal: it fits every width, and what stays there is the last count."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import sys
import termios
import time
from collections import Counter

import pytest

import pipeline
from pipeline.commands.bar_words import Word, fitting
from pipeline.commands.options import OutputOptions
from pipeline.commands.progress import ProgressBar
from pipeline.commands.rows_shown import rows_shown
from pipeline.core.events import AttemptEnded, Notice, Paced, RunStarted
from pipeline.core.model import Outcome, Row, State, Verdict
from tests.conftest import Job
from tests.support.screen import Screen, screen, shown_lines

ROW = Row(7, bytes(16), bytes(16), 0, b"{}")
OUTCOMES = {
    State.OK: Outcome(Verdict.OK, None, "", 200),
    State.FAILED: Outcome(Verdict.FAILED, "request_blocked", "no", 400),
    State.AMBIGUOUS: Outcome(Verdict.AMBIGUOUS, "gateway", "no", 502),
}
KEPT = {
    "the first row": Counter[State](),
    "most rows are ok": Counter({State.OK: 899_990}),
    "most rows failed": Counter({State.FAILED: 543_210, State.AMBIGUOUS: 123_456}),
}
PACES = [
    Paced(0.0014, 5, 3600.0, 0, time.monotonic() + 99_999),
    Paced(12_345.6, 100_000, 3600.0, 250_000),
    Paced(48.5, None, None, 97),
]


def end(bar: ProgressBar, state: State, rows: int) -> None:
    for _ in range(rows):
        bar(AttemptEnded(ROW, OUTCOMES[state], state, 0))


def redrawn(terminal: Screen, bar: ProgressBar) -> str:
    """Returns the bar as it is now. A message has it drawn again."""
    bar(Notice("A message."))
    return terminal.lines()[-1]


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("pace", PACES, ids=lambda pace: f"{pace.per_s} per s")
def test_the_bar_fits_the_terminal_at_every_moment(columns, kept, pace):
    """With counts of six digits too. The count and the rows that are not ok stay whole."""
    with screen(columns) as terminal:
        bar = ProgressBar(terminal.stream)
        bar(RunStarted("run", 999_999, 999_999 - KEPT[kept].total(), KEPT[kept]))
        bar(pace)
        for state, rows in ((State.OK, 3), (State.FAILED, 2), (State.AMBIGUOUS, 1)):
            end(bar, state, rows)
        done = KEPT[kept].total() + 6
        failed, lost = KEPT[kept][State.FAILED] + 2, KEPT[kept][State.AMBIGUOUS] + 1
        assert f"| {done}/999999, {failed} failed, {lost} ambiguous" in redrawn(terminal, bar)
        bar.close()
        lines = terminal.lines()
        assert terminal.widest < columns
    assert f"| {done}/999999, {failed} failed, {lost} ambiguous" in lines[-2]
    assert "in flight" not in lines[-2]
    assert [line for line in lines if "%|" in line] == [lines[-2]]


def test_words_are_left_out_in_a_fixed_order():
    """The limit first, then the pace. The number of failed rows is the last to go."""
    words = [Word("3 failed", 0), Word("2 in flight", 2), Word("pace 9/s", 5), Word("limit 50", 6)]
    wide = ", 3 failed, 2 in flight, pace 9/s, limit 50"
    assert fitting(words, len(wide)) == wide
    assert fitting(words, len(wide) - 1) == ", 3 failed, 2 in flight, pace 9/s"
    assert fitting(words, 32) == ", 3 failed, 2 in flight"
    assert fitting(words, 22) == ", 3 failed"
    assert fitting(words, 9) == ""


def test_a_narrow_terminal_shows_the_requests_in_flight_before_the_pace():
    """A user wants to know them before pressing Ctrl-C."""
    with screen(50) as terminal:
        bar = ProgressBar(terminal.stream)
        bar(RunStarted("run", 260, 260, Counter()))
        bar(Paced(48.5, 50, 1.0, 97))
        assert re.search(r"\| 0/260, 0 failed, 97 in flight$", redrawn(terminal, bar))
        bar.close()


def test_a_key_that_the_terminal_echoes_leaves_no_second_bar():
    """Ctrl-C shows ^C where the cursor is, which is not behind a full line."""
    with screen(80) as terminal:
        bar = ProgressBar(terminal.stream)
        bar(RunStarted("run", 260, 260, Counter()))
        bar(Paced(48.5, 50, 1.0, 97))
        redrawn(terminal, bar)
        terminal.stream.write("^C^C")
        end(bar, State.OK, 3)
        assert "^C" not in redrawn(terminal, bar)
        bar.close()
        [last] = [line for line in terminal.lines() if "%|" in line]
    assert "| 3/260, 0 failed, took" in last


def on_a_terminal(job: Job, *options: str, interrupts: int = 0) -> tuple[int, list[str]]:
    """Runs the job on a terminal of 80 columns. Returns its exit code and what the terminal shows.
    Ctrl-C is typed `interrupts` times, once a row is done and three others are in flight."""
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        command = job.command("run", "--yes", *options)
        os.execve(command[0], command, job.environment())
    drawn = b""
    while True:
        try:
            piece = os.read(terminal, 1000)
        except OSError:  # Linux: the other side is closed
            break
        if not piece:
            break
        drawn += piece
        if interrupts and re.search(rb"\| [1-9]\d*/[^\r]* 3 in flight", drawn):
            os.write(terminal, b"\x03")
            interrupts -= 1
            time.sleep(0.3)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    return code, shown_lines(drawn.decode(), 80)


def test_the_bar_that_stays_has_the_final_count(start_sandbox, make_job):
    """Of a run that finished, with failed and ambiguous rows."""
    sandbox = start_sandbox()
    stories = [f"story {n}" for n in range(30)] + ["#fault:blocked", "#fault:html-504-billed"]
    job = make_job(sandbox.url, rows=[[story] for story in stories])
    code, lines = on_a_terminal(job)
    assert code == 5, lines
    [bar] = [line for line in lines if "%|" in line]
    assert bar.startswith("100%|")
    assert "| 32/32, 1 failed, 1 ambiguous, took " in bar


@pytest.mark.parametrize(("fault", "interrupts", "lost"), [("slow", 1, 0), ("hang", 2, 3)])
def test_after_ctrl_c_the_bar_that_stays_has_the_final_count(
    sandbox, make_job, fault, interrupts, lost
):
    """The answers that the run still waited for are counted, and after a second Ctrl-C the rows
    that became ambiguous. The bar is there once."""
    stories = ["a", "b", "c", *(f"{n} #fault:{fault}" for n in range(9))]
    job = make_job(sandbox.url, rows=[[story] for story in stories], concurrency=3)
    code, lines = on_a_terminal(job, interrupts=interrupts)
    assert code == 128 + signal.SIGINT, lines
    found = job.status()
    assert found["ambiguous"] == lost
    [bar] = [line for line in lines if "%|" in line]
    words = f", {lost} ambiguous" if lost else ""
    assert f"| {found['ok'] + lost}/12, 0 failed{words}, took" in bar


@pytest.mark.parametrize(
    ("quiet", "as_json", "shown"),
    [(False, False, True), (True, False, False), (False, True, False)],
)
def test_a_long_export_shows_its_progress_on_a_terminal(monkeypatch, quiet, as_json, shown):
    """After a second, and not with --quiet or --json. It is gone when the command says what it
    wrote."""
    with screen(80) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal.stream)
        with rows_shown(OutputOptions(quiet=quiet, as_json=as_json)) as on_rows:
            assert (on_rows is not None) == shown
            if on_rows is not None:
                on_rows(2_000, 260_000)
                assert terminal.lines() == [""]
                time.sleep(1.1)
                on_rows(4_000, 260_000)
                assert re.match(r"  1%\|.*\| 4000/260000, \d+ \w+ left$", terminal.lines()[-1])
        assert terminal.lines() == [""]


def test_an_export_without_a_terminal_shows_no_progress(monkeypatch):
    """Such as one in a nightly log."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with rows_shown(OutputOptions(quiet=False, as_json=False)) as on_rows:
        assert on_rows is None


@pytest.mark.parametrize("ending", [".csv", ".xlsx", ".jsonl", ".parquet"])
def test_an_export_says_how_many_rows_are_written(sandbox, make_job, ending):
    """Batch by batch, up to the last row."""
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(5000)])
    job.run("--limit", "3")
    seen: list[tuple[int, int]] = []
    found = pipeline.find_job(job.spec)
    pipeline.export_job(found, job.folder / f"out{ending}", on_rows=lambda *rows: seen.append(rows))
    assert seen == [(2000, 5000), (4000, 5000), (5000, 5000)]
