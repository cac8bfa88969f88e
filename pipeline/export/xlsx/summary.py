"""The worksheet that sums up the job: added to the copy of a workbook, and to a new one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from pipeline.core.model import ROW_COUNTS
from pipeline.core.money import paid_word
from pipeline.export.xlsx.cells import CellXml, escaped
from pipeline.export.xlsx.styles import HEAD
from pipeline.inputs.xlsx.workbook import SUMMARY_TITLE
from pipeline.job.job import Job
from pipeline.ledger import queries
from pipeline.ledger.reader import Read
from pipeline.status.summary import summarize

SummaryRows = list[tuple[str, str | int]]


def summary_rows(job: Job, read: Read, in_use: bool) -> SummaryRows:
    """The rows of the summary worksheet: (name, value)."""
    summary = summarize(job, read(queries.counts), in_use=in_use)
    last = read(queries.last_run)
    assert last is not None
    began = datetime.fromtimestamp(last.started_at, UTC)
    rows: SummaryRows = [
        ("job", job.name),
        ("last run", summary.run_id),
        ("began", f"{began:%Y-%m-%d %H:%M:%S} UTC"),
        ("rows", summary.rows),
        *((state, getattr(summary, state)) for state in ROW_COUNTS),
        (f"requests {paid_word(job.sandbox)}, at least", summary.paid_min),
        (f"requests {paid_word(job.sandbox)}, at most", summary.paid_max),
    ]
    return rows + [(f"rows with {code}", count) for code, count in summary.by_code.items()]


def summary_part(summary: SummaryRows, namespace: str, style: int | None) -> str:
    """Returns the whole worksheet. `style` is that of its texts."""
    return (
        f'{HEAD}<worksheet xmlns="{namespace}"><cols><col min="1" max="1" width="24" '
        'customWidth="1"/><col min="2" max="2" width="60" customWidth="1"/></cols>'
        f"<sheetData>{''.join(_rows(summary, style))}</sheetData></worksheet>"
    )


def _rows(summary: SummaryRows, style: int | None) -> Iterator[str]:
    xml = CellXml()
    for number, (name, value) in enumerate([(SUMMARY_TITLE, ""), *summary], start=1):
        cells = xml.text(f"A{number}", style, escaped(name))
        if isinstance(value, int):
            cells += xml.number(f"B{number}", style, str(value))
        elif value:
            cells += xml.text(f"B{number}", style, escaped(value))
        yield f'<row r="{number}">{cells}</row>'
