"""`verify` finds what is altered, lost, doubled or foreign in a run folder. No command uses it."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline import Consent, Refused, Selection, StorageFailed, Verified, verify_job
from pipeline.core.clock import SystemClock
from pipeline.job.run_folder import RunFolder
from pipeline.ledger.ledger import open_ledger
from pipeline.ledger.schema import connect
from pipeline.results.sealing import Sealer
from tests.conftest import KEY, Job, SandboxProcess, StartSandbox, ended, started_sandbox

SHEET = [
    ["a-1", "a plain story"],
    ["a-2", "another story, with \u00e9 and \u2028"],
    ["a-3", "#fault:blocked"],
    ["a-4", "#fault:html-504-billed"],
    ["a-5", "a third story"],
    ["a-6", ""],
    ["a-7", "a fourth story"],
    ["a-8", "a story for later"],
]

SPEC = {
    "id": "sku",
    "empty": "skip",
    "retries": 0,
    "variables": {"story": "story"},
    "rate": 5000,
}


def verify(folder: Path) -> Verified:
    """Verifies a run folder, or a copy of one, as the command does."""
    return verify_job(pipeline.Job("job", RunFolder(folder), None, False, (str(folder),)))


def files_found(folder: Path) -> set[str]:
    return {finding.file for finding in verify(folder).findings}


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartSandbox]:
    """Starts sandboxes that last for all tests of this file."""
    started: list[SandboxProcess] = []

    def start(**options: Any) -> SandboxProcess:
        book = tmp_path_factory.mktemp("book") / "book.sqlite"
        started.append(started_sandbox(book=str(book), **options))
        return started[-1]

    yield start
    for sandbox in started:
        sandbox.stop()


def job_in(folder: Path, base_url: str) -> Job:
    return Job(folder, folder / "job.yaml", folder / "sheet.csv", base_url)


@pytest.fixture(scope="module")
def book(serve: StartSandbox) -> SandboxProcess:
    """The sandbox of `finished`, which counts its requests."""
    return serve()


@pytest.fixture(scope="module")
def original(book: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job with two parts, and with rows that are ok, failed, ambiguous, skipped and pending."""
    job = job_in(tmp_path_factory.mktemp("jobs"), book.url)
    job.write_sheet(["sku", "story"], SHEET)
    job.write_spec(**SPEC)
    job.run("--limit", "4", expect=5)
    job.run("--limit", "6", expect=5)
    return job


@pytest.fixture
def finished(original: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A copy of `original` that a test can damage."""
    monkeypatch.setenv("AITUTOR_API_KEY", KEY)
    monkeypatch.setenv("AITUTOR_BASE_URL", original.base_url)
    return job_in(copied(original.folder, tmp_path / "finished"), original.base_url)


@pytest.fixture(scope="module")
def left_behind(serve: StartSandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder after `kill -9`, with answers in the ledger only and interrupted attempts."""
    sandbox = serve(latency="30ms")
    job = job_in(tmp_path_factory.mktemp("jobs"), sandbox.url)
    job.write_sheet(["story"], [[f"story {n}"] for n in range(400)])
    job.write_spec(concurrency=8)
    process = job.start(rate="60")
    with ended(process):
        while sandbox.received() < 24:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    return job.output


@pytest.fixture
def killed(left_behind: Path, tmp_path: Path) -> Path:
    """A copy of `left_behind`, its write-ahead log included."""
    return copied(left_behind, tmp_path / "killed")


def copied(folder: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(folder, place))


def checkpointed(folder: Path) -> Path:
    """Moves the content of the write-ahead log into the ledger, as the next run would."""
    db = sqlite3.connect(folder / "ledger.sqlite")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return folder


def values(folder: Path) -> list[Any]:
    """Every value of every table, Parquet file and JSON file; for a file that fails, its error."""
    return [
        _values_of(_ledger_values, folder / "ledger.sqlite"),
        *(_values_of(_parquet_values, p) for p in sorted((folder / "results").iterdir())),
        _values_of(_parquet_values, folder / "input.parquet"),
        _values_of(lambda path: json.loads(path.read_bytes()), folder / "summary.json"),
        _values_of(Path.read_bytes, folder / "failures.csv"),
    ]


def _values_of(read: Callable[[Path], Any], path: Path) -> Any:
    try:
        return read(path)
    except (OSError, ValueError, sqlite3.Error, pa.ArrowException) as error:
        return type(error)


def _ledger_values(path: Path) -> list[Any]:
    db = sqlite3.connect(path)
    db.text_factory = bytes
    try:
        tables = db.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
        names = [name.decode() for name, sql in tables if sql and sql.startswith(b"CREATE TABLE")]
        return [
            tables,
            db.execute("PRAGMA user_version").fetchone(),
            *(sorted(map(repr, db.execute(f"SELECT * FROM {name}"))) for name in names),
        ]
    finally:
        db.close()


def _parquet_values(path: Path) -> Any:
    table = pq.read_table(path)
    return table.schema.metadata, table.schema.names, table.to_pylist()


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def flip_in(path: Path, text: str) -> None:
    """Alters the first byte of the first occurrence of `text`."""
    flip(path, path.read_bytes().index(text.encode()))


# -- nothing is wrong -------------------------------------------------------------------


def test_verify_finds_nothing_in_a_finished_run_and_prints_what_it_checked(finished):
    """Exit code 0, a line for people, and for scripts the summary without findings."""
    done = finished.call("verify")
    assert done.returncode == 0, done.stderr
    assert "complete and unaltered" in done.stdout
    assert "4 answers in 2 parts" in done.stdout
    said = json.loads(finished.call("verify", "--json", "--quiet").stdout)
    assert (said["findings"], said["answers"], said["parts"], said["exit_code"]) == ([], 4, 2, 0)
    assert [said[n] for n in ("rows", "ok", "failed", "ambiguous", "pending", "skipped")] == [
        *(8, 4, 1, 1, 1, 1)
    ]


def test_before_the_first_run_there_is_nothing_to_verify(sandbox, make_job):
    """Exit code 2 and the command that starts a run. But a lost ledger is a finding."""
    job = make_job(sandbox.url, rows=[["a"]])
    done = job.call("verify")
    assert (done.returncode, "pipeline run" in done.stderr) == (2, True)
    job.run()
    (job.output / "ledger.sqlite").unlink()
    assert files_found(job.output) == {"ledger.sqlite"}


def test_verify_finds_nothing_after_any_command(finished):
    """Other versions, decisions, retries, a sheet that was sorted and edited, another job file."""
    job, clock, agreed = pipeline.find_job(finished.spec), SystemClock(), Consent(True, True)

    def run(selection: Selection | None = None) -> None:
        pipeline.run_job(finished.spec, selection=selection or Selection(), consent=agreed)

    for command in (
        lambda: pipeline.settle_job(job, clock, only=frozenset({"gateway"})),
        lambda: pipeline.report_job(job),
        lambda: run(pipeline.select_again(pipeline.parse_rows("1,5"))),
        lambda: run(pipeline.select_resume(rows=pipeline.parse_rows("3-4"), ambiguous=True)),
        lambda: pipeline.settle_job(job, clock),
        run,
        lambda: finished.write_sheet(["sku", "story"], [["a-9", "new"], *SHEET[:1:-1]]),
        run,
        lambda: finished.write_spec(**SPEC, workflow="wf_product", constants={"a": "b"}),
        run,
    ):
        command()
        assert not verify(finished.output).findings


def test_verify_finds_nothing_while_runs_are_active(start_sandbox, make_job):
    """Meanwhile rows are sent, parts are sealed, a run ends and another one begins."""
    sandbox = start_sandbox(latency="10ms")
    job = make_job(sandbox.url, rows=[[f"story {n}"] for n in range(2400)], concurrency=64)
    looks = []
    for options in (["--limit", "200"], []):
        process = job.start(*options, rate="2000")
        with ended(process):
            while process.poll() is None:
                with contextlib.suppress(Refused):  # no run yet
                    looks.append(verify(job.output))
                    assert not looks[-1].findings
    answers = [look.answers for look in looks]
    assert len(looks) >= 10
    assert answers == sorted(answers)
    assert verify(job.output).answers == 2400


def test_verify_finds_nothing_after_kill_9_before_and_after_the_next_run(killed):
    """Interrupted attempts are not damage, nor is the draft of a part."""
    (killed / "results" / ".part-00001.parquet").write_bytes(b"half of it")
    found = verify(killed)
    assert not found.findings
    assert found.answers > 0
    assert found.summary.ambiguous > 0


def test_answers_of_a_killed_run_keep_the_workflow_that_they_came_from(
    killed, left_behind, tmp_path, monkeypatch
):
    """Although the job file names another one when they are sealed."""
    monkeypatch.setenv("AITUTOR_API_KEY", KEY)
    host = json.loads((killed / "run.json").read_text())["host"]
    monkeypatch.setenv("AITUTOR_BASE_URL", f"http://{host}")
    job = job_in(tmp_path, "")
    shutil.copy(left_behind.parents[1] / "sheet.csv", job.sheet)
    job.write_spec(workflow="wf_other", output=str(killed))
    with pytest.raises(Refused, match="the workflow changed from wf_story to wf_other"):
        pipeline.run_job(job.spec)
    assert set(pd.read_parquet(killed / "results")["workflow"]) == {"wf_story"}
    assert not verify(killed).findings


# -- any byte ---------------------------------------------------------------------------


def test_any_byte_whose_change_alters_a_value_is_found(finished, tmp_path):
    """Changes random bytes of the folder's files, one at a time, and compares with a dump."""
    assert _flipped_at_random(finished.output, tmp_path, range(150)) > 75


@pytest.mark.long(first=True)
def test_thousands_of_bytes_whose_change_alters_a_value_are_found(finished, killed, tmp_path):
    """The same test with more bytes."""
    for folder in (finished.output, checkpointed(killed)):
        assert _flipped_at_random(folder, tmp_path, range(10_000, 12_000)) > 1000


def test_any_byte_of_answers_that_are_only_in_the_ledger_is_found(killed, tmp_path):
    """The same test after `kill -9`, before any answer was sealed."""
    folder = checkpointed(killed)
    assert _flipped_at_random(folder, tmp_path, range(1000, 1080)) > 30


def _flipped_at_random(folder: Path, tmp_path: Path, seeds: range) -> int:
    """Asserts that each flip is found or alters nothing. Returns how many were found."""
    (folder / ".reserve").unlink(missing_ok=True)
    before = values(folder)
    assert not verify(folder).findings
    found = 0
    for seed in seeds:
        chance = random.Random(seed)
        copy = copied(folder, tmp_path / "flipped")
        ledger = copy / "ledger.sqlite"
        others = [*copy.glob("*.parquet"), *copy.glob("results/*"), *copy.glob("summary.json")]
        path = ledger if chance.random() < 0.6 else chance.choice(sorted(others))
        used = [place for place, byte in enumerate(path.read_bytes()) if byte]
        place, bit = chance.choice(used), chance.randrange(8)
        flip(path, place, bit)
        findings = _findings_or_refusal(copy)
        assert findings or values(copy) == before, (seed, path.name, place, bit)
        found += bool(findings)
    return found


def _findings_or_refusal(folder: Path) -> object:
    try:
        return verify(folder).findings
    except (
        Refused
    ) as error:  # the flip hit the schema's version, so the ledger looks like a newer release's
        return error


def test_a_log_that_lost_commits_after_kill_9_is_found_and_nothing_is_sent_again(killed, tmp_path):
    """SQLite itself would continue without them, and paid rows would look new."""
    (killed / ".reserve").unlink(missing_ok=True)
    size = (killed / "ledger.sqlite-wal").stat().st_size
    chance = random.Random(7)
    for place in [*range(4, 56, 7), *(chance.randrange(size // 2) for _ in range(20))]:
        copy = copied(killed, tmp_path / "flipped")
        (copy / "ledger.sqlite-shm").unlink()
        flip(copy / "ledger.sqlite-wal", place, chance.randrange(8))
        assert "ledger.sqlite-wal" in files_found(copy), place
    with pytest.raises(StorageFailed), open_ledger(copy / "ledger.sqlite", SystemClock()):
        pass
    with pytest.raises(StorageFailed):
        export(copy, tmp_path / "out.parquet")


def test_a_last_commit_that_a_power_cut_damaged_is_not_a_finding(killed):
    """It was not on disk yet, so the runner had not counted it."""
    log = killed / "ledger.sqlite-wal"
    (killed / "ledger.sqlite-shm").unlink()
    flip(log, log.stat().st_size - 100)
    assert not verify(killed).findings
    log.write_bytes(log.read_bytes()[:-5000])
    assert not verify(killed).findings


PLACES = [
    ("results/part-00001.parquet", None),
    ("results/part-00000.parquet", "variables"),
    ("input.parquet", None),
    ("summary.json", '"paid_max": 5'),
    ("summary.json", '"duration_s"'),
    ("failures.csv", "a-3"),
]


@pytest.mark.parametrize(("name", "text"), PLACES)
def test_a_flip_in_a_file_names_that_file(finished, name, text):
    """In the middle of the file, or at a text."""
    path = finished.output / name
    if text is None:
        flip(path, path.stat().st_size // 3)
    else:
        flip_in(path, text)
    found = files_found(finished.output)
    # For a part, `verify` also names the rows whose answers are missing.
    assert found == ({name, "results"} if "part-00001" in name else {name})


CHANGES = {
    "UPDATE rows SET state = 'failed' WHERE sheet_row = 2": 2,
    "UPDATE rows SET state = 'ok' WHERE sheet_row = 3": 3,
    "UPDATE rows SET code = 'gatewaz' WHERE sheet_row = 4": 4,
    "UPDATE rows SET row_key = x'00' WHERE sheet_row = 1": 1,
    "UPDATE rows SET sheet_row = 8 WHERE sheet_row = 5": 8,
    "UPDATE rows SET attempts = 2 WHERE sheet_row = 7": 7,
    "UPDATE rows SET version = 2 WHERE sheet_row = 7": 7,
    "UPDATE rows SET ok_attempt = NULL WHERE sheet_row = 7": 7,
    "UPDATE attempts SET maybe_paid = 0 WHERE sheet_row = 4": 4,
    "UPDATE attempts SET sheet_row = 8 WHERE sheet_row = 5": 5,
    "DELETE FROM attempts WHERE sheet_row = 2": 2,
    "DELETE FROM rows WHERE sheet_row = 2": 2,
    "UPDATE runs SET rows = 9": None,
    "UPDATE parts SET last_seq = last_seq + 1 WHERE part = 2": None,
    "DELETE FROM parts WHERE part = 2": 5,
    "INSERT INTO decisions VALUES (1, 99, 'settled', 1.0)": None,
    "INSERT INTO payloads VALUES (9, 1, '{}')": 1,
}


@pytest.mark.parametrize("change", CHANGES)
def test_tables_that_contradict_each_other_are_found_despite_correct_checksums(finished, change):
    """As after a bug: records are lost, doubled, or do not fit the others."""
    db = connect(finished.output / "ledger.sqlite", read_only=False)
    assert db.execute(change).rowcount > 0
    db.close()
    findings = verify(finished.output).findings
    rows = {row for finding in findings for row in finding.rows}
    assert findings
    assert CHANGES[change] is None or CHANGES[change] in rows


ALTERED = {
    "a state": ("UPDATE rows SET state = 'pending' WHERE sheet_row = 1", 1),
    "a code": ("UPDATE rows SET code = 'x' WHERE sheet_row = 3", 3),
    "an identity": ("UPDATE rows SET identity = x'01' WHERE sheet_row = 1", 1),
    "a message": ("UPDATE attempts SET message = 'no' WHERE sheet_row = 3", 3),
    "a time": ("UPDATE attempts SET sent_at = sent_at + 1 WHERE sheet_row = 7", 7),
    "the pinned settings": ("UPDATE meta SET value = '{}' WHERE name = 'pinned'", None),
}


def altered(folder: Path, change: str) -> None:
    """Changes the ledger as a disk would: the old checksums stay."""
    db = sqlite3.connect(folder / "ledger.sqlite")
    table = change.split()[1]
    key = db.execute(f"SELECT name FROM pragma_table_info('{table}') LIMIT 1").fetchone()[0]
    sums = dict(db.execute(f"SELECT {key}, sum FROM {table}"))
    db.create_function("row_sum", -1, lambda *values: sums[values[0]])
    assert db.execute(change).rowcount == 1
    db.commit()
    db.close()


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_entry_of_the_ledger_names_its_row_and_stops_a_run(finished, book, what):
    """Nothing is sent, whatever the altered value is."""
    change, row = ALTERED[what]
    altered(finished.output, change)
    before = book.received()
    found = verify(finished.output).findings
    assert found[0].file == "ledger.sqlite"
    assert "is not as the runner wrote it" in found[0].problem
    assert found[0].rows == (() if row is None else (row,))
    with pytest.raises(StorageFailed, match="damaged"):
        pipeline.run_job(finished.spec)
    assert book.received() == before


def test_text_that_is_not_valid_utf_8_is_a_finding_and_no_traceback(finished):
    """With an invalid byte in a message. No command shows the message, and each names `verify`."""
    flip(finished.output / "ledger.sqlite", _place_of_message(finished.output), bit=7)
    [finding] = [f for f in verify(finished.output).findings if f.file == "ledger.sqlite"]
    assert finding.rows == (3,)
    job = pipeline.find_job(finished.spec)
    for command in (
        lambda: pipeline.report_job(job),
        lambda: pipeline.export_job(job, finished.folder / "out.csv"),
        lambda: pipeline.settle_job(job, SystemClock()),
    ):
        with pytest.raises(StorageFailed, match="pipeline verify"):
            command()


def _place_of_message(folder: Path) -> int:
    db = sqlite3.connect(folder / "ledger.sqlite")
    [message] = db.execute("SELECT message FROM attempts WHERE code = 'request_blocked'").fetchone()
    db.close()
    return (folder / "ledger.sqlite").read_bytes().index(message.encode())


def test_a_row_that_its_own_index_has_lost_is_not_paid_again(finished, book):
    """The row would look new, and its record like a row that left the sheet."""
    path = finished.output / "ledger.sqlite"
    db = sqlite3.connect(path)
    [root] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'rows_known'").fetchone()
    [size] = db.execute("PRAGMA page_size").fetchone()
    [known] = db.execute("SELECT identity FROM rows WHERE sheet_row = 1").fetchone()
    db.close()
    page = path.read_bytes()[(root - 1) * size : root * size]
    # The last byte: the others decide the order, so SQLite might still find the entry.
    flip(path, (root - 1) * size + page.index(known) + len(known) - 1)
    before = book.received()
    assert files_found(finished.output) == {"ledger.sqlite"}
    for _ in range(2):
        with pytest.raises(StorageFailed):
            pipeline.run_job(finished.spec)
    assert book.received() == before


def test_findings_end_the_command_with_6_and_are_in_the_json(finished):
    """The JSON is one object with the summary's fields. Each finding has its file and rows."""
    altered(finished.output, ALTERED["a message"][0])
    (finished.output / "summary.json").unlink()
    done = finished.call("verify", "--json")
    assert done.returncode == 6
    said = json.loads(done.stdout)
    assert (said["exit_code"], said["rows"]) == (6, 8)
    assert [finding["file"] for finding in said["findings"]] == ["ledger.sqlite", "summary.json"]
    assert said["findings"][0]["rows"] == [3]
    assert "`attempts` is not as the runner wrote it: row 3" in done.stderr
    assert "Do not run this job" in done.stderr


# -- whole files ------------------------------------------------------------------------

PART_1, PART_2 = "results/part-00001.parquet", "results/part-00002.parquet"


def _swap(folder: Path) -> None:
    (folder / PART_1).rename(folder / "aside")
    (folder / PART_2).rename(folder / PART_1)
    (folder / "aside").rename(folder / PART_2)


def _truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


WHOLE_FILES = {
    "a part is deleted": (lambda f: (f / PART_1).unlink(), {PART_1, "results"}, (1, 2)),
    "a part is cut": (lambda f: _truncate(f / PART_2, 900), {PART_2, "results"}, (5, 7)),
    "a part is empty": (lambda f: _truncate(f / PART_2, 0), {PART_2, "results"}, (5, 7)),
    "two parts are swapped": (_swap, {PART_1, PART_2, "results"}, (1, 2, 5, 7)),
    "a part is there twice": (
        lambda f: shutil.copy(f / PART_1, f / "results/part-00009.parquet"),
        {"results/part-00009.parquet"},
        (),
    ),
    "a file is foreign": (
        lambda f: pd.DataFrame({"row": [1]}).to_parquet(f / "results/mine.parquet"),
        {"results/mine.parquet"},
        (),
    ),
    "a file has a name that a terminal would obey": (
        lambda f: (f / "results/\x1b[2J\udcff").write_bytes(b""),
        {"results/ [2J"},
        (),
    ),
    "the empty part is gone": (
        lambda f: (f / "results/part-00000.parquet").unlink(),
        {"results/part-00000.parquet"},
        (),
    ),
    "the empty part is not empty": (
        lambda f: shutil.copy(f / PART_1, f / "results/part-00000.parquet"),
        {"results/part-00000.parquet"},
        (),
    ),
    "the sheet's copy is deleted": (
        lambda f: (f / "input.parquet").unlink(),
        {"input.parquet"},
        (),
    ),
    "the summary is deleted": (lambda f: (f / "summary.json").unlink(), {"summary.json"}, ()),
    "failures.csv is cut": (lambda f: _truncate(f / "failures.csv", 90), {"failures.csv"}, ()),
    "the ledger is cut": (
        lambda f: _truncate(f / "ledger.sqlite", 9000),
        {"ledger.sqlite"},
        (),
    ),
    "the ledger is no ledger": (
        lambda f: (f / "ledger.sqlite").write_bytes(b"garbage" * 999),
        {"ledger.sqlite"},
        (),
    ),
    "the ledger is empty": (
        lambda f: (f / "ledger.sqlite").write_bytes(b""),
        {"ledger.sqlite"},
        (),
    ),
}


@pytest.mark.parametrize("what", WHOLE_FILES)
def test_files_that_are_lost_cut_swapped_or_foreign_are_named(finished, what):
    """With the rows whose answers are missing."""
    change, files, rows = WHOLE_FILES[what]
    change(finished.output)
    findings = verify(finished.output).findings
    assert {finding.file for finding in findings} >= files
    assert {row for finding in findings for row in finding.rows} >= set(rows)
    if "ledger" not in what:
        assert {finding.file for finding in findings} == files


def test_an_older_ledger_with_newer_results_is_found(finished, tmp_path):
    """`verify` names the parts and files that this ledger has no record of."""
    older = tmp_path / "older.sqlite"
    shutil.copy(finished.output / "ledger.sqlite", older)
    pipeline.run_job(finished.spec)
    assert not verify(finished.output).findings
    shutil.copy(older, finished.output / "ledger.sqlite")
    assert files_found(finished.output) >= {
        "results/part-00003.parquet",
        "summary.json",
        "input.parquet",
    }


# -- no command uses altered data -------------------------------------------------------


def export(folder: Path, target: Path) -> pd.DataFrame:
    job = pipeline.Job("job", RunFolder(folder), None, False, ("job",))
    return pd.read_parquet(pipeline.export_job(job, target).path)


def test_an_export_after_any_flip_is_refused_or_the_same_as_before(finished, killed, tmp_path):
    """It never has altered text. Flips random bytes of parts, the sheet's copy and the ledger."""
    for folder, sources in (
        (finished.output, [PART_1, PART_2, "input.parquet", "ledger.sqlite"]),
        (checkpointed(killed), ["ledger.sqlite", "input.parquet"]),
    ):
        (folder / ".reserve").unlink(missing_ok=True)
        before = export(folder, tmp_path / "before.parquet")
        refused = 0
        for seed in range(60):
            chance = random.Random(seed)
            copy = copied(folder, tmp_path / "flipped")
            path = copy / chance.choice(sources)
            used = [place for place, byte in enumerate(path.read_bytes()) if byte]
            flip(path, chance.choice(used), chance.randrange(8))
            target = tmp_path / f"after-{seed}.parquet"
            try:
                pd.testing.assert_frame_equal(export(copy, target), before)
                target.unlink()
            except pipeline.PipelineError:
                refused += 1
                assert not target.exists()
        assert refused > 15


def test_a_damaged_part_ends_an_export_with_6_and_leaves_no_file(finished):
    """The message names the part and `pipeline verify`."""
    flip(finished.output / PART_1, 400)
    target = finished.folder / "out.csv"
    done = finished.call("export", "--to", str(target))
    assert (done.returncode, target.exists()) == (6, False)
    assert "part-00001.parquet" in done.stderr
    assert "pipeline verify" in done.stderr


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE payloads SET body = CAST(replace(body, 'a', 'b') AS BLOB) WHERE seq = 1",
        "UPDATE requests SET body = CAST(replace(body, 'story', 'glory') AS BLOB)"
        " WHERE row_id = (SELECT row_id FROM payloads JOIN attempts USING (attempt_id) LIMIT 1)",
    ],
)
def test_an_altered_answer_is_not_sealed(killed, tmp_path, change):
    """The sealing stops, and `verify` names the row."""
    folder = checkpointed(killed)
    altered(folder, change)
    [finding] = verify(folder).findings
    assert len(finding.rows) == 1
    with open_ledger(folder / "ledger.sqlite", SystemClock()) as ledger:
        with pytest.raises(StorageFailed, match=f"row {finding.rows[0]} of the sheet"):
            Sealer(ledger, folder / "results", "wf_story").seal_all()
    assert pd.read_parquet(folder / "results").empty


def test_an_interrupted_attempt_that_was_altered_is_not_overwritten(killed):
    """`recover` would give the altered values a new checksum."""
    folder = checkpointed(killed)
    altered(
        folder,
        "UPDATE attempts SET maybe_paid = 0"
        " WHERE attempt_id = (SELECT max(last_attempt) FROM rows WHERE state = 'sending')",
    )
    with open_ledger(folder / "ledger.sqlite", SystemClock()) as ledger:
        with pytest.raises(StorageFailed, match="interrupted attempt"):
            ledger.recover()
    assert files_found(folder) == {"ledger.sqlite"}
