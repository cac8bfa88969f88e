"""Opens a sheet of any kind, and refuses other files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from pipeline.core.errors import Refused
from pipeline.core.wording import nearest
from pipeline.inputs.mapping import used_columns
from pipeline.inputs.table import Batch, BlankRows, Table, most_rows, refuse_too_wide
from pipeline.inputs.unseen import looks_blank
from pipeline.job.frame import Frame
from pipeline.job.spec import JobSpec
from pipeline.job.stage import Stage
from pipeline.system.paths import leads_to_itself

TEXTS = (".csv", ".tsv", ".txt")
_WORKBOOKS = (".xlsx", ".xlsm", ".ods", ".xls", ".xlsb")
_EXCEL = (".xlsx", ".xlsm")
_SETTINGS = {
    "sheet": _WORKBOOKS,
    "header_row": _WORKBOOKS + TEXTS,
    "shown": _EXCEL,
    "encoding": TEXTS,
    "separator": TEXTS,
    "hidden": _EXCEL,
}
_MANY_BLANK_CELLS = 1_000_000
_JSON = (".json", ".ndjson")


def open_table(spec: JobSpec) -> Table:
    """Opens the sheet that `spec` names.

    Raises:
        Refused: if the file is missing or of an unknown kind, or its header cannot be used. Rows
            are read lazily, and `batches` refuses them in the same way.
    """
    if isinstance(spec.input, Frame):
        return _open_frame(spec)
    if isinstance(spec.input, Stage):
        return _open_stage(spec, spec.input)
    path = spec.file
    if path.is_dir():
        raise Refused(f"{path}: this is a folder, not a sheet. Name the file in it.")
    if not path.is_file():
        raise _missing(spec)
    opener = READERS.get(path.suffix.lower())
    if opener is None:
        raise Refused(
            f"{path}: the runner cannot read a file with {named_ending(path)}. "
            f"It reads {', '.join(READERS)}.{_saved_as(path.suffix.lower())}"
        )
    _refuse_settings_of_others(spec)
    with _refusing_unreadable(spec):
        table = opener(spec)
    _check_header(spec, table)
    return replace(table, batches=partial(_rows, spec, table))


def _rows(spec: JobSpec, table: Table) -> Iterator[Batch]:
    with _refusing_unreadable(spec):
        yield from _without_blank_end(table)


@contextmanager
def _refusing_unreadable(spec: JobSpec) -> Iterator[None]:
    path = spec.file
    try:
        yield
    except OSError as error:
        if not path.is_file():  # some readers open it again for the rows
            raise _missing(spec) from None
        raise Refused(f"{path}: the file cannot be read ({error.strerror or error}).") from None


def _missing(spec: JobSpec) -> Refused:
    path = spec.file
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    named = f" {spec.at('input')} names it." if "input" in spec.lines else ""
    if leads_to_itself(path):
        return Refused(f"{path}: a symbolic link in this path leads back to itself.{named}")
    return Refused(f"{path}: there is no such file.{nearest(path.name, beside) or named}")


def _open_frame(spec: JobSpec) -> Table:
    from pipeline.inputs.frame import open_frame

    table = open_frame(spec)
    _check_header(spec, table)
    return table


def _open_stage(spec: JobSpec, stage: Stage) -> Table:
    assert stage.open is not None, "`run.stages` opens the answers of the other job"
    table: Table = stage.open()
    _check_header(spec, table)
    return table


# Each reader is imported for its own kind of sheet only. That of workbooks takes 0.05 s.
def _delimited(spec: JobSpec) -> Table:
    from pipeline.inputs.delimited import open_delimited

    return open_delimited(spec)


def _jsonl(spec: JobSpec) -> Table:
    from pipeline.inputs.jsonl import open_jsonl

    return open_jsonl(spec)


def _parquet(spec: JobSpec) -> Table:
    from pipeline.inputs.parquet import open_parquet

    return open_parquet(spec)


def _xlsx(spec: JobSpec) -> Table:
    from pipeline.inputs.xlsx.reader import open_xlsx

    return open_xlsx(spec)


def _calamine(spec: JobSpec) -> Table:
    from pipeline.inputs.calamine import open_calamine

    return open_calamine(spec)


READERS: dict[str, Callable[[JobSpec], Table]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".txt": _delimited,
    ".xlsx": _xlsx,
    ".xlsm": _xlsx,
    ".ods": _calamine,
    ".xls": _calamine,
    ".xlsb": _calamine,
    ".parquet": _parquet,
    ".jsonl": _jsonl,
}


def displayed_differently(spec: JobSpec) -> dict[str, tuple[str, str]]:
    """Returns, for each column of a workbook that is displayed in another way than it is sent, an
    example (text that is sent, text that is displayed). No column for other files."""
    if not isinstance(spec.input, Path) or spec.input.suffix.lower() not in _EXCEL:
        return {}
    from pipeline.inputs.xlsx import reader

    return reader.displayed_differently(spec)


def worksheet_names(path: Path) -> tuple[str, ...]:
    """Returns the worksheets of an Excel workbook, none for other files.

    Raises:
        Refused: if the workbook cannot be opened.
    """
    if path.suffix.lower() not in _EXCEL:
        return ()
    from pipeline.inputs.xlsx.workbook import open_workbook

    try:
        with open_workbook(path) as workbook:
            return tuple(sheet.name for sheet in workbook.sheets)
    except OSError as error:
        raise Refused(f"{path}: the file cannot be read ({error.strerror or error}).") from None


def settings_of(path: Path) -> tuple[str, ...]:
    """Returns the keys of a job file that say how a sheet of this kind is read."""
    kind = path.suffix.lower()
    return tuple(name for name, kinds in _SETTINGS.items() if kind in kinds)


def named_ending(path: Path) -> str:
    """Returns ``the ending .txt`` or ``no ending``, for messages."""
    return f"the ending {path.suffix}" if path.suffix else "no ending"


def _saved_as(ending: str) -> str:
    if ending in (".numbers", ".gsheet"):
        return " Save the workbook as .xlsx."
    return " If each line is one JSON object, rename the file to .jsonl." if ending in _JSON else ""


def _refuse_settings_of_others(spec: JobSpec) -> None:
    """Refuses settings for another kind of sheet: the user would think that they have an effect."""
    kind = spec.file.suffix.lower()
    for name, kinds in _SETTINGS.items():
        left_out = getattr(spec, name) in (None, False, "send" if name == "hidden" else None)
        if not left_out and kind not in kinds:
            raise Refused(
                f"{spec.at(name)}: `{name}:` is only for {', '.join(kinds)} files, but "
                f"{spec.input.name} is none of them. Leave `{name}:` out."
            )


def _without_blank_end(table: Table) -> Iterator[Batch]:
    """Yields the rows up to the last filled one. Rows after it that are blank, or only look blank,
    are not rows of the sheet."""
    blank, width = BlankRows(table.input, table.place_word), len(table.columns)
    looking_blank: list[tuple[BlankRows, Batch]] = []
    cells = 0
    for batch in table.batches():
        filled_rows = _filled_rows(batch)
        if filled_rows:
            for before, held in looking_blank:
                yield from _blank_batches(before.before(0, held.places[0]), width)
                yield held
            looking_blank, cells = [], 0
            filled, batch = batch.split(filled_rows)
            yield from _blank_batches(blank.before(filled_rows, filled.places[0]), width)
            yield filled
        places = batch.places
        if any(any(column) for column in batch.columns):
            looking_blank.append((blank, batch))
            blank = blank.following()
            cells += len(batch) * width
            if cells > _MANY_BLANK_CELLS:
                raise Refused(
                    f"{table.input} {table.place_word} {places[-1]}: over {_MANY_BLANK_CELLS:,} "
                    "cells before this one only look empty: they have spaces or unseen characters. "
                    "Clear them."
                )
        elif places and len(places) == places[-1] - places[0] + 1:
            blank.hold(places[0], places[-1] + 1)
        else:
            for place in places:
                blank.hold(place, place + 1)


def _blank_batches(places: Iterator[int], width: int) -> Iterator[Batch]:
    while some := list(islice(places, most_rows(width))):
        yield Batch([[""] * len(some)] * width, some)


def _filled_rows(batch: Batch) -> int:
    """Returns the number of rows without those at the end that are blank or only look blank."""
    for row in range(len(batch) - 1, -1, -1):
        if not all(looks_blank(column[row]) for column in batch.columns):
            return row + 1
    return 0


def _check_header(spec: JobSpec, table: Table) -> None:
    """Notes the columns without a name and those with the same name.

    Raises:
        Refused: if such a column is used.
    """
    refuse_too_wide(table.input, table.columns)
    used, flaws = used_columns(spec, table.columns), table.found.flaws
    places: dict[str, list[int]] = {}
    for position, name in enumerate(table.headers or table.columns):
        places.setdefault(name.strip() and name, []).append(position)
    for name, same in places.items():
        for position in same if not name or len(same) > 1 else ():
            if name:
                flaws[position], hint = _twice(table, name, same), "Rename one of them."
            else:
                hint = _NAME_IT
                flaws.setdefault(position, _nameless(table, position))
            if position in used:
                raise Refused(f"{table.input}: {flaws[position]}. {hint}")


_NAME_IT = (
    "Name it, or name only other columns under `variables:`. If this row is a title, set "
    "`header_row:` to the row of the column names."
)


def _twice(table: Table, name: str, same: list[int]) -> str:
    cells = [str(position + 1) for position in same[:2]]
    if table.sheet:
        cells = [table.cell_at(position, table.header_row) for position in same[:2]]
    which = "" if table.sheet else "columns "
    return f'the header names "{name}" twice, in {which}{" and ".join(cells)}'


def _nameless(table: Table, position: int) -> str:
    where = f"column {position + 1}"
    if table.sheet:
        where = table.cell_at(position, table.header_row)
    return f"{where} has no name in the header"
