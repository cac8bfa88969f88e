"""A run folder that comes from somebody else: no command hangs on it, fills the memory, or ends in
a traceback.

Each file of the folder is replaced by each kind of thing that a reader can wait for without end,
or that is larger than any memory. A child with limits of its own then gives each command.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Job, shared_forks
from tests.servers import Answer, Server, ok

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
    "results/part-00000.parquet",
    "results/part-00001.parquet",
    "report.html",
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
    """What was there, and a terabyte of nothing behind it."""
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
    "schedule --at 02:00 --as cron --key-file KEY",
]
SETTLING = "settle --only gateway --json"


@dataclass
class Folder:
    """A copy of a run folder with rows of every kind, and the spec of its job."""

    job: Job
    output: Path

    def give(self, words: str, name: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A command on it, in a child that gets 20 s of CPU and 1 GB; by its spec, or as `name`."""
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
        """With a documented exit code, and without a traceback. What it said."""
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_no_command_hangs_on_a_file_of_the_folder_or_fills_the_memory(
    hostile: Folder, ran: tuple[Job, Server], name: str, kind: str
) -> None:
    """Whatever has the place of the file. Nothing is sent either."""
    job, server = ran
    plant(hostile.output / name, kind)
    before = server.received.total()
    for words in READING:
        for of in (None, job.spec):
            hostile.assert_ends(words, of)
    hostile.assert_ends(SETTLING)
    hostile.assert_ends("resume --only request_blocked --max-paid 0 --json", job.spec)
    assert server.received.total() == before
