"""Runs a paid AI workflow over every row of a spreadsheet. Pays for no row twice unless you say so.

    import pipeline

    summary = pipeline.run_job("jobs/stories.yaml")
    print(summary.ok, "of", summary.rows)

Every command is also a function here. Each name is loaded when it is first used.
"""

import sys

# `python -m pipeline` looks for modules in the current folder first, and a `json.py` there may
# be a stranger's. Python calls the program "-m" only until it has found it, so this comes first.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    del sys.path[0]

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "__version__": "pipeline.core.version",
    "run_job": "pipeline.run.run",
    "run_job_async": "pipeline.run.run",
    "run_frame": "pipeline.notebook.frames",
    "run_frame_async": "pipeline.notebook.frames",
    "read_results": "pipeline.results.frame",
    "run_stages": "pipeline.run.chain",
    "run_stages_async": "pipeline.run.chain",
    "StageEnd": "pipeline.run.chain",
    "events_of": "pipeline.run.stream",
    "RunOptions": "pipeline.run.run",
    "IfLocked": "pipeline.run.run",
    "Control": "pipeline.sending.control",
    "Consent": "pipeline.planning.consent",
    "find_job": "pipeline.job.job",
    "Job": "pipeline.job.job",
    "load_spec": "pipeline.job.spec",
    "JobSpec": "pipeline.job.spec",
    "check_job": "pipeline.run.check",
    "Checked": "pipeline.run.check",
    "with_sheet": "pipeline.run.other_sheet",
    "fits_sheet": "pipeline.run.other_sheet",
    "AnswerColumn": "pipeline.job.answer_columns",
    "init_job": "pipeline.scaffold.job_spec",
    "Written": "pipeline.scaffold.job_spec",
    "preview_sheet": "pipeline.scaffold.preview",
    "Preview": "pipeline.scaffold.preview",
    "read_status": "pipeline.status.summary",
    "Status": "pipeline.status.summary",
    "FailOn": "pipeline.status.exit_codes",
    "report_job": "pipeline.report.overview",
    "Report": "pipeline.report.overview",
    "write_report": "pipeline.report.html.write",
    "show_job": "pipeline.show.rows",
    "ShownRow": "pipeline.show.rows",
    "ShownAttempt": "pipeline.show.rows",
    "ShownVersion": "pipeline.show.rows",
    "read_history": "pipeline.status.history",
    "PastRun": "pipeline.status.history",
    "export_job": "pipeline.export",
    "Export": "pipeline.export",
    "export_citations": "pipeline.export",
    "export_review": "pipeline.export",
    "export_versions": "pipeline.export",
    "review_job": "pipeline.review.decide",
    "Reviewed": "pipeline.review.decide",
    "read_reviews": "pipeline.review.decide",
    "review_from": "pipeline.review.sheet",
    "Imported": "pipeline.review.sheet",
    "Decision": "pipeline.core.review",
    "reread_job": "pipeline.run.settle",
    "settle_job": "pipeline.run.settle",
    "stop_job": "pipeline.run.stop",
    "verify_job": "pipeline.verify",
    "Verified": "pipeline.verify",
    "Finding": "pipeline.verify",
    "Selection": "pipeline.planning.selection",
    "parse_rows": "pipeline.planning.selection",
    "RowNumbers": "pipeline.planning.selection",
    "select_resume": "pipeline.planning.selection",
    "select_again": "pipeline.planning.selection",
    "NextStep": "pipeline.core.model",
    "RateLimit": "pipeline.core.model",
    "Summary": "pipeline.core.model",
    "Sure": "pipeline.core.model",
    "State": "pipeline.core.model",
    "StopCode": "pipeline.core.model",
    "Stopped": "pipeline.core.model",
    "ErrorCode": "pipeline.core.model",
    "Event": "pipeline.core.events",
    "RunStarted": "pipeline.core.events",
    "RunEnded": "pipeline.core.events",
    "AttemptEnded": "pipeline.core.events",
    "Paced": "pipeline.core.events",
    "ConcurrencyBinds": "pipeline.core.events",
    "PaceEnded": "pipeline.core.events",
    "Waiting": "pipeline.core.events",
    "Stopping": "pipeline.core.events",
    "Notice": "pipeline.core.events",
    "PipelineError": "pipeline.core.errors",
    "Refused": "pipeline.core.errors",
    "StorageFailed": "pipeline.core.errors",
    "Interrupted": "pipeline.core.errors",
    "Locked": "pipeline.core.errors",
}

if TYPE_CHECKING:
    from pipeline.core.errors import Interrupted, Locked, PipelineError, Refused, StorageFailed
    from pipeline.core.events import (
        AttemptEnded,
        ConcurrencyBinds,
        Event,
        Notice,
        Paced,
        PaceEnded,
        RunEnded,
        RunStarted,
        Stopping,
        Waiting,
    )
    from pipeline.core.model import (
        ErrorCode,
        NextStep,
        RateLimit,
        State,
        StopCode,
        Stopped,
        Summary,
        Sure,
    )
    from pipeline.core.review import Decision
    from pipeline.core.version import __version__ as __version__
    from pipeline.export import (
        Export,
        export_citations,
        export_job,
        export_review,
        export_versions,
    )
    from pipeline.job.answer_columns import AnswerColumn
    from pipeline.job.job import Job, find_job
    from pipeline.job.spec import JobSpec, load_spec
    from pipeline.notebook.frames import run_frame, run_frame_async
    from pipeline.planning.consent import Consent
    from pipeline.planning.selection import (
        RowNumbers,
        Selection,
        parse_rows,
        select_again,
        select_resume,
    )
    from pipeline.report.html.write import write_report
    from pipeline.report.overview import Report, report_job
    from pipeline.results.frame import read_results
    from pipeline.review.decide import Reviewed, read_reviews, review_job
    from pipeline.review.sheet import Imported, review_from
    from pipeline.run.chain import StageEnd, run_stages, run_stages_async
    from pipeline.run.check import Checked, check_job
    from pipeline.run.other_sheet import fits_sheet, with_sheet
    from pipeline.run.run import IfLocked, RunOptions, run_job, run_job_async
    from pipeline.run.settle import reread_job, settle_job
    from pipeline.run.stop import stop_job
    from pipeline.run.stream import events_of
    from pipeline.scaffold.job_spec import Written, init_job
    from pipeline.scaffold.preview import Preview, preview_sheet
    from pipeline.sending.control import Control
    from pipeline.show.rows import ShownAttempt, ShownRow, ShownVersion, show_job
    from pipeline.status.exit_codes import FailOn
    from pipeline.status.history import PastRun, read_history
    from pipeline.status.summary import Status, read_status
    from pipeline.verify import Finding, Verified, verify_job

__all__ = [
    "AnswerColumn",
    "AttemptEnded",
    "Checked",
    "ConcurrencyBinds",
    "Consent",
    "Control",
    "Decision",
    "ErrorCode",
    "Event",
    "Export",
    "FailOn",
    "Finding",
    "IfLocked",
    "Imported",
    "Interrupted",
    "Job",
    "JobSpec",
    "Locked",
    "NextStep",
    "Notice",
    "PaceEnded",
    "Paced",
    "PastRun",
    "PipelineError",
    "Preview",
    "RateLimit",
    "Refused",
    "Report",
    "Reviewed",
    "RowNumbers",
    "RunEnded",
    "RunOptions",
    "RunStarted",
    "Selection",
    "ShownAttempt",
    "ShownRow",
    "ShownVersion",
    "StageEnd",
    "State",
    "Status",
    "StopCode",
    "Stopped",
    "Stopping",
    "StorageFailed",
    "Summary",
    "Sure",
    "Verified",
    "Waiting",
    "Written",
    "check_job",
    "events_of",
    "export_citations",
    "export_job",
    "export_review",
    "export_versions",
    "find_job",
    "fits_sheet",
    "init_job",
    "load_spec",
    "parse_rows",
    "preview_sheet",
    "read_history",
    "read_results",
    "read_reviews",
    "read_status",
    "report_job",
    "reread_job",
    "review_from",
    "review_job",
    "run_frame",
    "run_frame_async",
    "run_job",
    "run_job_async",
    "run_stages",
    "run_stages_async",
    "select_again",
    "select_resume",
    "settle_job",
    "show_job",
    "stop_job",
    "verify_job",
    "with_sheet",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
