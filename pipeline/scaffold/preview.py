"""The first rows of a sheet, before there is a job file."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.inputs.formats import open_table
from pipeline.job.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Preview:
    """The columns of a sheet and its first rows, one text for each column, as they would be
    sent."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def preview_sheet(sheet: Path, *, rows: int = 5) -> Preview:
    """Reads the first `rows` rows of a sheet. Sends nothing.

    Raises:
        Refused: if the runner cannot read the sheet.
    """
    job_file = sheet.with_suffix(".yaml")
    table = open_table(JobSpec(job_file, "preview", "wf", sheet, job_file, variables=()))
    found: list[tuple[str, ...]] = []
    for batch in table.batches():
        found += islice(zip(*batch.columns, strict=True), rows - len(found))
        if len(found) >= rows:
            break
    return Preview(tuple(table.columns), tuple(found))
