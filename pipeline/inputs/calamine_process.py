"""Reads one worksheet of an .ods, .xls or .xlsb file with calamine, as a process.

calamine has the whole worksheet in memory, with a place for every cell up to the last one. A small
file can name a cell in the last row and column. So the kernel bounds the memory and the time of
this process, which ends without an answer if the file needs more.

It prints one JSON value per line: the worksheets, and after the name of one on stdin its merged
ranges, and then each row with text as [row number, [[column, text], …]].
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import Any

from pipeline.inputs.values import boolean_text, elapsed_text, iso_text, literal_text

MEMORY_BYTES = 400 << 20
CPU_SECONDS = 8
_SIGNIFICANT = 15


def main(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    import python_calamine

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        with python_calamine.CalamineWorkbook.from_path(path) as workbook:
            worksheet = python_calamine.SheetTypeEnum.WorkSheet
            visible = python_calamine.SheetVisibleEnum.Visible
            _say(
                {
                    "sheets": [
                        [sheet.name, sheet.visible == visible]
                        for sheet in workbook.sheets_metadata
                        if sheet.typ == worksheet
                    ]
                }
            )
            name = sys.stdin.readline()
            if name:
                for line in _lines(workbook.get_sheet_by_name(json.loads(name))):
                    _say(line)
    except python_calamine.PasswordError:
        _say({"error": "password"})
    except (python_calamine.CalamineError, OSError, ValueError, OverflowError) as error:
        _say({"error": str(error) or type(error).__name__})


def _lines(sheet: Any) -> Iterator[Any]:
    # Both ends included, and counted from 1 as in a spreadsheet.
    yield [
        [top + 1, left + 1, bottom + 1, right + 1]
        for (top, left), (bottom, right) in sheet.merged_cell_ranges or ()
    ]
    if sheet.start is not None:
        top, left = sheet.start
        for number, values in enumerate(sheet.iter_rows(), start=top + 1):
            cells = [
                [column, text]
                for column, value in enumerate(values, start=left + 1)
                if value != "" and (text := text_of(value))
            ]
            if cells:
                yield [number, cells]
    yield "end"


def text_of(value: object) -> str:
    """Returns the text of a cell, by the rules for .xlsx. calamine knows no number formats, and
    gives an empty text for an error and for a formula without a value."""
    if isinstance(value, bool):
        return boolean_text(value)
    if isinstance(value, int | float):
        return literal_text(repr(value), _SIGNIFICANT) or ""
    if isinstance(value, timedelta):
        return elapsed_text(value)
    if isinstance(value, datetime | date | time):
        return iso_text(value)
    return str(value)


def _say(value: Any) -> None:
    print(json.dumps(value), flush=not isinstance(value, list))


if __name__ == "__main__":
    main(sys.argv[1])
