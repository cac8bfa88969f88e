"""Opens .ods, .xls and .xlsb workbooks with the library calamine, in another process."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any

from pipeline.core.errors import Refused
from pipeline.inputs.disguise import refuse_disguised
from pipeline.inputs.table import Table
from pipeline.inputs.xlsx.areas import Area
from pipeline.inputs.xlsx.cells import SheetRow
from pipeline.inputs.xlsx.reader import Worksheet, choose_sheet, open_worksheet
from pipeline.job.spec import JobSpec
from pipeline.system.children import start_python

_MANY_ROWS = 100_000
_ROWS_PER_BYTE = 1
_MODULE = "pipeline.inputs.calamine_process"
_SAVE = "Open it in Excel or LibreOffice and save it as .xlsx."


def open_calamine(spec: JobSpec) -> Table:
    """Opens a workbook of another kind than .xlsx. Its number formats are not known, so zip codes
    lose their zeros. Errors and formulas without a value are empty cells.

    Raises:
        Refused: if the file is of another kind than its ending says, or the library is missing.
    """
    refuse_disguised(spec.file)
    if importlib.util.find_spec("python_calamine") is None:
        raise Refused(
            f"{spec.file}: for {spec.file.suffix} files the runner needs a package that is not "
            "installed (python-calamine). Install it with `pip install 'paidrows[xls]'`, or save "
            "the workbook as .xlsx."
        )
    return open_worksheet(spec, _reading)


@contextlib.contextmanager
def _reading(spec: JobSpec, _: object) -> Iterator[Worksheet]:
    process = start_python(_MODULE, str(spec.file.absolute()))
    try:
        answer = partial(_answer, spec.file, process)
        sheets = [(name, visible) for name, visible in answer()["sheets"]]
        shown = [name for name, visible in sheets if visible]
        name = choose_sheet(spec, [name for name, _ in sheets], shown)
        assert process.stdin is not None
        process.stdin.write(f"{json.dumps(name)}\n".encode())
        process.stdin.flush()
        merged = [Area(*corners) for corners in answer()]
        rows = iter(answer, "end")
        yield Worksheet(
            spec,
            name,
            _bounded(spec.file, rows),
            merged,
        )
    finally:
        process.kill()
        process.communicate()


def _bounded(path: Path, rows: Iterator[Any]) -> Iterator[SheetRow]:
    """The rows, unless a small file becomes very many: one row can be repeated a million times."""
    most = max(_MANY_ROWS, _ROWS_PER_BYTE * path.stat().st_size)
    for count, (number, cells) in enumerate(rows, start=1):
        if count > most:
            raise Refused(
                f"{path}: its {path.stat().st_size:,} bytes would become over {most:,} rows, far "
                f"more than in a real sheet. {_SAVE}"
            )
        yield SheetRow(number, list(map(tuple, cells)))


def _answer(path: Path, process: Popen[bytes]) -> Any:
    """Returns the next value that the process prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        raise Refused(f"{path}: the workbook needs too much memory or time to be read. {_SAVE}")
    answer = json.loads(line)
    if isinstance(answer, dict) and "error" in answer:
        if answer["error"] == "password":
            raise Refused(
                f"{path}: the workbook is protected by a password. Save a copy without one."
            )
        raise Refused(
            f"{path}: the file is not readable as a workbook ({answer['error']}). {_SAVE}"
        )
    return answer
