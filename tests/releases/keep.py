"""Jobs as this release leaves them, for the tests of later ones: tests/releases/VERSION.tar.gz was
killed, tests/releases/workbooks/VERSION.tar.gz has a workbook and rows to be asked again.

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
import zipfile
from pathlib import Path

import openpyxl

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
WORKBOOK_SPEC = """\
name: tales
workflow: wf_prices
input: tales.xlsx
variables: {price: Price, note: Note}
output: kept
"""
PRICES = (0.1 + 0.2, 1.5, 3.3000000000000003, 7, 1234567.1)
NOTES = ("plain", "plain", "plain", "lost #fault:html-504-billed", "plain")
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


def make_workbook(folder: Path) -> None:
    """All rows ok but one ambiguous one, two of them marked to be asked again and not sent yet."""
    folder.mkdir(parents=True)
    (folder / "tales.yaml").write_text(WORKBOOK_SPEC, encoding="utf-8")
    workbook = openpyxl.Workbook()
    for cells in [("Price", "Note"), *zip(PRICES, NOTES, strict=True)]:
        workbook.active.append(cells)
    workbook.save(folder / "tales.xlsx")
    _write_as_excel_does(folder / "tales.xlsx")
    for options, code in (([], 5), (["--again", "1,3", "--yes", "--max-paid", "0"], 4)):
        command = [sys.executable, "-m", "pipeline", "run", "tales.yaml", "--sandbox", *options]
        done = subprocess.run(command, cwd=folder, env=_environment(folder), check=False)
        assert done.returncode == code, done.returncode


def _write_as_excel_does(path: Path) -> None:
    """With 17 digits: openpyxl writes 16."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    for price in PRICES:
        cell = f"<v>{price:.16g}</v>".encode()
        parts[sheet] = parts[sheet].replace(cell, f"<v>{price!r}</v>".encode())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)


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
    for kind, into in ((make, ""), (make_workbook, "workbooks")):
        kind(where)
        archive = Path(__file__).parent / into / f"{pipeline.__version__}.tar.gz"
        if not archive.exists():
            archive.parent.mkdir(exist_ok=True)
            pack(where, archive)
        shutil.rmtree(where)
