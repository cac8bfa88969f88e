"""A state machine that tests that no action on sheet, job file or process pays for a row twice.

The model maps each request body to the number of bills that the user allowed. The sandbox's book
decides. Commands are real processes, forked, so each takes a tenth of a second.

The machine notes its steps. If an example fails, the list of its steps is printed, because
shrinking takes hours when each try needs a dozen processes. `replay` repeats such a list.
"""

from __future__ import annotations

import functools
import json
import math
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pipeline.job.job import find_job
from pipeline.ledger.kept_counts import KeptCounts
from pipeline.ledger.reader import has_run
from pipeline.show.finder import Finder
from pipeline.status.summary import read_status, status_with
from tests.conftest import Job, SandboxProcess
from tests.support.forks import Forks
from tests.support.found import compare

EMPTY = "result-empty"
EDITED = "A text by a person."
FAULTS = ("json-500-once", "blocked", "not-json", "html-504-billed", "success-false", EMPTY)
STORIES = [f"story {n}" for n in range(6)] + [f"{n} #fault:{n}" for n in FAULTS]
IN_FLIGHT = 3
# The time for a run of one row and its checks on an idle machine.
USUAL_S = 0.3

stories = st.sampled_from(STORIES)
places = st.integers(0, 11)
# A run sends its first request after 0.2 s, and ends 0.1 or 0.2 s later.
instants_s = st.floats(0.0, 0.1) | st.floats(0.1, 0.4)


Step = tuple[str, dict[str, Any]]


@dataclass
class Bench:
    """The parts that all examples share: one sandbox, and one process that forks."""

    sandbox: SandboxProcess
    forks: Forks
    numbers: Iterator[int]
    # How many times slower than usual runs are now. Kills are delayed by this factor.
    slower: float = 1.0
    # The time on the monotonic clock after which no step begins.
    until: float = math.inf
    # The steps of each example that failed, and its error.
    failed: list[tuple[list[Step], BaseException]] = field(default_factory=list)


def noted(function: Callable[..., None]) -> Callable[..., None]:
    """Wraps a rule so that its name and values are noted, to print and repeat them."""

    @functools.wraps(function)
    def step(self: Machine, **values: Any) -> None:
        if time.monotonic() > self.bench.until:
            return
        self.steps.append((function.__name__, values))
        self.watched(lambda: function(self, **values))

    return step


class Machine(RuleBasedStateMachine):
    """A user with a sheet, and a process that dies."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._home = TemporaryDirectory()
        folder = Path(self._home.name)
        self.workflow = f"wf_{next(self.bench.numbers)}"
        self.bench.sandbox.publish(self.workflow, "{{story}}, told in a {{tone}} tone")
        self.job = Job(folder, folder / "job.yaml", folder / "sheet.csv", self.bench.sandbox.url)
        self.rows: list[str] = []
        self.tone, self.note, self.dedupe = "warm", False, False
        self.deduped = False
        # By body: how often it may be billed, the most equal rows with it in any run, and whether
        # a killed run may have left it ambiguous.
        self.allowed: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.cut: set[str] = set()
        # Bodies that may also be paid in other tones.
        self.accepted: set[str] = set()
        self.tones = {"warm"}
        self.done = False
        self.finder: Finder | None = None
        self.counts = KeptCounts()
        self.found_spec = ""
        # By the answer that a stage sends: the most rows with it in any run of the stage.
        self.stage_seen: Counter[str] = Counter()
        self.stage_workflow = f"{self.workflow}_stage"
        self.bench.sandbox.publish(self.stage_workflow, "{{text}}, once more")

    def teardown(self) -> None:
        self._home.cleanup()

    # -- the sheet and the spec -----------------------------------------------------------

    @initialize(rows=st.lists(stories, min_size=1, max_size=8))
    @noted
    def begin(self, rows: list[str]) -> None:
        self.rows = list(rows)

    @rule(place=places, story=stories)
    @noted
    def edit(self, place: int, story: str) -> None:
        self.rows[place % len(self.rows)] = story

    @rule(place=places, story=stories)
    @noted
    def insert(self, place: int, story: str) -> None:
        self.rows.insert(place % (len(self.rows) + 1), story)

    @rule(place=places)
    @noted
    def duplicate(self, place: int) -> None:
        self.rows.append(self.rows[place % len(self.rows)])

    @rule(place=places)
    @noted
    def delete(self, place: int) -> None:
        if len(self.rows) > 1:
            del self.rows[place % len(self.rows)]

    @rule(backwards=st.booleans())
    @noted
    def sort(self, backwards: bool) -> None:
        self.rows.sort(reverse=backwards)

    @rule()
    @noted
    def add_a_column(self) -> None:
        self.note = True

    @rule()
    @noted
    def turn_dedupe(self) -> None:
        """Without it, the other equal rows are new. With it, no row is new."""
        self.dedupe, self.deduped = not self.dedupe, True

    @rule(tone=st.sampled_from(["warm", "dry"]), accepted=st.booleans())
    @noted
    def change_the_constant(self, tone: str, accepted: bool) -> None:
        """Changes the tone. If that would pay again, the run refuses it unless the user accepts.
        It refuses a reviewed row by its name, whatever the user accepts."""
        before, self.tone = self.tone, tone
        received, reviewed = self._received(), self._protected()
        code = self._run("run", *(["--accept-changes"] if accepted else []))
        if code == 2:
            by_name = "approved or edited" in self.bench.forks.complained
            assert not accepted or (reviewed and by_name)
            assert self._received() == received
            self.tone = before

    # -- the commands ---------------------------------------------------------------------

    @rule(limit=st.none() | st.integers(0, 4))
    @noted
    def run(self, limit: int | None) -> None:
        self._run("run", *self._limited(limit))

    @rule(after_s=instants_s)
    @noted
    def run_and_kill(self, after_s: float) -> None:
        self._run("run", signals=[(after_s, signal.SIGKILL)])

    @rule(after_s=instants_s)
    @noted
    def resume_and_kill(self, after_s: float) -> None:
        self._run("resume", signals=[(after_s, signal.SIGKILL)])

    @rule(after_s=instants_s)
    @noted
    def kill_and_run_again(self, after_s: float) -> None:
        """Kills a run and starts the next one at once, which is the critical case after a kill."""
        self._run("run", signals=[(after_s, signal.SIGKILL)])
        self._run("run")

    @rule(after_s=instants_s, again_s=st.none() | st.floats(0.0, 0.1))
    @noted
    def run_and_interrupt(self, after_s: float, again_s: float | None) -> None:
        second = [] if again_s is None else [(again_s, signal.SIGINT)]
        self._run("run", signals=[(after_s, signal.SIGINT), *second])

    @rule(
        more=st.sampled_from(
            [[], ["--only", "request_blocked"], ["--except", "run_failed"], ["--rows", "1"]]
        ),
        ambiguous=st.booleans(),
    )
    @noted
    def resume(self, more: list[str], ambiguous: bool) -> None:
        yes = ["--ambiguous", "--yes"] if ambiguous else []
        self._run("resume", *more, *yes)

    @rule(killed_after_s=st.none() | instants_s)
    @noted
    def again(self, killed_after_s: float | None) -> None:
        signals = [] if killed_after_s is None else [(killed_after_s, signal.SIGKILL)]
        self._run("run", "--again", "all", "--yes", signals=signals)

    @rule(killed_after_s=st.none() | instants_s)
    @noted
    def again_with_flag(self, killed_after_s: float | None) -> None:
        """Without such an answer, and while an earlier --again is not finished: refused."""
        signals = [] if killed_after_s is None else [(killed_after_s, signal.SIGKILL)]
        self._run("run", "--again", "empty", "--yes", signals=signals)

    @rule(killed_after_s=st.none() | instants_s)
    @noted
    def run_stage(self, killed_after_s: float | None) -> None:
        """Runs another job whose rows are the answers of this one."""
        if not self.done:
            return
        exported = self._export()
        texts = Counter(exported.loc[exported["_status"] == "ok", "result"])
        for text, rows in texts.items():
            self.stage_seen[text] = max(self.stage_seen[text], rows)
        self._write_stage()
        signals = [] if killed_after_s is None else [(killed_after_s, signal.SIGKILL)]
        later = [(after_s * self.bench.slower, number) for after_s, number in signals]
        words = ["run", str(self._stage), "--rate", "5000", "--quiet"]
        code = self.bench.forks.call_with_signals(words, later)
        assert code in self._codes(signals), (code, self.bench.forks.complained)

    @rule(place=places, what=st.sampled_from(["--approve", "--edit", "--reject", "--reset"]))
    @noted
    def review(self, place: int, what: str) -> None:
        """Reviews the answer of a row of the last run's sheet. Without one: refused."""
        self._review(place, what)

    def _review(self, place: int, what: str) -> None:
        shown = self._shown()
        if not shown:
            return
        row = shown[place % len(shown)]
        words = ["--yes", what]  # the sheet may have been edited since the last run
        if what == "--edit":
            file = self.job.folder / "edit.txt"
            file.write_text(EDITED, encoding="utf-8")
            words.append(str(file))
        number = str(row["row"])
        code = self.bench.forks.call("review", str(self.job.spec), "--rows", number, *words)
        assert code == (2 if row["answer"] is None else 0), self.bench.forks.complained
        if code == 0:
            word = {"--approve": "approved", "--edit": "edited", "--reject": "rejected"}.get(what)
            [now] = [one for one in self._shown() if one["row"] == row["row"]]
            # An approved answer that was edited before is still edited.
            assert now["review"] in ({word, "edited"} if word == "approved" else {word})

    @rule(place=places, what=st.sampled_from(["--approve", "--edit"]), after_s=instants_s)
    @noted
    def review_during_again(self, place: int, what: str, after_s: float) -> None:
        """Kills a run that asks again, and reviews before the next one."""
        self._run("run", "--again", "all", "--yes", signals=[(after_s, signal.SIGKILL)])
        self._review(place, what)
        self._run("run")

    @rule(killed_after_s=st.none() | instants_s)
    @noted
    def again_rejected(self, killed_after_s: float | None) -> None:
        """Without a rejected answer, and while an earlier --again is not finished: refused."""
        signals = [] if killed_after_s is None else [(killed_after_s, signal.SIGKILL)]
        self._run("run", "--again", "rejected", "--yes", signals=signals)

    @rule()
    @noted
    def settle(self) -> None:
        if self.done:
            assert self.bench.forks.call("settle", str(self.job.spec), "--quiet") == 0

    @rule()
    @noted
    def export(self) -> None:
        if not self.done:
            return
        exported = self._export()
        ok = exported[exported["_status"] == "ok"]
        answers = self._answers()
        reviewed = {row["row"] for row in self._shown() if row["review"] or row["skipped"]}
        for row, story, result in zip(ok.index + 1, ok["story"], ok["result"], strict=True):
            if row not in reviewed:
                assert result in {answers.get(self._body(story, tone)) for tone in self.tones}

    @rule(where=st.sampled_from(["kept", "gone", "damaged"]))
    @noted
    def find(self, where: str) -> None:
        """Also after somebody deleted or damaged files of the index."""
        for path in self.job.output.glob("index/*"):
            if where == "gone" and path.name.endswith(("1", "3")):
                path.unlink()
            elif where == "damaged":
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self._check_the_finder()

    # -- what must hold -------------------------------------------------------------------

    @invariant()
    def nothing_is_billed_more_often_than_it_was_allowed(self) -> None:
        self.watched(self._compare_with_the_book)

    def watched(self, doing: Callable[[], None]) -> None:
        """Records the steps so far if `doing` fails."""
        try:
            doing()
        except AssertionError as error:
            self.bench.failed.append((list(self.steps), error))
            raise

    def _compare_with_the_book(self) -> None:
        for body, billed in self._billed().items():
            assert billed <= self.allowed[body], body
        for entry in self._bills(self.stage_workflow):
            text = json.loads(entry["body"])["text"]
            assert entry["billed"] <= self.stage_seen[text], text

    def _check_the_finder(self) -> None:
        """The finder of an earlier step shows what is there now."""
        if not self.job.spec.exists():
            return
        job = find_job(self.job.spec)
        self.finder = self.finder if self.found_spec == repr(job.spec) else None
        self.finder, self.found_spec = self.finder or Finder(job), repr(job.spec)
        compare(self.finder, job, random.Random(len(self.steps)))
        if has_run(job):
            assert status_with(job, self.counts) == read_status(job)

    # -- how ------------------------------------------------------------------------------

    def _run(self, verb: str, *options: str, signals: list[tuple[float, int]] | None = None) -> int:
        protected = self._protected()
        self._write()
        before = self.allowed.copy(), self.seen.copy()
        paid = self._billed()
        self._allow(verb, options)
        words = [verb, str(self.job.spec), "--rate", "5000", "--quiet", *options]
        later = [(after_s * self.bench.slower, number) for after_s, number in signals or []]
        code = self.bench.forks.call_with_signals(words, later)
        assert code in self._codes(signals), (code, self.bench.forks.complained)
        if code == 2:
            self.allowed, self.seen = before
            return code
        self.tones.add(self.tone)
        self._check_other_tones(paid, options)
        if any(number == signal.SIGKILL for _, number in signals or []) or len(signals or []) > 1:
            self.cut |= {self._body(story) for story in self.rows}
        if (self.job.output / "ledger.sqlite").exists():
            self._check_counts()
        self._check_that_reviews_stand(protected, paid)
        self._check_the_finder()
        if code == 4:
            self._check_that_the_first_rows_failed_alike()
        if code in (0, 3, 5):
            self.done = True
            self._check_files()
        return code

    def _shown(self) -> list[dict[str, Any]]:
        """Returns the rows of the last run's sheet with their answers and reviews."""
        code = self.bench.forks.call("show", str(self.job.spec), "--json", "--no-pager")
        lines = [json.loads(line) for line in self.bench.forks.said.splitlines()]
        return lines[:-1] if code == 0 else []

    def _protected(self) -> Counter[tuple[str, str]]:
        """Counts the approved and edited answers of the sheet, by the body that was sent for each
        and the answer."""
        found: Counter[tuple[str, str]] = Counter()
        for row in self._shown():
            if row["review"] in ("approved", "edited"):
                body = json.dumps(row["variables"], separators=(",", ":"))
                found[body, row["answer"]] += 1
        return found

    def _check_that_reviews_stand(
        self, before: Counter[tuple[str, str]], paid: dict[str, int]
    ) -> None:
        """Checks that no reviewed answer was replaced, as long as its row is in the sheet."""
        if not before:
            return
        here = Counter(self._body(story) for story in self.rows)
        now = self._protected()
        for (body, answer), times in before.items():
            there = min(times, here[body]) if not self.dedupe else min(times, here[body], 1)
            kept = sum(n for (of, text), n in now.items() if of == body and text == answer)
            others = sum(n for (of, text), n in before.items() if of == body and text != answer)
            assert kept >= there - others, (body, answer, times)
        # With every equal row reviewed, nothing is paid for that text again.
        reviewed: Counter[str] = Counter()
        for (body, _), times in before.items():
            reviewed[body] += times
        for body, times in reviewed.items():
            if not self.deduped and times >= max(here[body], self.seen[body]):
                assert self._billed().get(body, 0) == paid.get(body, 0), body

    @staticmethod
    def _codes(signals: list[tuple[float, int]] | None) -> set[int]:
        """Returns the possible exit codes. Nothing here stops a run for another reason."""
        by_signal = {-signal.SIGKILL} if signals and signals[0][1] == signal.SIGKILL else {130}
        return {0, 2, 3, 4, 5} | (by_signal if signals else set())

    def _allow(self, verb: str, options: tuple[str, ...]) -> None:
        """Allows a bill for each equal row, or one for all, and more if the user may pay again."""
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
            return "all" in options or "rejected" in options or EMPTY in body
        if verb != "resume":
            return False
        billed_for_nothing = "#fault:not-json" in body or "#fault:html-504" in body
        if "#fault:success-false" in body:
            return True  # failed and maybe paid: `resume` says so and sends it again
        # A settled row is failed, so `resume` sends it again too.
        return billed_for_nothing or body in self.cut

    def _check_other_tones(self, paid: dict[str, int], options: tuple[str, ...]) -> None:
        """Checks that a row paid in one tone is paid in another only if the user accepted that.

        Rows that may have been paid in this tone too are not checked: the runner asks for them in
        another way.
        """
        if "--accept-changes" in options:
            self.accepted |= {self._body(story) for story in self.rows}
        now = self._billed()
        for story in self.rows:
            body = self._body(story)
            others = any(paid.get(self._body(story, tone)) for tone in self.tones - {self.tone})
            if others and not paid.get(body) and body not in self.accepted | self.cut:
                assert not now.get(body), body

    def _check_counts(self) -> None:
        """Checks the counts by `status`, which also works after a kill, without a summary."""
        code = self.bench.forks.call("status", str(self.job.spec), "--json")
        summary = json.loads(self.bench.forks.said)
        # A kill may come before the first run begins. Then nothing was sent, and `status` says so.
        assert code == 0 or "no run yet" in summary["error"]
        states = ("ok", "failed", "ambiguous", "pending", "skipped")
        assert sum(summary[state] for state in states) == summary["rows"]
        assert summary["paid_min"] <= sum(self._billed().values()) <= summary["paid_max"]

    def _check_that_the_first_rows_failed_alike(self) -> None:
        """Checks the only stop that these sheets can cause: ten equal failures before any answer.
        Requests in flight at that moment may still be answered."""
        summary = json.loads((self.job.output / "summary.json").read_text())
        assert summary["stopped"] == "alike"
        assert summary["failed"] >= 10
        assert summary["ok"] < IN_FLIGHT

    def _check_files(self) -> None:
        """Checks the files for the user after a complete run: summary, parts and failures."""
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
        """Checks that each billed body is answered, ambiguous, or failed and maybe paid."""
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

    @property
    def _stage(self) -> Path:
        return self.job.folder / "stage.yaml"

    def _write_stage(self) -> None:
        lines = {
            "name": "stage",
            "workflow": self.stage_workflow,
            "input": {"job": self.job.spec.name},
            "variables": {"text": "result"},
            "as": "stage",
            "concurrency": IN_FLIGHT,
        }
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items())
        self._stage.write_text(text, encoding="utf-8")

    def _body(self, story: str, tone: str | None = None) -> str:
        fields = {"story": story, "tone": tone or self.tone}
        return json.dumps(fields, separators=(",", ":"))

    @staticmethod
    def _limited(limit: int | None) -> list[str]:
        return [] if limit is None else ["--limit", str(limit)]

    def _bills(self, workflow: str | None = None) -> list[dict]:
        bills = self.bench.sandbox.bills()
        return [entry for entry in bills if entry["workflow"] == (workflow or self.workflow)]

    def _billed(self) -> dict[str, int]:
        return {entry["body"]: entry["billed"] for entry in self._bills()}

    def _answers(self) -> dict[str, str]:
        """Returns the answer to each billed body. The book has it as it was before a fault."""
        return {
            entry["body"]: "" if EMPTY in entry["body"] else entry["result"]
            for entry in self._bills()
            if entry["billed"]
        }

    def _received(self) -> int:
        return sum(entry["received"] for entry in self._bills())


def measure(bench: Bench) -> None:
    """Measures how slow runs of a single row are. The first one is slow because of its imports."""
    for _ in range(2):
        machine = _on(bench)()
        machine.begin(rows=["story 0"])
        begun = time.monotonic()
        machine.run(limit=None)
        bench.slower = max(1.0, (time.monotonic() - begun) / USUAL_S)
        machine.teardown()


def attack(bench: Bench, examples: int, steps: int, seeded: int) -> None:
    """Runs random examples. The error contains the steps of the first one that fails."""
    machine = _on(bench)
    try:
        run_state_machine_as_test(
            seed(seeded)(machine),
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                phases=[Phase.generate],
                report_multiple_bugs=False,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except BaseException:
        # Hypothesis reports its second try, and a kill at another instant may not fail again.
        for done, error in bench.failed[:1]:
            lines = "".join(f"    {step!r},\n" for step in done)
            raise AssertionError(f"seed {seeded}, steps:\n[\n{lines}]") from error
        raise


def replay(bench: Bench, steps: list[Step]) -> None:
    """Repeats the steps of an example."""
    machine = _on(bench)()
    try:
        for name, values in steps:
            getattr(machine, name)(**values)
            machine.nothing_is_billed_more_often_than_it_was_allowed()
    finally:
        machine.teardown()


def _on(bench: Bench) -> type[Machine]:
    return type("Machine", (Machine,), {"bench": bench, "TestCase": None})
