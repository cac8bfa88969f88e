"""Screen 1, the jobs of the started folder, each with its state, and a place to drop a sheet."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.core.errors import PipelineError
from pipeline.inputs.formats import READERS
from pipeline.report.html.markup import Markup, element, foreign
from pipeline.run.places import Places
from pipeline.status.summary_lines import last_run_line, outcome_line, paid_line
from pipeline.ui.job_page import find_status
from pipeline.ui.markup import document, field, local, paragraph, to

_LONGEST = 1000


def jobs_page(places: Places, at: str | None) -> str:
    """The page. `at` is the job or sheet that the user started the page with: it comes first."""
    jobs = sorted({*places.jobs(), *([at] if at is not None and places.is_job(at) else [])})
    jobs.sort(key=lambda name: name != at)
    cards = [_card(places, name) for name in jobs]
    none = paragraph("There is no job in this folder yet. Begin with a sheet.")
    return document(
        "Jobs",
        element("h1", "Jobs"),
        paragraph(foreign(str(places.root), _LONGEST), class_="soft"),
        *(cards or [none]),
        _drop(),
        *_sheets(places, at),
    )


def _card(places: Places, name: str) -> Markup:
    """A job, with a link to it, or to its file if that has an error."""
    path = "/job"
    try:
        lines = list(_lines(places, name))
    except PipelineError as error:
        path, lines = "/edit", [paragraph(foreign(str(error), _LONGEST), class_="problem")]
    heading = element("h2", to(foreign(name, _LONGEST), local(path, at=name)))
    return element("section", heading, *lines, class_="card")


def _lines(places: Places, name: str) -> Iterator[Markup]:
    job = places.job(name)
    status = find_status(job)
    if status is None:
        yield paragraph("No run yet.")
        return
    summary = status.summary
    yield paragraph(foreign(outcome_line(summary), _LONGEST))
    share = f"{summary.ok / summary.rows:.4f}" if summary.rows else "0"
    yield element("meter", f"{share} ok", attributes={"value": share, "aria-label": "ok"})
    yield paragraph(paid_line(summary, job.sandbox))
    yield paragraph(last_run_line(status.last_run, status.in_use, status.in_flight))


def _drop() -> Markup:
    """The place for a sheet. The page never replaces a file with it."""
    chosen = field("file", "sheet", accept=",".join(READERS), id="sheet")
    return element(
        "section",
        element("h2", "Begin with a sheet"),
        element("label", "Drop a sheet here, or choose one: ", attributes={"for": "sheet"}),
        chosen,
        element("p", attributes={"role": "status"}),
        attributes={"data-drop": "1"},
    )


def _sheets(places: Places, at: str | None) -> Iterator[Markup]:
    """The sheets of the folder, that of the command first."""
    names = sorted(places.sheets(), key=lambda name: (name != at, name))
    if names:
        links = (element("li", to(foreign(n, _LONGEST), local("/new", sheet=n))) for n in names)
        yield element("h2", "Sheets of this folder")
        yield element("ul", *links)
