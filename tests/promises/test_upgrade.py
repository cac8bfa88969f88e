"""This release continues run folders of earlier releases.

Each folder was killed in its third run. Two parts are sealed, one answer is in no part yet, and one
request has no answer. The other rows are failed, ambiguous or were never sent. `releases/keep.py`
made the folders. The book of bills of their sandbox is stored with them.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
import tarfile
from collections import Counter
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

import pipeline
from pipeline.core.model import TEXT_RULES
from tests.conftest import TOP, Job

RELEASES = sorted((TOP / "tests/releases").glob("*.tar.gz"))
WORKBOOKS = sorted((TOP / "tests/releases").glob("workbooks/*.tar.gz"))
READING = ("status", "report", "history", "verify", "check", "show", "export --to done.csv")
FAILED, INTERRUPTED, NEVER_SENT = {"T3", "T7"}, "T8", {"T10", "T11"}


class Kept(Job):
    """A job that an earlier release left. Every command is a rehearsal on its own sandbox."""

    @property
    def output(self) -> Path:
        return self.folder / "kept.sandbox"

    def command(self, verb: str, *options: str) -> list[str]:
        return super().command(verb, *options, "--sandbox")

    def book(self) -> dict[str, tuple[int, int]]:
        """How often each body was received and billed."""
        with sqlite3.connect(self.output / "sandbox-book.sqlite") as db:
            rows = db.execute("SELECT body, received, billed FROM book").fetchall()
        db.close()
        return {body: (received, billed) for body, received, billed in rows}

    def statuses(self) -> dict[str, str]:
        """The status of each row, by its id."""
        table = self.export()
        return dict(zip(table["Tale"], table["_status"], strict=True))

    def sums(self) -> dict[str, str]:
        """The checksums of the sealed parts, by their names."""
        parts = self.results.glob("part-*.parquet")
        return {part.name: hashlib.sha256(part.read_bytes()).hexdigest() for part in parts}


@pytest.fixture(params=RELEASES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def kept(request, tmp_path) -> Kept:
    """One of them, copied unchanged to another place."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return Kept(tmp_path, tmp_path / "tales.yaml", tmp_path / "tales.csv", "")


def test_the_present_release_is_kept_and_names_no_machine(kept):
    """It is small too, because it is in every checkout."""
    assert pipeline.__version__ in {path.name.removesuffix(".tar.gz") for path in RELEASES}
    assert all(path.stat().st_size < 100_000 for path in RELEASES)
    for path in kept.folder.rglob("*"):
        if path.is_file():
            assert not re.search(rb"/(tmp|home|root|work|Users|private)/", path.read_bytes()), path


@pytest.mark.parametrize("command", READING)
def test_an_old_folder_is_readable_before_anything_is_sent(kept, command):
    """Also the traces of the killed run."""
    before = kept.book()
    done = kept.call(*command.replace("done.csv", str(kept.folder / "done.csv")).split())
    assert done.returncode == 0, done.stderr
    assert kept.book() == before


def test_the_answers_of_an_old_folder_are_exported_next_to_their_rows(kept):
    """Also the answer that is in no part yet, byte for byte as it was billed."""
    counts = Counter(kept.statuses().values())
    assert counts == {"ok": 5, "failed": 2, "ambiguous": 2, "pending": 2}
    answers = kept.export().set_index("Tale")["result"].dropna()
    with sqlite3.connect(kept.output / "sandbox-book.sqlite") as db:
        billed = {body for (body,) in db.execute("SELECT result FROM book WHERE billed = 1")}
    db.close()
    assert len(answers) == 5
    assert set(answers) <= billed


def test_a_plain_run_sends_the_rows_that_were_never_sent_and_none_twice(kept):
    """The request that was in flight is ambiguous. Sealed parts do not change."""
    before, parts = kept.book(), kept.sums()
    ended = json.loads(kept.call("run", "--json").stdout)
    assert (ended["requests"], ended["ok"], ended["exit_code"]) == (2, 7, 5)
    after = kept.book()
    assert {body: after[body] for body in before} == before
    assert len(after) == len(before) + 2
    statuses = kept.statuses()
    assert {tale for tale, status in statuses.items() if status == "failed"} == FAILED
    assert statuses[INTERRUPTED] == "ambiguous"
    assert all(statuses[tale] == "ok" for tale in NEVER_SENT)
    assert parts.items() <= kept.sums().items()
    assert len(pd.read_parquet(kept.results)) == 7
    assert kept.call("verify").returncode == 0


def test_a_resume_sends_its_failed_rows_again_and_no_row_that_may_have_been_paid(kept):
    """Afterwards the folder is the same as one of this release."""
    before = kept.book()
    ended = kept.call("resume", "--only", "request_blocked", "--json")
    assert json.loads(ended.stdout)["requests"] == 1
    sent = {body for body, counts in kept.book().items() if counts != before.get(body)}
    assert len(sent) == 1
    assert "#fault:blocked" in sent.pop()
    assert kept.call("resume", "--json").returncode == 5
    assert all(billed <= 1 for _, billed in kept.book().values())
    assert kept.call("verify").returncode == 0
    assert kept.call("report").returncode == 0
    assert (kept.output / "report.html").stat().st_size > 10_000


def test_reviews_of_an_old_folder_survive_the_upgrade_and_every_night(kept):
    """Also a review before the first run of this release. The edited row is not sent, although its
    text changes."""
    before = kept.export().set_index("Tale")["result"].dropna()
    name = before.index[0]
    edit = kept.folder / "edit.txt"
    edit.write_text("By a person.\n")
    done = kept.call("review", "--id", name, "--edit", str(edit))
    assert done.returncode == 0, done.stderr
    done = kept.call("review", "--id", before.index[1], "--reject")
    assert json.loads(kept.call("run", "--json").stdout)["requests"] == 2
    sheet = kept.sheet.read_text(encoding="utf-8")
    kept.sheet.write_text(sheet.replace(f"{name},", f"{name},changed "), encoding="utf-8")
    book = kept.book()
    for _ in range(3):
        assert json.loads(kept.call("run", "--json").stdout)["requests"] == 0
    assert kept.book() == book
    assert kept.export().set_index("Tale")["result"][name] == "By a person."
    again = kept.call("run", "--again", "rejected", "--yes", "--json")
    assert json.loads(again.stdout)["requests"] == 1
    assert kept.call("verify").returncode == 0


def test_a_run_folder_whose_job_file_moved_is_shown_with_how_to_continue(kept):
    """It names the place where it was made."""
    done = kept.shell([*kept.command("status")[:-2], str(kept.output)])
    assert done.returncode == 0, done.stderr
    assert "tales: 11 rows: 5 ok" in done.stdout
    done = kept.shell([*kept.command("run")[:-2], str(kept.output)])
    assert done.returncode == 2
    assert "Name the job file instead of the folder" in done.stderr
    assert "Nothing was sent." in done.stderr


@pytest.mark.parametrize("command", [*READING, "run", "resume", "settle --only gateway"])
def test_a_folder_of_a_newer_release_is_refused_by_every_command_and_unchanged(kept, command):
    """The message says what to do. Nothing is sent or written."""
    with sqlite3.connect(kept.output / "ledger.sqlite") as db:
        db.execute("PRAGMA user_version = 3")
    db.close()
    shutil.rmtree(kept.folder / "cache", ignore_errors=True)
    before = {path: path.read_bytes() for path in kept.output.rglob("*.parquet")}
    ledger = (kept.output / "ledger.sqlite").read_bytes()
    book = kept.book()
    done = kept.call(*command.replace("done.csv", str(kept.folder / "done.csv")).split())
    assert done.returncode == 2, done.stderr
    assert "a newer release wrote this ledger (its schema is 3;" in done.stderr
    assert "this release reads up to 2)" in done.stderr
    assert "Upgrade the runner. Nothing was sent." in done.stderr
    assert kept.book() == book
    assert (kept.output / "ledger.sqlite").read_bytes() == ledger
    assert {path: path.read_bytes() for path in kept.output.rglob("*.parquet")} == before
    assert not (kept.folder / "done.csv").exists()


@pytest.fixture(params=WORKBOOKS, ids=lambda path: path.name.removesuffix(".tar.gz"))
def workbook(request, tmp_path) -> Kept:
    """An old job whose sheet is a workbook: 4 of 5 rows are ok, and 2 of them are marked by
    --again."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return Kept(tmp_path, tmp_path / "tales.yaml", tmp_path / "tales.xlsx", "")


def test_a_workbook_is_read_with_the_text_rules_of_its_folder_and_pays_for_no_other_row(
    workbook,
):
    """The sheet did not change, so the run pays only for the two rows marked by --again."""
    before = workbook.book()
    ended = json.loads(workbook.call("run", "--json", "--max-paid", "99").stdout)
    assert (ended["requests"], ended["ok"], ended["ambiguous"]) == (2, 4, 1)
    after = workbook.book()
    assert set(after) == set(before)
    assert sum(billed for _, billed in after.values()) == 7
    assert json.loads(workbook.call("run", "--json").stdout)["requests"] == 0
    assert workbook.call("verify").returncode == 0


@pytest.mark.parametrize("workbook", WORKBOOKS[:1], indirect=True, ids=["0.1.0"])
def test_newer_text_rules_need_accept_changes_and_show_the_number_of_bills(workbook):
    """Two of the prices have another text since rules 2."""
    workbook.call("run", "--max-paid", "99")
    checked = workbook.call("check")
    assert "2 finished rows would have another text" in checked.stdout, checked.stdout
    found = json.loads(workbook.call("check", "--json").stdout)
    assert (found["to_send"], found["text_rules"]) == (0, 1)
    assert found["new_under_newest_rules"] == 2
    accepting = json.loads(workbook.call("check", "--accept-changes", "--json").stdout)
    assert (accepting["to_send"], accepting["repaid"]) == (2, 2)
    assert json.loads(workbook.call("run", "--json").stdout)["requests"] == 0
    ended = json.loads(workbook.call("run", "--accept-changes", "--json").stdout)
    assert ended["requests"] == 2
    assert '{"note":"plain","price":"0.3"}' in workbook.book()
    assert json.loads(workbook.call("run", "--json").stdout)["requests"] == 0
    assert json.loads(workbook.call("check", "--json").stdout)["text_rules"] == TEXT_RULES


def with_formats(sheet: Path, formats: dict[str, str]) -> None:
    """Gives cells of a workbook another number format, as a user does in a spreadsheet."""
    book = openpyxl.load_workbook(sheet)
    for name, number_format in formats.items():
        book.active[name].number_format = number_format
    book.save(sheet)


@pytest.mark.parametrize("workbook", WORKBOOKS[1:], indirect=True, ids=["0.2.0"])
def test_a_folder_with_text_rules_2_keeps_its_texts_and_shows_what_rules_3_would_bill(workbook):
    """Under rules 2, both formats leave the number as it is. Under rules 3, they make a date of the
    one and keep the zeros of the other."""
    workbook.call("run", "--max-paid", "99")
    with_formats(workbook.sheet, {"A3": "[$-404]e", "A5": '"SKU-"0000;@'})
    before = workbook.book()
    found = json.loads(workbook.call("check", "--json").stdout)
    assert (found["to_send"], found["text_rules"], found["new_under_newest_rules"]) == (0, 2, 2)
    assert json.loads(workbook.call("run", "--json").stdout)["requests"] == 0
    assert workbook.book() == before
    checked = workbook.call("check")
    assert "2 finished rows would have another text" in checked.stdout, checked.stdout
    ended = json.loads(workbook.call("run", "--accept-changes", "--json").stdout)
    assert ended["requests"] == 2
    assert {json.loads(body)["price"] for body in set(workbook.book()) - set(before)} == {
        "1900-01-01T12:00:00",
        "SKU-0007",
    }
    assert json.loads(workbook.call("check", "--json").stdout)["text_rules"] == TEXT_RULES


@pytest.mark.parametrize("workbook", WORKBOOKS[1:], indirect=True, ids=["0.2.0"])
def test_a_folder_with_earlier_text_rules_can_send_a_column_as_the_sheet_displays_it(workbook):
    """The other columns keep the rules of the folder."""
    workbook.call("run", "--max-paid", "99")
    with_formats(workbook.sheet, {"A3": "0.00"})
    before = workbook.book()
    assert json.loads(workbook.call("run", "--json").stdout)["requests"] == 0
    spec = workbook.spec.read_text()
    workbook.spec.write_text(f"{spec}shown: [Note]\n")
    assert json.loads(workbook.call("run", "--json").stdout)["requests"] == 0
    workbook.spec.write_text(f"{spec}shown: [Price]\n")
    refused = workbook.call("run")
    assert refused.returncode == 2
    assert "finished row" in refused.stderr
    assert workbook.book() == before
