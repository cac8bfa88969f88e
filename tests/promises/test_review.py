"""No decision of a person is overwritten, and no reviewed answer is paid again."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

import pipeline
from tests.conftest import Job, SandboxProcess

COLUMNS = ["sku", "story"]
ROWS = [["A1", "one"], ["A2", "two"], ["A3", "three"], ["A4", "four"]]
VARIABLES = {"story": "story"}
SPECS = [{}, {"id": "sku"}, {"dedupe": True}, {"dedupe": True, "id": "sku"}]
NAMES = ["", "id", "dedupe", "both"]


@dataclass
class Desk:
    """A job whose answers a person reviews, and the book of its bills."""

    sandbox: SandboxProcess
    job: Job
    spec: dict

    def write(self, rows: list[list[str]], **spec) -> None:
        self.job.write_sheet(COLUMNS, rows)
        self.job.write_spec(**({"variables": VARIABLES} | self.spec | spec))

    def billed(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for body, times in self.sandbox.billed().items():
            found[json.loads(body)["story"]] += times
        return found

    def sent_by(self, *options: str, verb: str = "run", expect: int = 0) -> dict[str, int]:
        """Runs a command. Returns the bills for it by story."""
        before = self.billed()
        done = self.job.call(verb, *options)
        assert done.returncode == expect, (done.returncode, done.stderr)
        return dict(self.billed() - before)

    def refused(self, *words: str, code: int = 2) -> str:
        """Checks that a command fails and sends nothing. Returns its message."""
        before = self.sandbox.received()
        done = self.job.call(*words)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert self.sandbox.received() == before
        return done.stderr

    def review(self, *words: str) -> str:
        done = self.job.call("review", *words)
        assert done.returncode == 0, (done.returncode, done.stderr)
        return done.stderr + done.stdout

    def edit(self, text: str, *words: str) -> str:
        file = self.job.folder / "edit.txt"
        file.write_text(text, encoding="utf-8")
        return self.review("--edit", str(file), *words)

    def answers(self) -> dict[str, str]:
        exported = self.job.export()
        return dict(zip(exported["sku"], exported["result"], strict=True))

    @property
    def reviews(self) -> Path:
        return self.job.output / "reviews.sqlite"


@pytest.fixture
def desk(sandbox, make_job, request) -> Desk:
    """Four answers, with the settings of the test's parameter."""
    spec = getattr(request, "param", {})
    made = Desk(sandbox, make_job(sandbox.url), spec)
    made.write(ROWS)
    assert made.sent_by() == {"one": 1, "two": 1, "three": 1, "four": 1}
    return made


each_spec = pytest.mark.parametrize("desk", SPECS, indirect=True, ids=NAMES)


@each_spec
def test_an_edited_answer_survives_ten_nights_and_every_way_to_ask_again(desk):
    """The sheet is sorted and gets rows meanwhile. Exports have the text of the person."""
    paid = desk.answers()
    desk.edit("My own text.", "--rows", "2")
    desk.review("--rows", "3", "--approve")
    kept = {"A2": "My own text.", "A3": paid["A3"]}
    for night in range(10):
        order = sorted(ROWS, key=lambda row: row[1], reverse=night % 2 == 0)
        desk.write([[f"N{n}", f"new {n}"] for n in range(night)] + order)
        sent = desk.sent_by()
        assert sent == ({f"new {night - 1}": 1} if night else {})
        assert kept.items() <= desk.answers().items()
    again = desk.sent_by("--again", "all", "--yes")
    assert {"two", "three"}.isdisjoint(again)
    assert again["one"] == again["four"] == 1
    assert kept.items() <= desk.answers().items()
    assert desk.job.call("verify").returncode == 0
    assert paid["A2"] in set(pipeline.read_results(desk.job.spec, paid=True)["result"])


@each_spec
def test_a_changed_input_of_a_reviewed_answer_is_not_sent_until_it_is_reset(desk):
    """Also after the sheet was sorted, and night after night. The export keeps the text."""
    desk.edit("My own text.", "--rows", "2")
    changed = [["A1", "one"], ["A2", "two, changed"], ["A3", "three"], ["A4", "four"]]
    desk.write(changed)
    checked = desk.job.call("check")
    assert "1 row changed, kept by review: row 2 (line 3" in checked.stdout, checked.stdout
    assert json.loads(desk.job.call("check", "--json").stdout)["to_send"] == 0
    for rows in (changed, changed, changed[::-1], [["A9", "nine"], *changed]):
        desk.write(rows)
        sent = desk.sent_by()
        assert sent == ({"nine": 1} if len(rows) == 5 else {})
        exported = desk.job.export().set_index("sku")
        assert exported.loc["A2", "result"] == "My own text."
        assert exported.loc["A2", "_status"] == "ok"
        assert exported.loc["A2", "_error_message"] == "changed, kept by review"
        status = desk.job.status()
        assert (status["ok"], status["pending"], status["skipped"]) == (len(rows), 0, 0)
        assert desk.job.call("verify").returncode == 0
    for words in (("run", "--again", "3"), ("resume", "--rows", "3"), ("run", "--accept-changes")):
        assert "approved or edited" in desk.refused(*words, "--yes")
    assert desk.sent_by("--again", "all", "--yes").keys() == {"one", "three", "four", "nine"}
    desk.review("--rows", "3", "--reset")
    assert desk.sent_by() == {"two, changed": 1}
    assert "two, changed" in desk.answers()["A2"]


@each_spec
def test_rejected_answers_are_asked_for_again_once(desk):
    """Exactly these. A repeated command sends nothing, and a new answer has no decision."""
    desk.review("--rows", "1,3", "--reject")
    desk.write(ROWS[::-1])
    assert desk.sent_by("--again", "rejected", "--yes") == {"one": 1, "three": 1}
    assert "No answer is rejected now." in desk.refused("run", "--again", "rejected", "--yes")
    assert "no answer is reviewed" in desk.review()
    desk.review("--rows", "4", "--reject")
    assert desk.sent_by("--again", "rejected", "--yes") == {"one": 1}


def test_an_approved_answer_is_the_last_word_after_a_newer_request_failed(desk):
    """The row is ok, so it does not raise the exit code, and `resume` sends only the other one."""
    desk.sandbox.publish("wf_story", "{{story}} #fault:blocked")
    assert desk.sent_by("--again", "1-2", "--yes", expect=3) == {}
    desk.review("--rows", "1", "--approve")
    desk.sandbox.publish("wf_story", "{{story}}")
    assert desk.sent_by(expect=3) == {}
    assert (desk.job.status()["ok"], desk.job.status()["failed"]) == (3, 1)
    assert desk.sent_by(verb="resume") == {"two": 1}
    assert desk.sent_by() == {}
    assert desk.job.call("verify").returncode == 0


def test_an_approved_answer_hides_no_newer_request_that_may_be_paid(desk):
    """The row stays ambiguous until the user settles it, and no run sends it."""
    desk.sandbox.publish("wf_story", "{{story}} #fault:html-502")
    desk.sent_by("--again", "1", "--yes", expect=5)
    before = desk.billed()
    desk.review("--rows", "1", "--approve")
    desk.sandbox.publish("wf_story", "{{story}}")
    assert desk.sent_by(expect=5) == desk.sent_by(verb="resume", expect=5) == {}
    assert desk.job.status()["ambiguous"] == 1
    assert desk.job.call("settle").returncode == 0
    assert desk.sent_by() == desk.sent_by(verb="resume") == {}
    status = desk.job.status()
    assert (status["ok"], status["paid_min"], status["paid_max"]) == (4, 4, 5)
    assert desk.billed() == before
    assert desk.job.call("verify").returncode == 0


def test_reset_undoes_every_decision(desk):
    """The paid text is back, and the row can be asked for again."""
    paid = desk.answers()
    desk.edit("Mine.", "--rows", "1")
    assert desk.answers()["A1"] == "Mine."
    desk.review("--rows", "1", "--reset")
    assert desk.answers() == paid
    assert desk.sent_by("--again", "1", "--yes") == {"one": 1}


def test_a_reviewed_row_that_is_named_is_refused_by_its_name(desk):
    """The message has the command that undoes the review."""
    desk.review("--rows", "2", "--approve")
    said = desk.refused("run", "--again", "1-2", "--yes")
    assert "row 2 (line 3) is approved or edited" in said
    assert f"pipeline review {desk.job.spec} --rows 2 --reset" in said
    assert "approved or edited" in desk.refused("run", "--again", "2", "--yes")
    desk.review("--rows", "1-4", "--approve")
    assert "Every chosen row" in desk.refused("run", "--again", "all", "--yes")


@each_spec
def test_other_settings_do_not_pay_for_a_reviewed_answer(desk):
    """--accept-changes names the reviewed rows and sends nothing."""
    desk.review("--rows", "2", "--approve")
    for word in ("dry", "warm"):
        desk.write(ROWS, constants={"tone": word})
        desk.refused("run")
        said = desk.refused("run", "--accept-changes", "--yes")
        assert "1 approved or edited row would be paid again because settings changed: " in said
        plan = json.loads(desk.job.call("check", "--accept-changes", "--json").stdout)
        assert "approved or edited" in plan["refusal"]
        desk.refused("run", "--plan", plan["plan"])
    desk.review("--rows", "2", "--reset")
    assert sum(desk.sent_by("--accept-changes", "--yes").values()) == 4


@pytest.mark.parametrize("desk", [{"id": "sku"}], indirect=True)
def test_row_numbers_of_a_sorted_sheet_are_asked_about(desk):
    """Each number is named with its row before and now. An id, a row that has only another text,
    and an unchanged sheet need no question."""
    desk.write([["A1", "uno"], *ROWS[1:]])
    desk.review("--rows", "1", "--approve")
    desk.write(ROWS[::-1])
    said = desk.refused("review", "--rows", "1,3", "--approve")
    assert 'row 1 (line 2) was "A1" and is "A4"; row 3 (line 4) was "A3" and is "A2".' in said
    assert "Nothing was saved." in said
    desk.review("--id", "A2", "--approve")
    desk.review("--rows", "1,3", "--approve", "--yes")
    assert desk.sent_by() == {}
    desk.review("--rows", "1", "--reject")
    shown = pipeline.show_job(pipeline.find_job(desk.job.spec))
    assert [row.review for row in shown] == ["rejected", *3 * ["approved"]]


def test_a_plan_is_void_after_another_review(desk):
    """The token of a plan includes the last review."""
    desk.write([*ROWS, ["A5", "five"]])
    plan = json.loads(desk.job.call("check", "--json").stdout)["plan"]
    desk.review("--rows", "2", "--approve")
    assert "no longer the plan" in desk.refused("run", "--plan", plan)


def test_a_missing_or_older_file_of_reviews_is_damage(desk):
    """A run has read the last review, so a file without it has lost decisions."""
    desk.review("--rows", "2", "--approve")
    older = desk.job.folder / "older.sqlite"
    shutil.copy(desk.reviews, older)
    desk.review("--rows", "3", "--approve")
    desk.sent_by()
    whole = desk.job.folder / "whole.sqlite"
    shutil.copy(desk.reviews, whole)
    commands = (
        ("run",),
        ("run", "--again", "all", "--yes"),
        ("resume",),
        ("check",),
        ("export", "--to", str(desk.job.folder / "x.csv")),
        ("show",),
        ("review", "--rows", "1", "--approve"),
        ("verify",),
    )
    for broken in ("gone", "older", "garbage", "altered", "foreign"):
        _break(desk, broken, older, whole)
        for words in commands:
            done = desk.job.call(*words)
            assert done.returncode == 6, (broken, words, done.stderr)
            assert "reviews.sqlite" in done.stderr + done.stdout
    assert sum(desk.billed().values()) == 4
    shutil.copy(whole, desk.reviews)
    assert desk.sent_by() == {}
    assert desk.job.call("verify").returncode == 0


def _break(desk: Desk, broken: str, older: Path, whole: Path) -> None:
    desk.reviews.unlink(missing_ok=True)
    if broken == "older":
        shutil.copy(older, desk.reviews)
    elif broken == "garbage":
        desk.reviews.write_bytes(b"not a database " * 1000)
    elif broken != "gone":
        content = whole.read_bytes()
        if broken == "altered":
            assert b"approved" in content
            content = content.replace(b"approved", b"rejected", 1)
        else:
            with sqlite3.connect(desk.job.output / "ledger.sqlite") as db:
                [name] = db.execute("SELECT value FROM meta WHERE name = 'folder_id'").fetchone()
            db.close()
            content = content.replace(name.encode(), b"0" * 32)
        desk.reviews.write_bytes(content)


def test_reviews_of_a_newer_release_are_refused_and_unchanged(desk):
    """Every command says to upgrade, also `verify`: no copy of the file would help."""
    desk.review("--rows", "2", "--approve")
    with contextlib.closing(sqlite3.connect(desk.reviews)) as db:
        db.execute("PRAGMA user_version = 99")
    before = desk.reviews.read_bytes()
    for words in (("run",), ("resume",), ("show",), ("review", "--rows", "1", "--approve")):
        said = desk.refused(*words)
        assert "a newer release wrote these reviews. Upgrade the runner." in said
    done = desk.job.call("verify")
    assert done.returncode == 6
    assert "reviews.sqlite: a newer release wrote it\n    Upgrade the runner." in done.stdout
    assert "Restore" not in done.stdout
    assert desk.reviews.read_bytes() == before


def test_a_folder_without_reviews_has_none(desk):
    """Every command reads it as before."""
    assert not desk.reviews.exists()
    assert set(desk.job.export()["sku"]) == {"A1", "A2", "A3", "A4"}
    assert pd.isna(pipeline.read_results(desk.job.spec)["_review"]).all()
