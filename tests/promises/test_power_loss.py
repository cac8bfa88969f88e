"""Power loss: a resume from each content that a disk may show at any moment of a real run.

Each such content is a survivor. The resume finds every row that a listener heard of, and sends
no request again. The sandbox's book, emptied before, shows what the resume sends.

In some tests a kill comes before the power cut. Changes that the killed process had not synced are
visible to the next run, and disappear in the cut unless that run has synced them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Job, SandboxProcess
from tests.support.disk import STRACE, Call, Disk, read_trace, restore
from tests.support.forks import Forks, forking

ROWS = [[f"story number {n}" + " and so on" * 60] for n in range(16)]
_BODY = re.compile(rb'\{"story":"[^"]*"\}')

# Does runs with these limits. A listener writes each answer that it hears of to a file.
TRACED = """
import os, sys
from pathlib import Path
import pipeline
from pipeline.core.events import AttemptEnded
from pipeline.planning.plan import Selection

told = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def listen(event):
    if isinstance(event, AttemptEnded) and event.state == "ok":
        os.write(told, event.row.body)

for limit in map(int, sys.argv[3:]):
    pipeline.run_job(Path(sys.argv[1]), selection=Selection(limit=limit), listeners=(listen,))
"""
# Two runs, so that the second one finds a sealed part.
LIMITS = (6, len(ROWS))


@dataclass(frozen=True)
class Moment:
    """A content that the disk may show, and the answers told and requests sent until then."""

    survivor: dict[str, bytes | None]
    told: frozenset[bytes]
    sent: frozenset[bytes]


@dataclass
class History:
    """The changes of a disk so far, and the answers told and requests sent meanwhile."""

    disk: Disk
    told: set[bytes] = field(default_factory=set)
    sent: set[bytes] = field(default_factory=set)

    def follow(self, call: Call) -> bool:
        """Processes one system call. Returns whether the disk may show something else now."""
        bodies = _BODY.findall(call.texts[0]) if call.texts else []
        if call.name in ("sendto", "sendmsg"):
            self.sent.update(bodies)
            return False
        # The first text of a write is the written content.
        if call.name == "write" and bodies and call.texts[0] == bodies[0]:
            self.told.update(bodies)
            return False
        return self.disk.follow(call)

    def moments(self, traced: Path, odd: int | None) -> Iterator[Moment]:
        """Yields each different content that the disk may show between two calls of a trace.

        With None for `odd`, only the contents that it must show.
        """
        chance = random.Random(3)
        seen: set[bytes] = set()
        for call in read_trace(traced):
            if not self.follow(call):
                continue
            survivors = self.disk.survivors(chance, odd or 0)
            for survivor in islice(survivors, 1 if odd is None else None):
                shown = (sorted(survivor.items()), sorted(self.told))
                digest = hashlib.sha256(repr(shown).encode()).digest()
                if digest not in seen:
                    seen.add(digest)
                    yield Moment(survivor, frozenset(self.told), frozenset(self.sent))

    def killed(self) -> History:
        """Returns the history after a kill of the process. Its changes are there, but only the
        synced ones are on disk. Does not change this object."""
        after = copy.deepcopy(self)
        after.disk.close_all()
        return after


def trace(job: Job, *limits: int) -> Path:
    """Starts one run after the other under strace. Returns the file with their system calls."""
    out = job.folder / "trace.txt"
    told = job.folder.parent / "told"
    words = [str(job.spec), str(told), *map(str, limits)]
    done = subprocess.run(
        [*STRACE, "-o", str(out), sys.executable, "-c", TRACED, *words],
        env=job.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def resume(moment: Moment, job: Job, sandbox: SandboxProcess, forks: Forks) -> None:
    """Restores the disk, gives the same command again, and compares with the book."""
    put_back(moment.survivor, job)
    forget(sandbox)
    code = forks.call("run", str(job.spec), "--rate", "5000", "--quiet")
    assert code in (0, 5), forks.complained
    billed = {body.encode() for body, times in sandbox.billed().items() if times}
    assert not billed & moment.sent
    results = pd.read_parquet(job.results)
    kept = {body.encode() for body in results["variables"]}
    assert moment.told <= kept
    assert not results["row_key"].duplicated().any()
    for body, result in zip(results["variables"], results["result"], strict=True):
        assert json.loads(body)["story"] in result
    summary = json.loads((job.output / "summary.json").read_text())
    assert summary["ok"] + summary["ambiguous"] == len(ROWS)
    assert summary["ok"] == len(kept)


def forget(sandbox: SandboxProcess) -> None:
    """Empties the book."""
    request = urllib.request.Request(f"{sandbox.url}/_sandbox/bills", method="DELETE")
    urllib.request.urlopen(request, timeout=10).close()


def put_back(survivor: dict[str, bytes | None], job: Job) -> None:
    """Restores the run folder as a disk shows it."""
    shutil.rmtree(job.folder / "runs", ignore_errors=True)
    restore(survivor, job.folder)


def attack(job: Job, sandbox: SandboxProcess, odd: int, every: int) -> int:
    """Resumes from every `every`-th survivor, from a random one on. Returns how many it tried."""
    with forking(job.folder.parent, job.environment()) as forks:
        moments = History(Disk(job.folder)).moments(trace(job, *LIMITS), odd)
        return resume_some(moments, every, job, sandbox, forks)


def resume_some(
    moments: Iterator[Moment], every: int, job: Job, sandbox: SandboxProcess, forks: Forks
) -> int:
    tried, first = 0, random.randrange(every)  # other survivors each time
    for number, moment in enumerate(moments):
        if number % every == first:
            resume(moment, job, sandbox, forks)
            tried += 1
    return tried


def attack_after_kills(
    job: Job, sandbox: SandboxProcess, killed_at: Callable[[int, Call], bool], every: int
) -> int:
    """Kills the run at the calls that `killed_at` chooses, continues with another run, and cuts the
    power in that one. Returns how many survivors it tried."""
    first = History(Disk(job.folder))
    calls = list(read_trace(trace(job, *LIMITS)))
    tried = 0
    with forking(job.folder.parent, job.environment()) as forks:
        for number, call in enumerate(calls):
            first.follow(call)
            if not killed_at(number, call):
                continue
            after = first.killed()
            put_back(after.disk.shown(), job)
            # One run that only continues. Its listener does not hear of earlier answers.
            traced = trace(job, len(ROWS))
            tried += resume_some(after.moments(traced, None), every, job, sandbox, forks)
    return tried


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_after_a_power_cut_every_reported_row_is_there_and_none_is_sent_twice(sandbox, make_job):
    """For some of the contents that a disk may show."""
    job = make_job(sandbox.url, rows=ROWS, concurrency=3, rate=200)
    assert attack(job, sandbox, odd=1, every=47) > 8


@pytest.mark.long(first=True)
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_after_a_power_cut_at_any_moment_nothing_is_lost_or_sent_twice(sandbox, make_job):
    """For a fifth of all survivors, with four mixtures for each moment."""
    job = make_job(sandbox.url, rows=ROWS, concurrency=3, rate=200)
    tried = attack(job, sandbox, odd=4, every=5)
    print(f"resumed from {tried} survivors")


KILLS = {
    "the folder is made": ("mkdir", b"runs/job/results"),
    "a part is renamed": ("rename", b"results/.part-00001.parquet"),
}


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("step", KILLS)
def test_a_run_after_a_kill_first_syncs_the_changes_of_the_killed_run(sandbox, make_job, step):
    """After a kill a rename or a new folder is visible, but may not be on disk yet. A power cut in
    the next run must not undo it after that run has relied on it."""
    job = make_job(sandbox.url, rows=ROWS, concurrency=3, rate=200)
    name, place = KILLS[step]
    killed: list[int] = []

    def killed_at(number: int, call: Call) -> bool:
        if killed or call.name != name or not call.texts[0].endswith(place):
            return False
        killed.append(number)
        return True

    # How many commits a run groups depends on the disk: 5 to 10 survivors here.
    assert attack_after_kills(job, sandbox, killed_at, every=5) >= 3
    assert killed


@pytest.mark.long(first=True)
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_after_a_kill_at_any_call_and_a_power_cut_nothing_is_lost_or_sent_twice(sandbox, make_job):
    """At each call that makes, renames, removes or syncs a file, and every 37th moment after it."""
    job = make_job(sandbox.url, rows=ROWS, concurrency=3, rate=200)
    chosen = ("mkdir", "rename", "unlink", "fsync", "openat")

    def killed_at(number: int, call: Call) -> bool:
        ours = any(text.startswith(str(job.folder).encode()) for text in call.texts)
        made = call.name != "openat" or any("O_CREAT" in word for word in call.words)
        return call.name in chosen and made and (ours or call.name == "fsync")

    tried = attack_after_kills(job, sandbox, killed_at, every=37)
    print(f"resumed from {tried} survivors")
