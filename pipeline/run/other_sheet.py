"""A job with another sheet: another week's file with the same columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.core.errors import Refused
from pipeline.inputs.formats import open_table
from pipeline.inputs.mapping import bind
from pipeline.job.job import Job


def with_sheet(job: Job, sheet: Path) -> Job:
    """Returns the job with `sheet` in place of the one in its file, as `--input` does. `check_job`
    of it says how many rows are paid already, and how many are new.

    Raises:
        Refused: if the rows of the job do not come from a file.
    """
    spec = job.to_run()
    if not isinstance(spec.input, Path):
        raise Refused(f"{job.name}: the rows of this job do not come from a file.")
    return replace(job, spec=replace(spec, input=sheet.absolute()))


def fits_sheet(job: Job, sheet: Path) -> bool:
    """Whether `sheet` has every column that the job uses. Reads its header only."""
    try:
        spec = with_sheet(job, sheet).to_run()
        columns = open_table(spec).columns
        bind(spec, columns)
        used = {condition.column for condition in spec.where}
        if spec.variables is None:  # then every column of its sheet is one
            used.update(open_table(job.to_run()).columns)
    except Refused:
        return False
    return used.issubset(columns)
