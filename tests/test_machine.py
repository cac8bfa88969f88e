"""A state machine: whatever is done to the sheet, the spec and the process, the book is right.

The model is a dict from what may be sent to how often it may be billed; the judge is the
sandbox's book. Commands are real processes, forked so that one takes a tenth of a second.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import Job, SandboxProcess
from tests.forks import Forks, forking

FAULTS = ("json-500-once", "blocked", "not-json", "html-504-billed", "success-false")
STORIES = [f"story {n}" for n in range(6)] + [f"{n} #fault:{n}" for n in FAULTS]
IN_FLIGHT = 3

stories = st.sampled_from(STORIES)
places = st.integers(0, 11)
# A run takes a fifth of a second to its first request, and a tenth or two from there.
instants_s = st.floats(0.0, 0.1) | st.floats(0.1, 0.4)


@dataclass
class Bench:
    """What all examples share: one sandbox, one process that forks."""

    sandbox: SandboxProcess
    forks: Forks
    numbers: Iterator[int]


@pytest.fixture
def bench(start_sandbox, tmp_path) -> Iterator[Bench]:
    """Answers take 60 ms, so that a kill finds some on their way."""
    sandbox = start_sandbox(latency="60ms")
    environment = Job(tmp_path, tmp_path, tmp_path, sandbox.url).environment()
    with forking(tmp_path, environment) as forks:
        yield Bench(sandbox, forks, count())


class Machine(RuleBasedStateMachine):
    """A person at a sheet, with a process that dies."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self._home = TemporaryDirectory()
        folder = Path(self._home.name)
        self.workflow = f"wf_{next(self.bench.numbers)}"
        self.bench.sandbox.publish(self.workflow, "{{story}}, told in a {{tone}} tone")
        self.job = Job(folder, folder / "job.yaml", folder / "sheet.csv", self.bench.sandbox.url)
        self.rows: list[str] = []
        self.tone, self.note, self.dedupe = "warm", False, False
        # By body: how often it may be billed, how many equal rows a run ever saw of it, whether
        # a run that was ended by force may have left it ambiguous.
        self.allowed: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.cut: set[str] = set()
        self.tones = {"warm"}
        self.done = False

    def teardown(self) -> None:
        self._home.cleanup()

    # -- the sheet and the spec -----------------------------------------------------------

    @initialize(rows=st.lists(stories, min_size=1, max_size=8))
    def begin(self, rows: list[str]) -> None:
        self.rows = rows

    @rule(place=places, story=stories)
    def edit(self, place: int, story: str) -> None:
        self.rows[place % len(self.rows)] = story

    @rule(place=places, story=stories)
    def insert(self, place: int, story: str) -> None:
        self.rows.insert(place % (len(self.rows) + 1), story)

    @rule(place=places)
    def duplicate(self, place: int) -> None:
        self.rows.append(self.rows[place % len(self.rows)])

    @rule(place=places)
    def delete(self, place: int) -> None:
        if len(self.rows) > 1:
            del self.rows[place % len(self.rows)]

    @rule(backwards=st.booleans())
    def sort(self, backwards: bool) -> None:
        self.rows.sort(reverse=backwards)

    @rule()
    def add_a_column(self) -> None:
        self.note = True

    @rule()
    def turn_dedupe(self) -> None:
        """Off, the other equal rows are new; on, nothing is, whatever was sent meanwhile."""
        self.dedupe = not self.dedupe

    @rule(tone=st.sampled_from(["warm", "dry"]), accepted=st.booleans())
    def change_the_constant(self, tone: str, accepted: bool) -> None:
        """Where that would pay again, it is refused unless accepted; then it is undone."""
        before, self.tone = self.tone, tone
        received = self._received()
        code = self._run("run", *(["--accept-changes"] if accepted else []))
        if code == 2:
            assert not accepted
            assert self._received() == received
            self.tone = before

    # -- the commands ---------------------------------------------------------------------

    @rule(limit=st.none() | st.integers(0, 4))
    def run(self, limit: int | None) -> None:
        self._run("run", *self._limited(limit))

    @rule(after_s=instants_s)
    def run_and_kill(self, after_s: float) -> None:
        self._run("run", signals=[(after_s, signal.SIGKILL)])

    @rule(after_s=instants_s)
    def resume_and_kill(self, after_s: float) -> None:
        self._run("resume", signals=[(after_s, signal.SIGKILL)])

    @rule(after_s=instants_s)
    def kill_and_run_again(self, after_s: float) -> None:
        """What matters most of a kill is what comes next."""
        self.run_and_kill(after_s)
        self.run(None)

    @rule(after_s=instants_s, again_s=st.none() | st.floats(0.0, 0.1))
    def run_and_interrupt(self, after_s: float, again_s: float | None) -> None:
        second = [] if again_s is None else [(again_s, signal.SIGINT)]
        self._run("run", signals=[(after_s, signal.SIGINT), *second])

    @rule(
        more=st.sampled_from(
            [[], ["--only", "request_blocked"], ["--except", "run_failed"], ["--rows", "1"]]
        ),
        ambiguous=st.booleans(),
    )
    def resume(self, more: list[str], ambiguous: bool) -> None:
        yes = ["--ambiguous", "--yes"] if ambiguous else []
        self._run("resume", *more, *yes)

    @rule(killed_after_s=st.none() | instants_s)
    def again(self, killed_after_s: float | None) -> None:
        signals = [] if killed_after_s is None else [(killed_after_s, signal.SIGKILL)]
        self._run("run", "--again", "all", "--yes", signals=signals)

    @rule()
    def settle(self) -> None:
        if self.done:
            assert self.bench.forks.call("settle", str(self.job.spec), "--quiet") == 0

    @rule()
    def export(self) -> None:
        if not self.done:
            return
        exported = self._export()
        ok = exported[exported["_status"] == "ok"]
        answers = self._answers()
        for story, result in zip(ok["story"], ok["result"], strict=True):
            assert result in {answers.get(self._body(story, tone)) for tone in self.tones}

    # -- what must hold -------------------------------------------------------------------

    @invariant()
    def nothing_is_billed_more_often_than_it_was_allowed(self) -> None:
        for body, billed in self._billed().items():
            assert billed <= self.allowed[body], body

    # -- how ------------------------------------------------------------------------------

    def _run(self, verb: str, *options: str, signals: list[tuple[float, int]] | None = None) -> int:
        self._write()
        before = self.allowed.copy(), self.seen.copy()
        self._allow(verb, options)
        words = [verb, str(self.job.spec), "--rate", "5000", "--quiet", *options]
        code = self.bench.forks.call_with_signals(words, signals or [])
        assert code in self._codes(signals), (code, self.bench.forks.complained)
        if code == 2:
            self.allowed, self.seen = before
            return code
        self.tones.add(self.tone)
        if any(number == signal.SIGKILL for _, number in signals or []) or len(signals or []) > 1:
            self.cut |= {self._body(story) for story in self.rows}
        if (self.job.output / "ledger.sqlite").exists():
            self._check_counts()
        if code in (0, 3, 5):
            self.done = True
            self._check_files()
        return code

    @staticmethod
    def _codes(signals: list[tuple[float, int]] | None) -> set[int]:
        """How a run may end: nothing here makes it stop for another reason."""
        by_signal = {-signal.SIGKILL} if signals and signals[0][1] == signal.SIGKILL else {130}
        return {0, 2, 3, 5} | (by_signal if signals else set())

    def _allow(self, verb: str, options: tuple[str, ...]) -> None:
        """Each equal row once, or one for all; what the user allows to pay twice once more."""
        wanted = Counter(self._body(story) for story in self.rows)
        if self.dedupe:
            wanted = Counter(dict.fromkeys(wanted, 1))
        for body, rows in wanted.items():
            self.allowed[body] += max(0, rows - self.seen[body])
            self.seen[body] = max(self.seen[body], rows)
            if self._may_be_paid_again(body, verb, options):
                self.allowed[body] += rows

    def _may_be_paid_again(self, body: str, verb: str, options: tuple[str, ...]) -> bool:
        if "--again" in options:
            return True
        if verb != "resume":
            return False
        billed_for_nothing = "#fault:not-json" in body or "#fault:html-504" in body
        if "#fault:success-false" in body:
            return True  # failed, and maybe paid: `resume` says so and sends it
        # What was settled is failed, which `resume` sends too.
        return billed_for_nothing or body in self.cut

    def _check_counts(self) -> None:
        """By `status`, whatever ended the run: a kill leaves no summary of its own."""
        code = self.bench.forks.call("status", str(self.job.spec), "--json")
        summary = json.loads(self.bench.forks.said)
        # A kill may come before the first run has begun: then nothing was sent, and that is said.
        assert code == 0 or "no run yet" in summary["error"]
        states = ("ok", "failed", "ambiguous", "pending", "skipped")
        assert sum(summary[state] for state in states) == summary["rows"]
        assert summary["paid_min"] <= sum(self._billed().values()) <= summary["paid_max"]

    def _check_files(self) -> None:
        """Summary, parts and failures of a run that came to its end: what a user reads."""
        summary = json.loads((self.job.output / "summary.json").read_text())
        assert summary["rows"] == len(self.rows)
        results = pd.read_parquet(self.job.results)
        assert not results.duplicated(["run_id", "row"]).any()
        once = results.groupby(["variables", "version"]).size()
        for (body, _), rows in once.items():
            assert rows <= self.seen[body], body
        self._check_that_paid_rows_are_known(self._billed(), results)

    def _check_that_paid_rows_are_known(
        self, billed: dict[str, int], results: pd.DataFrame
    ) -> None:
        """A body of the sheet that was billed is answered, ambiguous, or failed and maybe paid."""
        answers, kept = self._answers(), Counter(results["variables"])
        for body, text in zip(results["variables"], results["result"], strict=True):
            assert answers[body] == text
        failures = pd.read_csv(self.job.output / "failures.csv", dtype=str, keep_default_na=False)
        known = {self._body(story) for story in failures["story"]}
        for body in {self._body(story) for story in self.rows}:
            assert not billed.get(body) or kept[body] or body in known, body
            assert kept[body] <= billed.get(body, 0), body

    def _export(self) -> pd.DataFrame:
        target = self.job.folder / "exported.csv"
        assert self.bench.forks.call("export", str(self.job.spec), "--to", str(target)) == 0
        return pd.read_csv(target, dtype=str, keep_default_na=False)

    def _write(self) -> None:
        columns = ["story", "note"] if self.note else ["story"]
        notes = ["a note"] if self.note else []
        self.job.write_sheet(columns, [[story, *notes] for story in self.rows])
        self.job.write_spec(
            workflow=self.workflow,
            variables={"story": "story"},
            constants={"tone": self.tone},
            dedupe=self.dedupe,
            concurrency=IN_FLIGHT,
        )

    def _body(self, story: str, tone: str | None = None) -> str:
        fields = {"story": story, "tone": tone or self.tone}
        return json.dumps(fields, separators=(",", ":"))

    @staticmethod
    def _limited(limit: int | None) -> list[str]:
        return [] if limit is None else ["--limit", str(limit)]

    def _bills(self) -> list[dict]:
        bills = self.bench.sandbox.bills()
        return [entry for entry in bills if entry["workflow"] == self.workflow]

    def _billed(self) -> dict[str, int]:
        return {entry["body"]: entry["billed"] for entry in self._bills()}

    def _answers(self) -> dict[str, str]:
        return {entry["body"]: entry["result"] for entry in self._bills() if entry["billed"]}

    def _received(self) -> int:
        return sum(entry["received"] for entry in self._bills())


def attack(bench: Bench, examples: int, steps: int) -> None:
    """Runs the machine so often; what fails is shrunk and printed as the steps to repeat."""
    machine = type("Machine", (Machine,), {"bench": bench, "TestCase": None})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=examples < 100,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_whatever_is_done_to_sheet_spec_and_process_the_book_is_right(bench):
    """A small budget, the same examples every time."""
    attack(bench, examples=8, steps=6)


@pytest.mark.long
def test_whatever_is_done_to_sheet_spec_and_process_the_book_is_right_at_length(bench):
    """Other examples every time."""
    attack(bench, examples=1000, steps=15)
