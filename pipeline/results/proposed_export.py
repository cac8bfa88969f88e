"""The export command that a finished run proposes. It can be pasted, and replaces no file of the
user's."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.core.added_columns import STATUS
from pipeline.core.errors import Refused
from pipeline.job.job import Job
from pipeline.results.export_target import check_target

# What a sheet of these kinds is exported to. From any other sheet the export is a .csv.
_ENDINGS = {ending: ending for ending in (".tsv", ".xlsx", ".xlsm", ".parquet", ".jsonl")}
_ENDINGS |= dict.fromkeys((".ods", ".xls", ".xlsb"), ".xlsx")
_NAMES_TRIED = 9


def proposed_export(job: Job, ambiguous: int) -> str | None:
    """Returns the command that writes the sheet with its answers into the current folder, in the
    format of the sheet. None if no file can be written there, or if the job file leaves out the
    status while `ambiguous` rows need it.

    The file may exist if it is an earlier export. A rehearsal has another name, because it
    must not replace paid answers.
    """
    add = job.spec.add if job.spec is not None else None
    if ambiguous and add is not None and STATUS not in add:
        return None
    name = f"{job.name}-{'rehearsal' if job.sandbox else 'done'}"
    for number in range(1, _NAMES_TRIED + 1):
        target = Path(f"{name}{f'-{number}' if number > 1 else ''}{_ending(job)}")
        try:
            check_target(job, target, force=False)
            writable = os.access(Path.cwd(), os.W_OK)
        except Refused:
            continue
        except OSError:  # somebody removed the current folder
            return None
        return job.command("export", "--to", str(target)) if writable else None
    return None


def _ending(job: Job) -> str:
    return ".csv" if job.sheet is None else _ENDINGS.get(job.sheet.suffix.lower(), ".csv")
