"""Screen 5, the rows that are not ok by how they ended, each group with its action."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pipeline.core.wording import counted
from pipeline.report.groups import Group
from pipeline.report.html.markup import Markup, element, foreign
from pipeline.report.overview import FlaggedAnswers, Report, report_job
from pipeline.report.terminal import mark_meaning
from pipeline.status.summary_lines import all_well_line
from pipeline.ui.job_page import Shown, frame
from pipeline.ui.markup import local, paragraph, to
from pipeline.ui.steps import RESUME, RUN, Step

_MESSAGE = 600


def failures_page(shown: Shown) -> str:
    """The page. Like `pipeline report`, it rewrites failures.csv."""
    report = report_job(shown.job)
    well = None if report.groups else paragraph(all_well_line(report.summary), class_="outcome")
    unread = paragraph(report.unread, class_="problem") if report.unread else None
    flagged = element("h2", "Answers to look at") if report.marked else None
    return frame(
        shown,
        "failures",
        element("h2", "Rows that are not ok"),
        well,
        *(_group(shown, report, group) for group in report.groups),
        flagged,
        *(_flagged(shown, report, found) for found in report.marked),
        unread,
    )


def _group(shown: Shown, report: Report, group: Group) -> Markup:
    title = f"{counted(group.count, 'row')} {group.state}"
    rows = f"First rows: {report.names.rows(group.first_rows)}"
    return element(
        "section",
        element("h3", title, ": ", foreign(group.code or "no code", 80)),
        paragraph(group.advice),
        paragraph(foreign(group.message, _MESSAGE), class_="soft") if group.message else None,
        paragraph(foreign(rows, _MESSAGE), class_="soft"),
        *_actions(shown, group),
        class_=f"card {group.state}",
    )


def _actions(shown: Shown, group: Group) -> Iterator[Markup]:
    """The rows of the group, and the step that its command in the report takes."""
    rows = {"status": str(group.state), "code": group.code}
    yield paragraph(to("Show these rows", local("/rows", **shown.fields, **rows)))
    step = None if group.command is None else step_of(shown, group.command)
    if step is not None:
        word = "Run…" if step.verb == RUN else "Send these rows again…"
        address = local("/plan", **shown.fields, **step.fields)
        yield paragraph(to(word, address, class_="main"))


def step_of(shown: Shown, command: str) -> Step | None:
    """The step of a command that the report proposes. None for options that no button has."""
    words = shlex.split(command)[1:]
    if words[:1] not in ([RUN], [RESUME]):
        return None
    before = {*shown.job.words, *shown.job.sending, words[0]}
    options = [word for word in words if word not in before]
    known = ("--only", "--ambiguous", "--limit")
    if any(word.startswith("--") and word not in known for word in options):
        return None
    return Step.of_words([words[0], *options])


def _flagged(shown: Shown, report: Report, found: FlaggedAnswers) -> Markup:
    rows = f"First rows: {report.names.rows(found.first_rows)}"
    again = local("/plan", **shown.fields, **Step(again=found.mark).fields)
    return element(
        "section",
        element("h3", f"{counted(found.count, 'answer')}: ", foreign(found.mark, 80)),
        paragraph(mark_meaning(found)),
        paragraph(foreign(rows, _MESSAGE), class_="soft"),
        paragraph(to("Ask again…", again)) if found.command else None,
        class_="card",
    )
