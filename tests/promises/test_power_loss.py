"""Power loss: what a disk may show at any moment of a real run, and a resume from each of that.

A row that a listener was told of is recovered from every survivor, and nothing that had been sent
is sent again. What the resume sends is what the sandbox's book says, which is emptied before it.

A kill comes before the power cut in some of them: what a killed process did and had not synced yet
is there for the next run, and is gone after the cut unless that run synced it.
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

# Runs with these limits; each answer that is told goes to a file.
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
    """A disk as it may be found, what had been told by then and what had been sent."""

    survivor: dict[str, bytes | None]
    told: frozenset[bytes]
    sent: frozenset[bytes]


@dataclass
class History:
    """What a disk went through so far, what was told and what was sent meanwhile."""

    disk: Disk
    told: set[bytes] = field(default_factory=set)
    sent: set[bytes] = field(default_factory=set)

    def follow(self, call: Call) -> bool:
        """Takes in one call; whether the disk may show something else now."""
        bodies = _BODY.findall(call.texts[0]) if call.texts else []
        if call.name in ("sendto", "sendmsg"):
            self.sent.update(bodies)
            return False
        # The first text of a write is what it wrote.
        if call.name == "write" and bodies and call.texts[0] == bodies[0]:
            self.told.update(bodies)
            return False
        return self.disk.follow(call)

    def moments(self, traced: Path, odd: int | None) -> Iterator[Moment]:
        """Each different thing that the disk may show between two calls of a trace; with None for
        `odd` only what it must show."""
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
        """The same once the process was killed: what it did is there, and synced as far as it was.
        This one stays as it is."""
        after = copy.deepcopy(self)
        after.disk.close_all()
        return after


def trace(job: Job, *limits: int) -> Path:
    """Runs under strace, one after the other; the file that holds what they did."""
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
    """Puts the disk back, gives the same command again, and holds it against the book."""
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
    """The run folder as a disk shows it."""
    shutil.rmtree(job.folder / "runs", ignore_errors=True)
    restore(survivor, job.folder)


def attack(job: Job, sandbox: SandboxProcess, odd: int, every: int) -> int:
    """Resumes from every `every`-th survivor, begun at random; how many those are."""
    with forking(job.folder.parent, job.environment()) as forks:
        moments = History(Disk(job.folder)).moments(trace(job, *LIMITS), odd)
        return resume_some(moments, every, job, sandbox, forks)


def resume_some(
    moments: Iterator[Moment], every: int, job: Job, sandbox: SandboxProcess, forks: Forks
) -> int:
    tried, first = 0, random.randrange(every)  # other ones each time
    for number, moment in enumerate(moments):
        if number % every == first:
            resume(moment, job, sandbox, forks)
            tried += 1
    return tried


def attack_after_kills(
    job: Job, sandbox: SandboxProcess, killed_at: Callable[[int, Call], bool], every: int
) -> int:
    """Kills the run at the calls that `killed_at` chooses, lets another one go on from there, and
    cuts the power in that one. How many survivors were resumed from."""
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
            # A run that does nothing but go on; a listener is told nothing of earlier answers.
            traced = trace(job, len(ROWS))
            tried += resume_some(after.moments(traced, None), every, job, sandbox, forks)
    return tried


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_after_a_power_cut_what_was_told_is_there_and_nothing_is_sent_twice(sandbox, make_job):
    """Some of what a disk may show."""
    job = make_job(sandbox.url, rows=ROWS, concurrency=3, rate=200)
    assert attack(job, sandbox, odd=1, every=47) > 8


@pytest.mark.long(first=True)
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_after_a_power_cut_at_any_moment_nothing_is_lost_or_sent_twice(sandbox, make_job):
    """A fifth of all survivors, of four mixtures for each moment."""
    job = make_job(sandbox.url, rows=ROWS, concurrency=3, rate=200)
    tried = attack(job, sandbox, odd=4, every=5)
    print(f"resumed from {tried} survivors")


KILLS = {
    "the folder is made": ("mkdir", b"runs/job/results"),
    "a part is renamed": ("rename", b"results/.part-00001.parquet"),
}


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("step", KILLS)
def test_a_run_goes_on_from_a_kill_only_once_it_has_synced_what_the_killed_one_did(
    sandbox, make_job, step
):
    """A kill leaves a rename or a folder that is there and not on the disk yet. A power cut in the
    next run must not take it back after that run relied on it."""
    job = make_job(sandbox.url, rows=ROWS, concurrency=3, rate=200)
    name, place = KILLS[step]
    killed: list[int] = []

    def killed_at(number: int, call: Call) -> bool:
        if killed or call.name != name or not call.texts[0].endswith(place):
            return False
        killed.append(number)
        return True

    assert attack_after_kills(job, sandbox, killed_at, every=7) > 3
    assert killed


@pytest.mark.long(first=True)
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_after_a_kill_at_any_call_and_a_power_cut_nothing_is_lost_or_sent_twice(sandbox, make_job):
    """Each call that makes, renames, removes or syncs a name, and every 37th moment after."""
    job = make_job(sandbox.url, rows=ROWS, concurrency=3, rate=200)
    chosen = ("mkdir", "rename", "unlink", "fsync", "openat")

    def killed_at(number: int, call: Call) -> bool:
        ours = any(text.startswith(str(job.folder).encode()) for text in call.texts)
        made = call.name != "openat" or any("O_CREAT" in word for word in call.words)
        return call.name in chosen and made and (ours or call.name == "fsync")

    tried = attack_after_kills(job, sandbox, killed_at, every=37)
    print(f"resumed from {tried} survivors")
