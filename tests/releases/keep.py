"""A job as this release leaves it, for the tests of later ones: tests/releases/VERSION.tar.gz.

    python tests/releases/keep.py FOLDER

Done for each release that changes what a run folder holds, and never again for one that is out.
FOLDER must not exist; its path is in what is kept, so it says nothing of a machine: /srv/jobs.
"""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pipeline

SPEC = """\
name: tales
workflow: wf_tales
input: tales.csv
variables: {story: Idea}
constants: {tone: warm}
id: Tale
output: kept
"""
IDEAS = (
    "A keeper and her lamp",
    "Three sources #fault:citations-objects",
    "#fault:blocked",
    "Ünïcode, “quotes”, 🙂 and 00123",
    # the second part
    "A clock that runs backwards",
    "#fault:html-504-billed",
    "#fault:json-500",
    # on the way, and answered and in no part yet, when the runner is killed
    "#fault:silent-billed",
    "A bridge that hums",
    # never sent
    "The last tram",
    "The first snow",
)
ENDS = {4: 3, 7: 5}
"""The rows of the sheet that a run is given, and how it ends."""


def make(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "tales.yaml").write_text(SPEC, encoding="utf-8")
    with (folder / "tales.csv").open("w", encoding="utf-8", newline="") as sheet:
        csv.writer(sheet).writerows(
            [("Tale", "Idea"), *((f"T{n}", i) for n, i in enumerate(IDEAS, 1))]
        )
    for end, code in ENDS.items():
        done = subprocess.run(_run(end), cwd=folder, env=_environment(folder), check=False)
        assert done.returncode == code
    killed = subprocess.Popen(_run(9), cwd=folder, env=_environment(folder))
    job = pipeline.find_job(folder / "tales.yaml", sandbox=True)
    while pipeline.read_status(job).summary.ok < 5:
        assert killed.poll() is None
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(2)  # its sandbox ends with it


def pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz", compresslevel=9) as file:
        for path in sorted(folder.rglob("*")):
            # Those hold nothing: room on the disk, shared memory of the killed process.
            left_out = path.name == ".reserve" or path.name.endswith("-shm")
            if path.is_file() and not left_out and "cache" not in path.parts:
                about = file.gettarinfo(path, str(path.relative_to(folder)))
                about.uid = about.gid = 0
                about.uname = about.gname = ""
                with path.open("rb") as content:
                    file.addfile(about, content)


def _run(end: int) -> list[str]:
    options = ["--sandbox", "--json", "--limit", str(end)]
    return [sys.executable, "-m", "pipeline", "run", "tales.yaml", *options]


def _environment(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AITUTOR_")}
    return kept | {"XDG_CACHE_HOME": str(folder / "cache")}


if __name__ == "__main__":
    where = Path(sys.argv[1])
    make(where)
    pack(where, Path(__file__).with_name(f"{pipeline.__version__}.tar.gz"))
    shutil.rmtree(where)
