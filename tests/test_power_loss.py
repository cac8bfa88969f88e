"""Power loss: what a disk may show at any moment of a real run, and a resume from each of that.

A row that a listener was told of is recovered from every survivor, and nothing that had been sent
is sent again. What the resume sends is what the sandbox's book says, which is emptied before it.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Job, SandboxProcess
from tests.disk import STRACE, Call, Disk, read_trace, restore
from tests.forks import Forks, forking

ROWS = [[f"story number {n}" + " and so on" * 60] for n in range(16)]
_BODY = re.compile(rb'\{"story":"[^"]*"\}')

# Two runs, so that the second one finds a sealed part; each answer that is told goes to a file.
TRACED = """
import os, sys
from pathlib import Path
import pipeline
from pipeline.events import AttemptEnded
from pipeline.plan import Selection

told = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def listen(event):
    if isinstance(event, AttemptEnded) and event.state == "ok":
        os.write(told, event.row.body)

for limit in (6, None):
    pipeline.run_job(Path(sys.argv[1]), selection=Selection(limit=limit), listeners=(listen,))
"""


@dataclass(frozen=True)
class Moment:
    """A disk as it may be found, what had been told by then and what had been sent."""

    survivor: dict[str, bytes | None]
    told: frozenset[bytes]
    sent: frozenset[bytes]


def trace(job: Job) -> Path:
    """Two runs under strace; the file that holds what they did."""
    out = job.folder / "trace.txt"
    told = job.folder.parent / "told"
    done = subprocess.run(
        [*STRACE, "-o", str(out), sys.executable, "-c", TRACED, str(job.spec), str(told)],
        env=job.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def moments(job: Job, traced: Path, odd: int) -> Iterator[Moment]:
    """Each different thing that the disk may show between two calls."""
    disk, chance = Disk(job.folder), random.Random(3)
    told: set[bytes] = set()
    sent: set[bytes] = set()
    seen: set[bytes] = set()
    for call in read_trace(traced):
        if _note(call, told, sent) or not disk.follow(call):
            continue
        for survivor in disk.survivors(chance, odd):
            digest = hashlib.sha256(repr((sorted(survivor.items()), sorted(told))).encode())
            if digest.digest() not in seen:
                seen.add(digest.digest())
                yield Moment(survivor, frozenset(told), frozenset(sent))


def _note(call: Call, told: set[bytes], sent: set[bytes]) -> bool:
    """Whether the call told of a row or sent one; the first text of a write is what it wrote."""
    bodies = _BODY.findall(call.texts[0]) if call.texts else []
    if call.name in ("sendto", "sendmsg"):
        sent.update(bodies)
        return True
    if call.name == "write" and bodies and call.texts[0] == bodies[0]:
        told.update(bodies)
        return True
    return False


def resume(moment: Moment, job: Job, sandbox: SandboxProcess, forks: Forks) -> None:
    """Puts the disk back, gives the same command again, and holds it against the book."""
    shutil.rmtree(job.folder / "runs", ignore_errors=True)
    restore(moment.survivor, job.folder)
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


def attack(job: Job, sandbox: SandboxProcess, odd: int, every: int) -> int:
    """Resumes from every `every`-th survivor; how many those are."""
    tried = 0
    with forking(job.folder.parent, job.environment()) as forks:
        for number, moment in enumerate(moments(job, trace(job), odd)):
            if number % every == 0:
                resume(moment, job, sandbox, forks)
                tried += 1
    return tried


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_after_a_power_cut_what_was_told_is_there_and_nothing_is_sent_twice(sandbox, make_job):
    """Some of what a disk may show."""
    job = make_job(sandbox.url, rows=ROWS, concurrency=3, rate=200)
    assert attack(job, sandbox, odd=1, every=47) > 8


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_after_a_power_cut_at_every_moment_nothing_is_lost_or_sent_twice(sandbox, make_job):
    """All of it, with four mixtures for each moment."""
    job = make_job(sandbox.url, rows=ROWS, concurrency=3, rate=200)
    tried = attack(job, sandbox, odd=4, every=1)
    print(f"resumed from {tried} survivors")
