"""A rehearsal costs nothing, and no command calls anything in it paid."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import openpyxl
import pytest

from tests.conftest import TOP

# Not the key and the option `max_paid`, whose name is the same in a rehearsal.
MONEY = re.compile(r"(?<![-_])\b(pay|pays|paying|paid|repaid)\b", re.IGNORECASE)
JOB = ("jobs/products.yaml", "--sandbox")
COMMANDS = [
    ("check",),
    ("run", "--limit", "15"),
    ("run", "--max-paid", "16"),
    ("run",),
    ("run", "--again", "1,2"),
    ("run", "--again", "1,2", "--yes"),
    ("check", "--again", "1,2"),
    ("resume", "--only", "run_failed"),
    ("resume", "--ambiguous"),
    ("status",),
    ("report",),
    ("history",),
    ("show", "--versions"),
    ("export", "--to", "done.csv"),
    ("export", "--to", "done.xlsx"),
    ("verify",),
    ("settle",),
    ("settle", "--only", "request_blocked"),
    ("report",),
]


@pytest.fixture
def rehearse(tmp_path: Path):
    """Runs a command on a rehearsal of jobs/products.yaml; what it prints. Of its sheet, the first
    rows and those with a fault are enough."""
    shutil.copytree(TOP / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("runs"))
    lines = (TOP / "data" / "products.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for number, line in enumerate(lines) if number < 20 or "#fault" in line]
    with (tmp_path / "jobs" / "products.yaml").open("a", encoding="utf-8") as file:
        file.write("retries: 0\n")  # which take seconds
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "products.csv").write_text("".join(kept), encoding="utf-8")

    def call(name: str, *options: str, job: tuple[str, ...] = JOB) -> str:
        words = [name, *job, *options]
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 2, 3, 4, 5), done.stderr
        return done.stdout + done.stderr

    return call


def test_no_command_calls_a_row_of_a_rehearsal_paid(rehearse, tmp_path):
    """Its rows fail in every way that may be billed: those are billed in the sandbox. The page and
    the summary in the workbook say so too."""
    printed = {words: rehearse(*words) for words in COMMANDS}
    for words, text in printed.items():
        assert not MONEY.findall(text), (words, text)
    for words in (("run",), ("run", "--again", "1,2"), ("resume", "--ambiguous"), ("report",)):
        assert "billed in the sandbox" in printed[words], words
    assert "billed" in printed["history",].splitlines()[0]
    page = (tmp_path / "jobs/runs/products.sandbox/report.html").read_text(encoding="utf-8")
    words = re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))
    assert "billed in the sandbox" in words
    assert not MONEY.findall(words)
    book = openpyxl.load_workbook(tmp_path / "done.xlsx")
    names = [str(row[0].value) for row in book["Summary"].iter_rows()]
    assert any("billed in the sandbox" in name for name in names)
    assert not any(MONEY.search(name) for name in names)


def test_a_run_folder_is_a_rehearsals_also_without_its_job_file(rehearse, tmp_path):
    """Its own note of the last run says so."""
    rehearse("run")
    (tmp_path / "jobs" / "products.yaml").unlink()
    for name in ("status", "report", "history"):
        text = rehearse(name, job=("jobs/runs/products.sandbox",))
        assert "billed" in text
        assert not MONEY.findall(text)
