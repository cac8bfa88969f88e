"""Row numbers of a sheet that somebody has sorted or edited since the last run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.core.errors import PipelineError
from pipeline.inputs.snapshot import take_snapshot
from pipeline.job.job import Job
from pipeline.ledger import queries
from pipeline.planning.changes import MovedRow, find_moved
from pipeline.planning.selection import RowNumbers
from pipeline.results.answered_sheet import AnsweredSheet
from pipeline.run.prepare import open_sheet, with_text_rules


def moved_rows(job: Job, source: AnsweredSheet, rows: RowNumbers | None) -> tuple[MovedRow, ...]:
    """Returns the numbers in `rows` that mean another row in the sheet's file than in `source`, the
    sheet as the last run read it. None of them if the file is older, gone, or cannot be sent."""
    spec, last = job.spec, source.read(queries.last_run)
    if rows is None or spec is None or last is None or not isinstance(spec.input, Path):
        return ()
    try:
        about = spec.input.stat()
        if max(about.st_mtime, about.st_ctime) < last.started_at:
            return ()
        spec = with_text_rules(job, accept_changes=False).to_run()
        sheet = open_sheet(spec, job.folder)
        with tempfile.TemporaryDirectory(prefix="pipeline-review-") as folder:
            path = Path(folder) / "sheet.parquet"
            now = take_snapshot(spec, sheet.table, sheet.variables, path)
            return find_moved(spec, source.snapshot, now, rows)
    except (OSError, PipelineError):
        return ()
