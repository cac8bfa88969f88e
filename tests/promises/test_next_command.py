"""Tests that the command printed at the end is the right one to paste.

Each command ends in each way, on a sheet with rows of every kind. Then the test pastes the printed
command until none is printed or a command asks for consent. The book shows that no body was billed
more often than the first command allowed.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from pipeline.job.run_folder import RunFolder
from tests.conftest import KEY, TOP, Job, SandboxProcess, ended, started_sandbox
from tests.support.servers import Server

DONE, FAILS, BLOCKED = "done", "fails #fault:json-500-once", "blocked #fault:blocked"
PAID, LOST = "paid #fault:success-false", "lost #fault:html-504-billed"
LEFT = [f"left {number}" for number in range(1, 6)]
STORIES = [DONE, FAILS, BLOCKED, PAID, LOST, *LEFT]
TRIED = 5  # the rows that the first run sends
EDITED = "what was blocked is edited"
WORKFLOW = "wf_next"
MOST_PASTES = 8


@dataclass
class Given:
    """A command: its verb, its options, the options that name the job, and the stories that it may
    bill once more. HERE stands for the folder of the job."""

    verb: str
    options: tuple[str, ...] = ()
    of_the_job: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    as_folder: bool = False

    def here(self, folder: Path) -> Given:
        return replace(
            self,
            options=tuple(word.replace("HERE", str(folder)) for word in self.options),
            of_the_job=tuple(word.replace("HERE", str(folder)) for word in self.of_the_job),
        )


# --yes is in commands that may send a billed row again: the user said so, and the test allows it.
COMMANDS = {
    "run": Given("run"),
    "run --limit": Given("run", ("--limit", "8")),
    "run --max-paid": Given("run", ("--max-paid", "5")),
    "run --again": Given("run", ("--again", "all", "--yes"), again=(DONE,)),
    "resume": Given("resume", ("--yes",), again=(PAID,)),
    "resume --only": Given("resume", ("--only", "internal_server_error")),
    "resume --except": Given("resume", ("--except", "request_blocked", "--yes"), again=(PAID,)),
    "resume --rows": Given("resume", ("--rows", "2-7", "--yes"), again=(PAID,)),
    "resume --limit": Given("resume", ("--limit", "7", "--yes"), again=(PAID,)),
    "resume --ambiguous": Given("resume", ("--ambiguous", "--yes"), again=(PAID, LOST)),
    "resume --only --ambiguous": Given(
        "resume", ("--only", "gateway", "--ambiguous", "--yes"), again=(LOST,)
    ),
    "run --output": Given("run", of_the_job=("--output", "HERE/elsewhere")),
    "run --input": Given("run", ("--input", "HERE/other.csv")),
    "run --key-file": Given("run", ("--key-file", "HERE/key")),
    "run FOLDER": Given("run", as_folder=True),
    "resume FOLDER": Given("resume", ("--yes",), again=(PAID,), as_folder=True),
}


@dataclass
class World:
    """A job with rows in every status, and the server whose book counts the bills."""

    job: Job
    sandbox: SandboxProcess
    given: Given

    def prepare(self) -> None:
        key = self.job.folder / "key"
        key.write_text(KEY)
        key.chmod(0o600)
        self.job.write_sheet(["story"], [[story] for story in STORIES])
        shutil.copy(self.job.sheet, self.job.folder / "other.csv")
        self.job.write_spec(workflow=WORKFLOW, retries=0, concurrency=2)
        self.publish(True)
        first = self.call("run", "--limit", str(TRIED), *self.given.of_the_job, *self.besides())
        assert first.returncode == 5, first.stderr
        assert self.billed() == {DONE: 1, PAID: 1, LOST: 1}

    def publish(self, published: bool) -> None:
        self.sandbox.publish(WORKFLOW, "{{story}}", published=published)

    def besides(self) -> tuple[str, ...]:
        """Returns the options that the first run also needs, for the same rows and the same key."""
        options = self.given.options
        return options if {"--input", "--key-file"} & set(options) else ()

    def words(self, *more: str) -> list[str]:
        """Returns the command under test."""
        name = str(self.job.output) if self.given.as_folder else str(self.job.spec)
        told = [self.given.verb, name, *self.given.of_the_job, *self.given.options, *more]
        return [sys.executable, "-m", "pipeline", *told]

    def call(self, verb: str, *options: str) -> subprocess.CompletedProcess[str]:
        return self.job.call(verb, *options)

    def end(self, *more: str) -> subprocess.CompletedProcess[str]:
        return self.job._pipeline(self.words(*more))

    def end_by(self, *signals: int) -> subprocess.CompletedProcess[str]:
        """Runs the command and sends it signals once requests are in flight."""
        before = self.sandbox.received()
        process = subprocess.Popen(
            self.words(), env=self.job.environment(), stderr=subprocess.PIPE, text=True
        )
        with ended(process):
            while self.sandbox.received() == before and process.poll() is None:
                time.sleep(0.01)
            for number in signals:
                process.send_signal(number)
                time.sleep(0.05)
            _, said = process.communicate(timeout=60)
        return subprocess.CompletedProcess([], process.returncode, "", said)

    def status(self) -> str:
        return self.call("status", *self.given.of_the_job).stdout

    def paste(self, command: str) -> subprocess.CompletedProcess[str]:
        return self.job.paste(command)

    def billed(self) -> Counter[str]:
        found = {json.loads(entry["body"])["story"]: entry["billed"] for entry in self.bills()}
        return Counter({story: times for story, times in found.items() if times})

    def bills(self) -> list[dict]:
        return self.sandbox.bills()

    def edit(self) -> None:
        """Edits the refused cells, as the last line says."""
        for path in (self.job.sheet, self.job.sheet.with_name("other.csv")):
            path.write_text(path.read_text().replace(BLOCKED, EDITED))

    def check(self) -> None:
        allowed = Counter(dict.fromkeys((*STORIES, EDITED), 1))
        allowed.update(self.given.again)
        over = self.billed() - allowed
        assert not over, over


Ended = subprocess.CompletedProcess[str]


def without_credits(world: World) -> Ended:
    """Ends the command without credits: after one bill, or at once if it sends only one row."""
    one_row = {"--again", "--only"} & set(world.given.options)
    world.sandbox.set_credits(0 if one_row else 1)
    said = world.end()
    world.sandbox.set_credits(1000)
    return said


def with_a_wrong_key(world: World) -> Ended:
    world.sandbox._call("PUT", "keys", b'["another"]')
    said = world.end()
    world.sandbox._call("PUT", "keys", json.dumps([KEY]).encode())
    return said


def of_an_unknown_workflow(world: World) -> Ended:
    world.publish(False)
    said = world.end()
    world.publish(True)
    return said


def at_max_paid(world: World) -> Ended:
    return world.end() if "--max-paid" in world.given.options else world.end("--max-paid", "4")


def in_time(world: World) -> Ended:
    soon = datetime.now() + timedelta(seconds=2)
    return world.end("--until", soon.strftime("%H:%M:%S"), "--rate", "2")


def by_ctrl_c(world: World) -> Ended:
    return world.end_by(signal.SIGINT)


def by_ctrl_c_twice(world: World) -> Ended:
    return world.end_by(signal.SIGINT, signal.SIGINT)


def by_kill_9(world: World) -> Ended:
    killed = world.end_by(signal.SIGKILL)
    return subprocess.CompletedProcess([], killed.returncode, "", world.status())


def locked(world: World) -> Ended:
    """Runs the command while the folder is locked. It prints how to look; `status` has the command
    to continue once the other run has ended."""
    elsewhere = world.given.of_the_job[1:]
    folder = RunFolder(Path(elsewhere[0]) if elsewhere else world.job.output)
    with folder.locked():
        said = world.end()
        [line] = [line for line in said.stderr.splitlines() if line.startswith("To look at")]
        shown = world.paste(line[line.index("pipeline ") :])
        assert (shown.returncode, "Next: " in shown.stdout) == (0, False)
        assert "Next: " not in said.stderr
    return subprocess.CompletedProcess([], said.returncode, "", world.status())


def while_the_api_is_away(world: World) -> Ended:
    """Runs the command against a stopped server. It gives up after half a minute."""
    port, book = world.sandbox.port, str(world.sandbox.book)
    world.sandbox.stop()
    said = world.end()
    world.sandbox = started_sandbox(book=book, port=port)
    world.publish(True)
    return said


Ending = Callable[[World], Ended]
ENDINGS: dict[str, tuple[Ending, set[int]]] = {
    "no credits": (without_credits, {4}),
    "401": (with_a_wrong_key, {4}),
    "unknown workflow": (of_an_unknown_workflow, {4}),
    "max_paid": (at_max_paid, {0, 4, 5}),  # some commands send fewer rows than the limit allows
    "until": (in_time, {0, 4, 5, 75}),  # one row may be sent in time
    "SIGINT": (by_ctrl_c, {0, 5, 130}),  # one row may be all that is sent
    "SIGINT twice": (by_ctrl_c_twice, {0, 5, 130}),
    "kill -9": (by_kill_9, {-9, 0, 5}),
    "locked": (locked, {75}),
}
OFTEN = ("run", "run --limit", "run --output", "run --input", "resume --only", "resume --ambiguous")
ALWAYS = [
    *(("no credits", command) for command in OFTEN),
    *((ending, "resume --ambiguous") for ending in ENDINGS),
    ("401", "run --key-file"),
    ("max_paid", "run --again"),
    ("kill -9", "run FOLDER"),
]
TABLE = [
    pytest.param(
        ending,
        command,
        marks=() if (ending, command) in ALWAYS else pytest.mark.long,
        id=f"{command}, {ending}",
    )
    for ending in ENDINGS
    for command in COMMANDS
]


def one_command(said: str) -> tuple[str, str] | None:
    """Returns (the line above it, the command) of the line to paste."""
    assert "same command" not in said
    lines = said.splitlines()
    places = [place for place, line in enumerate(lines) if line.startswith("Next: ")]
    assert len(places) <= 1, said
    if not places:
        return None
    command = lines[places[0]].removeprefix("Next: ")
    assert command.startswith("pipeline "), said
    return lines[places[0] - 1], command


def paste_to_the_end(world: World, said: str) -> str | None:
    """Pastes each printed command until none is printed. Returns the command that asks, or None."""
    for _ in range(MOST_PASTES):
        found = one_command(said)
        if found is None:
            return None
        before, command = found
        if command.startswith("pipeline export "):
            exports(world, command)
            return None
        if "edit the cells" in before:
            world.edit()
        received = world.sandbox.received()
        done = world.paste(command)
        world.check()
        codes = (0, 2, 3, 4, 5) if "--max-paid" in command else (0, 2, 3, 5)
        assert done.returncode in codes, (command, done.stderr)
        if done.returncode == 2:
            assert "--ambiguous" in command, (command, done.stderr)
            assert "paid twice" in done.stderr, done.stderr
            assert world.sandbox.received() == received
            return command
        assert world.sandbox.received() > received, command
        said = done.stderr
    raise AssertionError(f"it never ends: {said}")


def exports(world: World, command: str) -> None:
    """Pastes a command that exports. It sends nothing, and the file has every row."""
    received = world.sandbox.received()
    done = pasted_in(world.job.folder, world.job, command)
    assert done.returncode == 0, (command, done.stderr)
    assert f"Wrote {len(STORIES)} rows" in done.stderr
    assert world.sandbox.received() == received


def pasted_in(folder: Path, job: Job, command: str) -> Ended:
    """Runs a printed command in a folder, into which it may write."""
    words = shlex.split(command)[1:]
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=folder,
        env=job.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def see(world: World, end: Ending, codes: set[int]) -> None:
    """Ends the command, pastes the printed commands, and checks what became of the rows."""
    world.prepare()
    done = end(world)
    assert done.returncode in codes, done.stderr
    world.check()
    asks = paste_to_the_end(world, done.stderr)
    world.check()
    found = json.loads(world.call("status", "--json", *world.given.of_the_job).stdout)
    assert found["pending"] == 0
    assert "internal_server_error" not in found["by_code"]
    assert (asks is None) == (found["resume_command"] is None)


def world_in(folder: Path, sandbox: SandboxProcess, given: Given) -> World:
    folder.mkdir()
    job = Job(folder, folder / "job.yaml", folder / "sheet.csv", sandbox.url)
    return World(job, sandbox, given.here(folder))


@pytest.mark.parametrize(("ending", "command"), TABLE)
def test_the_command_that_is_printed_at_the_end_can_be_pasted(
    start_sandbox, tmp_path, ending, command
):
    """It sends the remaining rows, pays for none twice, and asks before it may."""
    signalled = ending in ("SIGINT", "SIGINT twice", "kill -9")
    sandbox = start_sandbox(latency="300ms" if signalled else "0s")
    see(world_in(tmp_path / "jobs", sandbox, COMMANDS[command]), *ENDINGS[ending])


@pytest.mark.long
def test_the_command_that_is_printed_while_the_api_is_away_can_be_pasted(tmp_path):
    """All commands run at once, because each waits half a minute before it gives up."""

    def see_away(number: int, given: Given) -> None:
        world = world_in(
            tmp_path / str(number), started_sandbox(book=str(tmp_path / f"book-{number}")), given
        )
        try:
            see(world, while_the_api_is_away, {75})
        finally:
            world.sandbox.stop()

    with ThreadPoolExecutor(len(COMMANDS)) as pool:
        for seen in [pool.submit(see_away, *one) for one in enumerate(COMMANDS.values())]:
            seen.result()


def test_a_sample_that_stopped_early_continues_as_a_sample(sandbox, make_job):
    """`--limit 4` runs out of credits after 2 rows. The command sends 2 more, and the next one the
    rest of the sheet. `status` prints the same."""
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(9)], concurrency=1)
    sandbox.set_credits(2)
    done = job.call("run", "--limit", "4")
    sandbox.set_credits(1000)
    assert done.returncode == 4
    assert one_command(done.stderr) == one_command(job.call("status").stdout)
    before, command = one_command(done.stderr) or ("", "")
    assert (before, "--limit 4" in command) == ("The next command sends 4 rows.", True)
    done = job.paste(command)
    assert sum(sandbox.billed().values()) == 4
    before, command = one_command(done.stderr) or ("", "")
    assert (before, "--limit" in command) == ("The next command sends 5 rows.", False)
    assert job.paste(command).returncode == 0
    assert list(sandbox.billed().values()) == [1] * 9


def test_a_rehearsal_continues_as_a_rehearsal(sandbox, make_job):
    """The paid API gets no request."""
    job = make_job(sandbox.url, rows=[[story] for story in LEFT])
    done = job.call("run", "--sandbox", "--max-paid", "2")
    assert done.returncode == 4
    _, command = one_command(done.stderr) or ("", "")
    assert "--sandbox" in command
    done = job.paste(command)
    _, command = one_command(done.stderr) or ("", "")
    assert (done.returncode, command.split()[1]) == (0, "export")
    assert sandbox.received() == 0


def test_ten_rows_that_failed_with_one_code_are_sent_again_before_the_others(sandbox, make_job):
    """They cost nothing and show whether the cause is gone. Then the rest is sent."""
    rows = [f"{n} #fault:json-500-once" for n in range(10)] + LEFT
    job = make_job(sandbox.url, rows=[[row] for row in rows], retries=0, concurrency=1)
    done = job.call("run")
    assert done.returncode == 4
    before, command = one_command(done.stderr) or ("", "")
    assert before == "The next command sends 10 rows."
    assert "--only internal_server_error" in command
    assert one_command(job.call("status").stdout) == (before, command)
    done = job.paste(command)
    assert (done.returncode, sandbox.received()) == (0, 20)
    before, command = one_command(done.stderr) or ("", "")
    assert (before, "resume" in command) == ("The next command sends 5 rows.", False)
    assert job.paste(command).returncode == 0
    assert set(sandbox.billed().values()) == {1}


def test_ten_rows_that_a_filter_refused_are_resumed_and_never_skipped(make_job):
    """Every request gets a 403 page. The command sends the ten rows again as long as that lasts,
    and then the sheet."""
    filtered = 403, {"content-type": "text/html"}, b"<html>Forbidden</html>"
    stories = [f"story {n}" for n in range(14)]
    with Server(lambda _: filtered) as server:
        job = make_job(server.url, rows=[[story] for story in stories], concurrency=1)
        done = job.call("run")
        for _ in range(2):
            assert done.returncode == 4
            _, command = one_command(done.stderr) or ("", "")
            assert "resume" in command
            assert "--only http_403" in command
            done = job.paste(command)
        assert server.received.total() == 30
        server.answer = lambda body: (200, {}, b'{"success": true, "result": "an answer"}')
        assert job.paste(command).returncode == 0
        _, command = one_command(job.call("status").stdout) or ("", "")
        assert job.paste(command).returncode == 0
        assert job.status()["ok"] == 14


def test_rows_that_only_an_edit_can_fix_are_edited_and_run(sandbox, make_job):
    """Ten blocked rows stop the run. No row is sent again without an edit."""
    rows = [f"{n} #fault:blocked" for n in range(10)] + LEFT
    job = make_job(sandbox.url, rows=[[row] for row in rows], concurrency=1)
    done = job.call("run", "--json")
    assert done.returncode == 4
    before, command = one_command(done.stderr) or ("", "")
    assert before == "First edit the cells that were refused (10 rows with request_blocked)."
    assert command == shlex.join(["pipeline", "run", str(job.spec)])
    assert json.loads(done.stdout)["resume_command"] == command
    job.write_sheet(["story"], [[row.replace("#fault:blocked", "fine")] for row in rows])
    assert job.paste(command).returncode == 0
    assert set(sandbox.billed().values()) == {0, 1}


def test_a_row_that_failed_the_same_way_in_two_runs_is_not_proposed_a_third_time(sandbox, make_job):
    """`report` still has its command."""
    job = make_job(sandbox.url, rows=[["a"], ["b #fault:json-500"]], retries=0)
    done = job.call("run")
    _, command = one_command(done.stderr) or ("", "")
    done = job.paste(command)
    _, export = one_command(done.stderr) or ("", "")
    assert (done.returncode, export.split()[1]) == (3, "export")
    found = json.loads(job.call("report", "--json").stdout)
    assert found["resume_command"] is None
    assert found["groups"][0]["command"] == command + " --only internal_server_error"


def test_after_ten_ambiguous_rows_the_next_run_tries_one_row_first(start_sandbox, make_job):
    """No row that may have been billed is sent again."""
    sandbox = start_sandbox()
    rows = [f"{n} #fault:html-504-billed" for n in range(10)] + LEFT
    job = make_job(sandbox.url, rows=[[row] for row in rows], concurrency=1)
    done = job.call("run")
    assert done.returncode == 5
    before, command = one_command(done.stderr) or ("", "")
    assert before == "The next command sends 5 rows."
    done = job.paste(command)
    _, command = one_command(done.stderr) or ("", "")
    assert "--ambiguous" in command
    assert job.paste(command).returncode == 2
    assert list(sandbox.billed().values()) == [1] * 15


def run_in_its_folder(job: Job, *options: str) -> str:
    """Returns what a run in the folder of the job prints."""
    command = shlex.join(["pipeline", "run", "job.yaml", *options])
    done = pasted_in(job.folder, job, command)
    assert done.returncode in (0, 3), done.stderr
    return done.stderr


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".xlsx", ".parquet", ".jsonl"])
def test_a_finished_run_ends_with_the_export_command(sandbox, make_job, ending):
    """In the format of the sheet. Pasted twice, it replaces its own file."""
    job = make_job(sandbox.url, rows=[[story] for story in LEFT])
    job.sheet = job.sheet.with_suffix(ending)
    written_sheet(job.sheet, LEFT)
    job.write_spec()
    said = run_in_its_folder(job)
    assert said.splitlines()[-1] == f"Next: pipeline export job.yaml --to job-done{ending}"
    for _ in range(2):
        done = pasted_in(job.folder, job, said.splitlines()[-1].removeprefix("Next: "))
        assert (done.returncode, "5 ok" in done.stderr) == (0, True), done.stderr
    assert (job.folder / f"job-done{ending}").exists()
    assert sandbox.received() == 5
    for verb in ("status", "report"):
        shown = pasted_in(job.folder, job, f"pipeline {verb} job.yaml").stdout
        assert f"Next: pipeline export job.yaml --to job-done{ending}" in shown


def written_sheet(path: Path, stories: list[str]) -> None:
    frame = pd.DataFrame({"story": stories})
    if path.suffix == ".xlsx":
        frame.to_excel(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False)


def test_the_proposed_export_replaces_neither_the_sheet_nor_a_file_of_the_user(sandbox, make_job):
    """The name is free, or that of an earlier export. A rehearsal has another name."""
    job = make_job(sandbox.url, rows=[[story] for story in LEFT])
    job.sheet = job.sheet.rename(job.folder / "job-done.csv")
    (job.folder / "job-done-2.csv").write_text("notes\nof the user\n")
    job.write_spec()
    said = run_in_its_folder(job)
    assert said.endswith("Next: pipeline export job.yaml --to job-done-3.csv\n")
    said = run_in_its_folder(job, "--sandbox")
    assert said.endswith("Next: pipeline export job.yaml --sandbox --to job-rehearsal.csv\n")
    done = pasted_in(job.folder, job, said.splitlines()[-1].removeprefix("Next: "))
    assert done.returncode == 0, done.stderr
    assert (job.folder / "job-done-2.csv").read_text() == "notes\nof the user\n"


def test_another_sheet_of_the_command_line_is_the_one_that_is_exported(sandbox, make_job):
    """The copy is made of the workbook that the last run read, not of the one in the job file."""
    job = make_job(sandbox.url, rows=[[story] for story in LEFT])
    for name, stories in (("sheet.xlsx", ["another"]), ("other.xlsx", LEFT)):
        written_sheet(job.folder / name, stories)
    job.sheet = job.folder / "sheet.xlsx"
    job.write_spec()
    said = run_in_its_folder(job, "--input", "other.xlsx")
    assert said.endswith("Next: pipeline export job.yaml --to job-done.xlsx\n")
    shown = pasted_in(job.folder, job, "pipeline status job.yaml").stdout
    assert "--to job-done.xlsx" in shown
    done = pasted_in(job.folder, job, said.splitlines()[-1].removeprefix("Next: "))
    assert (done.returncode, "5 ok" in done.stderr) == (0, True), done.stderr


def test_the_export_follows_the_command_that_sends_failed_rows_again(sandbox, make_job):
    """It is on the next line. While rows are pending, there is no export to propose."""
    job = make_job(sandbox.url, rows=[["a"], ["b #fault:json-500"], ["c"]], retries=0)
    assert "pipeline export" not in run_in_its_folder(job, "--limit", "1")
    *_, again, export = run_in_its_folder(job).splitlines()
    assert again == "Next: pipeline resume job.yaml"
    assert export == "To export the answers so far: pipeline export job.yaml --to job-done.csv"


def test_a_job_without_any_answer_proposes_no_export(sandbox, make_job):
    """There is nothing to bring home."""
    job = make_job(sandbox.url, rows=[["#fault:blocked"]])
    assert "pipeline export" not in run_in_its_folder(job)


def test_no_page_and_no_message_recommends_the_same_command():
    """After a `resume` it would be the wrong one."""
    top = TOP
    pages = [*top.glob("*.md"), *top.glob("docs/*.md"), *top.glob("pipeline/**/*.py")]
    pages.remove(top / "CHANGELOG.md")
    for page in pages:
        assert "same command" not in page.read_text(encoding="utf-8"), page
