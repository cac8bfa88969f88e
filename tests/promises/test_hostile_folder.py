"""A run folder from another person: no command hangs on it, fills the memory, or shows a traceback.

A test replaces each file of the folder with each kind of object that a reader can wait for
endlessly, or that is larger than any memory. A child process with limits then gives each command.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ledger.schema import connect
from pipeline.results.schema import RESULTS_SCHEMA
from tests.conftest import Job, shared_forks
from tests.support.servers import Answer, Server, ok

CPU_S, MEMORY_BYTES, WALL_S = 20, 1 << 30, 60
DOCUMENTED = {0, 2, 3, 4, 5, 6, 75}
SPARSE_BYTES = 1 << 40

FILES = [
    "run.json",
    "summary.json",
    "failures.csv",
    "log.jsonl",
    "lock",
    "input.parquet",
    ".input.parquet.new",
    "ledger.sqlite",
    "ledger.sqlite-wal",
    "ledger.sqlite-shm",
    "ledger.sqlite-journal",
    "results",
    ".failures.csv.draft",
    ".report.html.draft",
    "results/part-00000.parquet",
    "results/part-00001.parquet",
    "report.html",
    "exports.json",
    "reviews.lock",
    "reviews.sqlite",
    "reviews.sqlite-wal",
]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_fifo(path: Path) -> None:
    elsewhere = path.parent / "elsewhere.fifo"
    os.mkfifo(elsewhere)
    path.symlink_to(elsewhere)


def bound_socket(path: Path) -> None:
    # The name of a socket has 107 characters at most.
    here = os.open(path.parent, os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def folder(path: Path) -> None:
    path.mkdir()


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(SPARSE_BYTES)


def grown(path: Path) -> None:
    """Extends the file by a terabyte of zeros."""
    with path.open("ab") as file:
        file.truncate(SPARSE_BYTES)


KINDS: dict[str, Callable[[Path], None]] = {
    "a FIFO": fifo,
    "a link to /dev/zero": endless_link,
    "a link to a FIFO": link_to_fifo,
    "a socket": bound_socket,
    "a folder": folder,
    "a terabyte": sparse,
    "a terabyte more": grown,
}
READING = [
    "status --json",
    "report --json",
    "report --bodies BODIES",
    "history --json",
    "verify --json",
    "check --json",
    "export --to OUT.csv",
    "show --versions",
    "show --json --status ok",
    "schedule --at 02:00 --as cron --key-file KEY",
]
SETTLING = "settle --only gateway --json"


@dataclass
class Folder:
    """A copy of a run folder with rows of every state, and its job."""

    job: Job
    output: Path

    def give(self, words: str, name: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Gives a command on the folder, or on `name`, in a child with 20 s of CPU and 1 GB."""
        verb, *options = words.split()
        spares = {"OUT.csv": "out.csv", "BODIES": "bodies", "KEY": "key"}
        options = [
            str(self.output.parent / spares.get(o, o)) if o in spares else o for o in options
        ]
        command = ["python", "-m", "pipeline", verb, str(name or self.output), *options]
        if name is not None:
            command += ["--output", str(self.output)]
        limits = {resource.RLIMIT_CPU: CPU_S, resource.RLIMIT_AS: MEMORY_BYTES}
        return shared_forks().run(command, self.job.environment(), WALL_S, limits)

    def assert_ends(self, words: str, name: Path | None = None) -> str:
        """Asserts a documented exit code and no traceback. Returns the printed text."""
        try:
            done = self.give(words, name)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{words}: hangs")
        said = done.stdout + done.stderr
        assert "Traceback" not in said, (words, said[-1500:])
        assert done.returncode in DOCUMENTED, (words, done.returncode, said[-1500:])
        return said


def in_every_way(body: bytes) -> Answer:
    if b"lost" in body:
        return 502, {}, b"<html>bad gateway</html>"
    if b"blocked" in body:
        error = (
            b'{"success": false, "error": "The request was blocked.", "code": "request_blocked"}'
        )
        return 400, {}, error
    return ok(body)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Job, Server]]:
    """A job whose rows are ok, failed, ambiguous and pending."""
    place = tmp_path_factory.mktemp("ran")
    with Server(in_every_way) as server:
        job = Job(place, place / "job.yaml", place / "sheet.csv", server.url)
        job.write_sheet(["story"], [["fine"], ["blocked"], ["lost"], ["left"]])
        job.write_spec(retries=0)
        job.run("--limit", "3", expect=5)
        yield job, server


@pytest.fixture
def hostile(ran: tuple[Job, Server], tmp_path: Path) -> Folder:
    job, _ = ran
    key = tmp_path / "key"
    key.write_text("sk_sandbox\n")
    key.chmod(0o600)
    return Folder(job, Path(shutil.copytree(job.output, tmp_path / "hostile")))


def plant(path: Path, kind: str) -> None:
    if kind != "a terabyte more":
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    elif path.is_dir():
        pytest.skip("a folder has no size")
    KINDS[kind](path)


# Every second file, and each kind at least once. The other pairs are long tests.
_USUAL = {
    (name, list(KINDS)[place % len(KINDS)]) for place, name in enumerate(FILES) if place % 2 == 0
}
PAIRS = [
    pytest.param(name, kind, marks=[] if (name, kind) in _USUAL else pytest.mark.long)
    for name in FILES
    for kind in KINDS
]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_no_command_hangs_on_a_file_of_the_folder_or_fills_the_memory(
    hostile: Folder, ran: tuple[Job, Server], name: str, kind: str
) -> None:
    """Whatever is in the place of the file. Nothing is sent either."""
    job, server = ran
    plant(hostile.output / name, kind)
    before = server.received.total()
    for words in READING:
        hostile.assert_ends(words, job.spec if name == "run.json" else None)
    hostile.assert_ends("status")
    hostile.assert_ends("status", job.spec)
    hostile.assert_ends(SETTLING)
    hostile.assert_ends("resume --only request_blocked --max-paid 0 --json", job.spec)
    assert server.received.total() == before


# -- run.json of the last run -------------------------------------------------------------

INJECTED = "\nExecStartPre=+/bin/sh -c evil\n"
DEEP = "[" * 200_000
NOTES = {
    "nothing": "",
    "a list": "[]",
    "nested deeply": DEEP,
    "nested deeply in a field": f'{{"job": {DEEP}',
    "not UTF-8": "\udcff",
    "an infinite number": '{"limit": Infinity}',
}
FIELDS: dict[str, list[object]] = {
    "job": [INJECTED, "job\x1b[2J", "../job", "", 7, None, ["job"], {"a": "job"}, "j" * 101],
    "spec": ["/x\nExecStart=evil", "/x\0", 7, ["/x"], {}, "", "x" * 100_000],
    "host": [7, ["sandbox"], "a\nb", {}],
    "run_id": [7, [], "a b", "x\ny", {"a": 1}],
    "limit": ["3", -1, 1.5, True, [], 10**400],
    "process": ["3", -1, 1.5, True, [], 10**400],
    "sending": [
        "--yes",
        {"--max-paid": "5"},
        ["--yes"],
        ["--accept-changes", "--yes"],
        [["--rate"], "5"],
        [7, 7],
        ["--max-paid", "many"],
        ["--rate", "nan"],
        ["--rate", "5\nevil"],
        ["--engine", "evil"],
        ["--workers", "9" * 5000],
    ],
}


@pytest.mark.parametrize("note", NOTES)
def test_a_run_json_that_is_not_json_is_refused_by_folder_and_ignored_by_job_file(
    hostile: Folder, ran: tuple[Job, Server], note: str
) -> None:
    """The file only names the job file, and the next run writes it again."""
    path = hostile.output / "run.json"
    path.write_text(NOTES[note], encoding="utf-8", errors="surrogateescape")
    for words in ("status", "schedule --at 02:00"):
        assert "It has no run.json that a run wrote" in hostile.assert_ends(words)
    assert "1 failed" in hostile.assert_ends("status", ran[0].spec)


@pytest.mark.parametrize("field", FIELDS)
def test_run_json_values_of_a_wrong_type_or_length_or_with_line_breaks_are_not_used(
    hostile: Folder, ran: tuple[Job, Server], field: str
) -> None:
    """For each field, each value. No command prints a line of it."""
    path = hostile.output / "run.json"
    about = json.loads(path.read_text())
    for value in FIELDS[field]:
        path.write_text(json.dumps(about | {field: value}))
        said = hostile.assert_ends("status --json")
        assert "this folder is not a run folder" in said, value
        said += hostile.assert_ends("status", ran[0].spec)
        for kind in ("systemd", "cron --key-file KEY"):
            said += hostile.assert_ends(f"schedule --at 02:00 --as {kind}")
            said += hostile.assert_ends(f"schedule --at 02:00 --as {kind}", ran[0].spec)
        assert not any(line.startswith("ExecStart") and "evil" in line for line in said.split("\n"))
        assert "--yes" not in said
        assert "\x1b" not in said


def test_a_job_name_in_run_json_cannot_add_lines_to_a_schedule(
    hostile: Folder, ran: tuple[Job, Server], tmp_path: Path
) -> None:
    """The attack: systemd would run the added line as root."""
    path = hostile.output / "run.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"job": f"job{INJECTED}"}))
    (tmp_path / ".git").mkdir()
    for kind in ("systemd", "cron --key-file KEY", "github"):
        done = hostile.give(f"schedule --at 02:00 --as {kind}")
        assert done.returncode == 2
        assert "evil" not in done.stdout


# -- addresses ----------------------------------------------------------------------------

READING_WITH_COMMANDS = ("status", "status --json", "report", "report --json", "check")


def commands_in(said: str) -> list[str]:
    return re.findall(r"pipeline (?:run|resume) [^\n\"]*", said)


def test_no_command_to_paste_takes_an_address_or_a_key_file_from_the_folder(
    hostile: Folder, ran: tuple[Job, Server], tmp_path: Path
) -> None:
    """A user who pastes it would send the key there. A sentence names the missing options."""
    path = hostile.output / "run.json"
    about = json.loads(path.read_text())
    evil = ["--base-url", "https://evil.example", "--key-file", "/evil/key"]
    more = ["--engine", "ray", "--ray-address", "ray://evil.example:1"]
    path.write_text(json.dumps(about | {"sending": [*evil, "--rate", "7", *more]}))
    for words in READING_WITH_COMMANDS:
        said = hostile.assert_ends(words)
        found = commands_in(said)
        assert found, words
        assert not any("evil" in one or "--base-url" in one or "-key" in one for one in found)
        assert any("--rate 7" in one for one in found)
        assert "/evil/key" not in said
        if "--json" not in words:
            assert "Add them yourself" in said
            assert "https://evil.example" in said
    page = (hostile.output / "report.html").read_text()
    assert "Add them yourself" in page
    assert not any("evil" in one for one in re.findall(r"<code>.*?</code>", page))
    status = json.loads(hostile.give("status --json").stdout)
    assert status["resume_needs"] == ["--base-url", "--key-file", "--ray-address"]


def test_an_address_that_the_environment_or_the_command_names_is_not_reported_as_missing(
    hostile: Folder, ran: tuple[Job, Server]
) -> None:
    """With AITUTOR_BASE_URL the command needs no option. `check --base-url` repeats its own."""
    _, server = ran
    path = hostile.output / "run.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"sending": ["--base-url", server.url]}))
    said = hostile.assert_ends("status")
    assert "Add them yourself" not in said
    assert json.loads(hostile.give("status --json").stdout)["resume_needs"] == []
    path.write_text(json.dumps(about | {"sending": ["--base-url", "https://evil.example"]}))
    said = hostile.assert_ends(f"check --base-url {server.url}")
    assert any(f"--base-url {server.url}" in one for one in commands_in(said))
    assert "evil" not in said


def test_a_pasted_command_without_its_address_pays_nothing(
    hostile: Folder, ran: tuple[Job, Server], tmp_path: Path
) -> None:
    """The folder belongs to its host. A run without the address is refused, one with it works."""
    _, server = ran
    place = tmp_path / "own"
    place.mkdir()
    own = Job(place, place / "job.yaml", place / "sheet.csv", "http://127.0.0.1:9")
    own.write_sheet(["story"], [["fine"], ["left"]])
    own.write_spec()
    first = own.run("--limit", "1", "--base-url", server.url)
    assert server.url in first["resume_command"]
    found = own.status()
    assert server.url not in found["resume_command"]
    before = server.received.total()
    refused = own.paste(found["resume_command"])
    assert refused.returncode == 2
    assert "belongs to" in refused.stderr
    assert server.received.total() == before
    assert own.paste(found["resume_command"], "--base-url", server.url).returncode == 0
    assert server.received.total() == before + 1


# -- the ledger ---------------------------------------------------------------------------

SEND_AGAIN = (
    "CREATE TRIGGER again AFTER UPDATE ON rows WHEN new.state = 'ok' BEGIN"
    " UPDATE rows SET state = 'pending' WHERE row_id = new.row_id; END"
)
ENDLESS = (
    "CREATE VIEW duplicates AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
    " SELECT i AS sheet_row, i AS first_row, x'00' AS sum FROM n"
)
CHANGES = {
    "a trigger": [SEND_AGAIN],
    "a view that never ends": ["DROP TABLE duplicates", ENDLESS],
    "a view more": ["CREATE VIEW more AS SELECT 1"],
    "a table more": ["CREATE TABLE more (x)"],
    "an index by an expression": ["CREATE INDEX more ON rows (row_sum(row_id))"],
    "an index less": ["DROP INDEX rows_known"],
    "a column more": ["ALTER TABLE rows ADD COLUMN more TEXT"],
    "a table less": ["DROP TABLE decisions"],
    "statistics": ["ANALYZE"],
    "version 0": ["PRAGMA user_version = 0"],
    "version -1": ["PRAGMA user_version = -1"],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_ledger_with_anything_except_its_tables_is_refused_before_anything_is_sent(
    hostile: Folder, ran: tuple[Job, Server], change: str
) -> None:
    """By every command, `run` included: a trigger could make the runner pay for rows again."""
    _, server = ran
    with contextlib.closing(connect(hostile.output / "ledger.sqlite", read_only=False)) as db:
        for statement in CHANGES[change]:
            db.execute(statement)
    before = server.received.total()
    sending = ["run --json", "resume --ambiguous --yes --json"]
    for words in [*READING[:5], *READING[6:7], SETTLING, *sending]:
        done = hostile.give(words)
        assert "Traceback" not in done.stderr, done.stderr[-1500:]
        assert done.returncode == 6, (words, done.stdout[-500:], done.stderr[-500:])
    # `check` reports that a run would be refused, and why.
    assert hostile.give("check --json").returncode in (2, 6)
    assert server.received.total() == before


def endless_pages(ledger: Path, table: str) -> None:
    """Puts ten levels of pages above a table's own page, each with 200 links to the next level."""
    with contextlib.closing(connect(ledger, read_only=False)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        query = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        [root] = db.execute(query, (table,)).fetchone()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(ledger.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    pages = len(content) // size
    leaf = bytes(content[(root - 1) * size : root * size])
    assert leaf[0] == 13, "the table has one page"
    content += leaf
    child = pages + 1
    for level in range(10):
        page = bytearray(size)
        cells = 200
        page[0] = 5
        page[3:5] = cells.to_bytes(2, "big")
        page[8:12] = child.to_bytes(4, "big")
        for number in range(cells):
            place = size - 5 * (number + 1)
            page[12 + 2 * number : 14 + 2 * number] = place.to_bytes(2, "big")
            page[place : place + 5] = child.to_bytes(4, "big") + b"\x01"
        page[5:7] = (size - 5 * cells).to_bytes(2, "big")
        if level == 9:
            content[(root - 1) * size : root * size] = page
        else:
            content += page
            child += 1
    content[28:32] = (len(content) // size).to_bytes(4, "big")
    ledger.write_bytes(content)


# Each command reads up to its bound, which takes seconds.
@pytest.mark.parametrize(
    ("table", "commands"),
    [
        ("pins", READING[:2]),
        *(
            pytest.param(name, [*READING, SETTLING], marks=pytest.mark.long)
            for name in ("pins", "runs", "rows", "attempts", "skipped_answers")
        ),
    ],
)
def test_pages_that_refer_to_each_other_endlessly_are_damage(
    hostile: Folder, ran: tuple[Job, Server], table: str, commands: list[str]
) -> None:
    """The tables are the right ones, but reading all their entries takes 200 ** 10 steps."""
    endless_pages(hostile.output / "ledger.sqlite", table)
    before = ran[1].received.total()
    for words in commands:
        hostile.assert_ends(words)
    assert hostile.give("verify").returncode == 6
    assert ran[1].received.total() == before


VALUES = {
    "runs.started_at": ["'soon'", "1e300", "-1e300", "x'00'"],
    "runs.finished_at": ["'late'", "9e999"],
    "runs.rows": ["'many'", "1e15", str(2**62)],
    "runs.run_id": ["x'ff00'", "7.5"],
    "runs.exit_code": ["'x'"],
    "rows.sheet_row": ["'../../x'", str(2**62), "-5", "9", "0"],
    "rows.code": ["char(10, 27) || '[2J'", "x'00'", "printf('%.100000c', 'x')"],
    "rows.state": ["'lost'", "x'00'", "7"],
    "attempts.sent_at": ["'now'", "1e300"],
    "attempts.http_status": ["'five'", str(2**62)],
    "attempts.latency_s": ["'x'", "9e999"],
    "attempts.maybe_paid": ["'yes'"],
    "attempts.message": ["x'00ff'"],
    "meta.value": ["x'00'"],
    "pins.settings": ["'[]'", "'{}'", f"'{'[' * 100_000}'"],
    "parts.name": ["'../../../etc/passwd'", "'/dev/zero'", "'part-1.parquet/../x'", "x'00'"],
    "parts.last_seq": [str(2**62), "'x'"],
}


# These run only in `make soak`. `make test` has a quicker case of the same table or type for each.
_LONG_VALUES = {
    *("rows.sheet_row", "runs.started_at", "runs.rows", "runs.run_id", "rows.code"),
    *("attempts.sent_at", "attempts.http_status", "parts.name"),
}


@pytest.mark.parametrize(
    "column", [pytest.param(c, marks=pytest.mark.long if c in _LONG_VALUES else ()) for c in VALUES]
)
def test_values_that_no_run_writes_are_damage_despite_correct_checksums(
    hostile: Folder, ran: tuple[Job, Server], column: str, tmp_path: Path
) -> None:
    """Anyone who can write to a ledger can write correct checksums."""
    table, name = column.split(".")
    original, before = hostile.output, ran[1].received.total()
    for number, value in enumerate(VALUES[column]):
        hostile.output = Path(shutil.copytree(original, tmp_path / f"copy-{number}"))
        with contextlib.closing(connect(hostile.output / "ledger.sqlite", read_only=False)) as db:
            db.execute(f"UPDATE {table} SET {name} = {value}")
        for words in READING:
            said = hostile.assert_ends(words)
            assert "\x1b" not in said
        hostile.assert_ends(SETTLING)
    assert ran[1].received.total() == before


def test_names_of_parts_lead_to_no_file_outside_the_results(
    hostile: Folder, ran: tuple[Job, Server], tmp_path: Path
) -> None:
    """The next command writes an unsealed part, so a name with a path could overwrite any file."""
    target = tmp_path / "precious.parquet"
    target.write_bytes(b"precious")
    with contextlib.closing(connect(hostile.output / "ledger.sqlite", read_only=False)) as db:
        db.execute("UPDATE parts SET name = ?, sealed = 0", (f"../../{target.name}",))
    for words in (*READING, SETTLING, "run --max-paid 0 --json"):
        hostile.assert_ends(words)
    assert hostile.give("run --max-paid 0 --json").returncode == 6
    assert target.read_bytes() == b"precious"


# -- codes --------------------------------------------------------------------------------

MADE_UP = 3000


def test_thousands_of_invented_codes_give_few_lines_and_series_that_add_up(
    tmp_path: Path,
) -> None:
    """A server can name another code for each row. The terminal, the report and the monitor stay
    readable."""

    def make_up(body: bytes) -> Answer:
        code = json.loads(body)["story"]
        return 400, {}, json.dumps({"success": False, "error": "No.", "code": code}).encode()

    with Server(make_up) as server:
        job = Job(tmp_path, tmp_path / "job.yaml", tmp_path / "sheet.csv", server.url)
        rows = [["alike"]] * 5 + [[f"made-up-{n}"] for n in range(MADE_UP)]
        job.write_sheet(["story"], rows)
        textfile = tmp_path / "made_up.prom"
        job.write_spec(notify={"textfile": str(textfile)}, retries=0)
        found = job.run(expect=3)
        assert server.received.total() == len(rows)
    assert sum(found["by_code"].values()) == len(rows)
    series = [line for line in textfile.read_text().splitlines() if 'code="' in line]
    assert len(series) == 21
    assert sum(int(line.rsplit(" ", 1)[1]) for line in series) == len(rows)
    status = job.call("status").stdout
    assert len(status.splitlines()) < 40
    assert sum(map(int, re.findall(r"^ +(\d+)  \S+$", status, re.MULTILINE))) == len(rows)
    report = job.call("report").stdout
    assert len(report.splitlines()) < 200
    assert max(map(len, report.splitlines())) < 3000
    groups = [int(n) for n in re.findall(r"^(\d+) failed ", report, re.MULTILINE)]
    [left] = re.findall(r"^And (\d+) rows of \d+ more codes", report, re.MULTILINE)
    assert sum(groups) + int(left) == len(rows)
    assert found["resume_command"].count(",") < 20


# -- Parquet files of another person --------------------------------------------------------

TABLES = {
    "other columns": pa.table({"x": [1, 2]}),
    "no columns": pa.table({}),
    "other types": pa.table({name: ["x"] for name in RESULTS_SCHEMA.names}),
    "more rows": None,
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_part_with_wrong_columns_is_damage_although_the_ledger_has_its_checksum(
    hostile: Folder, kind: str
) -> None:
    """Another person may have written the checksum, too."""
    [part] = (hostile.output / "results").glob("part-*1.parquet")
    table = TABLES[kind]
    pq.write_table(pa.concat_tables([pq.read_table(part)] * 3) if table is None else table, part)
    sha256 = hashlib.sha256(part.read_bytes()).hexdigest()
    with contextlib.closing(connect(hostile.output / "ledger.sqlite", read_only=False)) as db:
        db.execute("UPDATE parts SET sha256 = ?", (sha256,))
    for words in READING:
        hostile.assert_ends(words)
    assert hostile.give("export --to OUT.csv").returncode == 6
    assert hostile.give("show").returncode == 6


@pytest.mark.parametrize("kind", ["other columns", "columns that are no names", "nested deeply"])
def test_a_sheet_copy_with_wrong_columns_is_damage_although_the_ledger_has_its_checksum(
    hostile: Folder, kind: str
) -> None:
    """Its metadata name its columns."""
    copy = hostile.output / "input.parquet"
    table = pq.read_table(copy)
    [(name, about)] = [(k, v) for k, v in table.schema.metadata.items() if b"snapshot_id" in v]
    told = json.loads(about)
    if kind == "columns that are no names":
        told["columns"] = [7, None]
    text = DEEP if kind == "nested deeply" else json.dumps(told)
    if kind == "other columns":
        table = table.select(["row"])
    pq.write_table(table.replace_schema_metadata({name: text.encode()}), copy)
    sha256 = hashlib.sha256(copy.read_bytes()).hexdigest()
    with contextlib.closing(connect(hostile.output / "ledger.sqlite", read_only=False)) as db:
        db.execute("UPDATE meta SET value = ? WHERE name = 'snapshot_sha256'", (sha256,))
    for words in [*READING, SETTLING]:
        hostile.assert_ends(words)
    assert hostile.give("verify").returncode == 6
