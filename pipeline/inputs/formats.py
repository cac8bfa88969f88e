"""Opens a sheet of any kind, and refuses other files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from pipeline.core.errors import Refused
from pipeline.core.wording import nearest
from pipeline.inputs.table import Batch, BlankRows, Table, most_rows, refuse_too_wide
from pipeline.job.spec import JobSpec
from pipeline.system.paths import leads_to_itself

_TEXTS = (".csv", ".tsv")
_WORKBOOKS = (".xlsx", ".xlsm")
_JSON = (".json", ".ndjson")


def open_table(spec: JobSpec) -> Table:
    """Opens the sheet that `spec` names.

    Raises:
        Refused: if the file is missing or of an unknown kind, or its header cannot be used. Rows
            are read lazily, and `batches` refuses them in the same way.
    """
    from pipeline.inputs.delimited import open_delimited
    from pipeline.inputs.jsonl import open_jsonl
    from pipeline.inputs.parquet import open_parquet
    from pipeline.inputs.xlsx.reader import open_xlsx

    kinds: dict[str, Callable[[JobSpec], Table]] = {
        ".csv": open_delimited,
        ".tsv": open_delimited,
        ".xlsx": open_xlsx,
        ".xlsm": open_xlsx,
        ".parquet": open_parquet,
        ".jsonl": open_jsonl,
    }
    path = spec.input
    if path.is_dir():
        raise Refused(f"{path}: this is a folder, not a sheet. Name the file in it.")
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        named = f" {spec.at('input')} names it." if "input" in spec.lines else ""
        if leads_to_itself(path):
            raise Refused(f"{path}: a symbolic link in this path leads back to itself.{named}")
        raise Refused(f"{path}: there is no such file.{nearest(path.name, beside) or named}")
    opener = kinds.get(path.suffix.lower())
    if opener is None:
        raise Refused(
            f"{path}: the runner cannot read a file with {named_ending(path)}. "
            f"It reads {', '.join(kinds)}.{_saved_as(path.suffix.lower())}"
        )
    _refuse_settings_of_others(spec)
    try:
        table = opener(spec)
        table = replace(table, batches=partial(_without_blank_end, table))
    except OSError as error:
        raise Refused(f"{path}: the file cannot be read ({error.strerror or error}).") from None
    _check_header(table)
    return table


def displayed_differently(spec: JobSpec) -> dict[str, tuple[str, str]]:
    """Returns, for each column of a workbook that is displayed in another way than it is sent, an
    example (text that is sent, text that is displayed). No column for other files."""
    if spec.input.suffix.lower() not in _WORKBOOKS:
        return {}
    from pipeline.inputs.xlsx import reader

    return reader.displayed_differently(spec)


def named_ending(path: Path) -> str:
    """Returns ``the ending .txt`` or ``no ending``, for messages."""
    return f"the ending {path.suffix}" if path.suffix else "no ending"


def _saved_as(ending: str) -> str:
    if ending in (".xls", ".xlsb", ".ods", ".numbers"):
        return " Save the workbook as .xlsx."
    return " If each line is one JSON object, rename the file to .jsonl." if ending in _JSON else ""


def _refuse_settings_of_others(spec: JobSpec) -> None:
    """Refuses settings for another kind of sheet: the user would think that they have an effect."""
    kind = spec.input.suffix.lower()
    for name, value, kinds in (
        ("sheet", spec.sheet, _WORKBOOKS),
        ("header_row", spec.header_row, _WORKBOOKS),
        ("shown", spec.shown or None, _WORKBOOKS),
        ("encoding", spec.encoding, _TEXTS),
    ):
        if value is not None and kind not in kinds:
            raise Refused(
                f"{spec.at(name)}: `{name}:` is only for {' and '.join(kinds)} files, and "
                f"{spec.input.name} is neither. Leave `{name}:` out."
            )


def _without_blank_end(table: Table) -> Iterator[Batch]:
    """Yields the rows up to the last filled one. Blank rows after it are not rows of the sheet."""
    blank, width = BlankRows(table.path, table.place_word), len(table.columns)
    for batch in table.batches():
        filled_rows = _filled_rows(batch)
        if filled_rows:
            filled, rest = batch.split(filled_rows)
            before = blank.before(filled_rows, batch.places[0])
            while places := list(islice(before, most_rows(width))):
                yield Batch([[""] * len(places)] * width, places)
            yield filled
            batch = rest
        places = batch.places
        if places and len(places) == places[-1] - places[0] + 1:
            blank.hold(places[0], places[-1] + 1)
        else:
            for place in places:
                blank.hold(place, place + 1)


def _filled_rows(batch: Batch) -> int:
    """Returns the number of rows without the blank ones at the end."""
    for row in range(len(batch) - 1, -1, -1):
        if any(column[row] for column in batch.columns):
            return row + 1
    return 0


def _check_header(table: Table) -> None:
    refuse_too_wide(table.path, table.columns)
    seen: dict[str, int] = {}
    for position, name in enumerate(table.columns):
        if not name.strip():
            where, title = f"column {position + 1} has", " If the first line is a title, remove it."
            if table.sheet:
                title = ""
                where = f"{table.cell_at(position, table.header_row)} has"
            raise Refused(
                f"{table.path}: {where} no name in the header. Name it or remove it.{title}"
            )
        if name in seen:
            where = f'the header names "{name}" twice'
            if table.sheet:
                cells = [table.cell_at(p, table.header_row) for p in (seen[name], position)]
                where += f", in {' and '.join(cells)}"
            raise Refused(f"{table.path}: {where}. Rename one of them.")
        seen[name] = position
