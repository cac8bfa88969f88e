"""Screen 3, a job: its counts, the pace of an active run, and the next step as one button."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.core.errors import PipelineError, Refused
from pipeline.core.model import ROW_COUNTS
from pipeline.core.money import paid_word
from pipeline.core.wording import counted, lasting
from pipeline.job.job import Job
from pipeline.ledger.kept_counts import KeptCounts
from pipeline.ledger.reader import has_run
from pipeline.planning.consent import failed_line, locked_line
from pipeline.planning.reviewed import kept_line
from pipeline.report.html.markup import Child, Markup, element, foreign, joined
from pipeline.run.check import Checked, check_job
from pipeline.run.start import printed
from pipeline.status.event_log import believed_limit
from pipeline.status.summary import Status, status_with
from pipeline.status.summary_lines import (
    last_run_line,
    paid_line,
    rate_limit_lines,
    review_lines,
)
from pipeline.ui.markup import button, document, form, local, paragraph, to
from pipeline.ui.steps import RUN, TRIED, Step

_COUNTS = KeptCounts()
_NAME, _LINE, _BODY = 120, 2000, 1200


@dataclass(frozen=True, slots=True)
class Shown:
    """A job on the page: its path in the started folder, and whether it is the rehearsal."""

    at: str
    job: Job
    rehearsal: bool = False

    @property
    def fields(self) -> dict[str, str]:
        """The fields of a form or an address that name the job."""
        return {"at": self.at} | ({"rehearsal": "1"} if self.rehearsal else {})


def find_status(job: Job) -> Status | None:
    """The state of the job, None before its first run."""
    return status_with(job, _COUNTS) if has_run(job) else None


def frame(shown: Shown, title: str, *body: Child) -> str:
    """A page about one job."""
    name = shown.job.name
    links = (
        ("/job", "Job"),
        ("/rows", "Rows"),
        ("/failures", "Failures"),
        ("/files", "Download"),
        ("/edit", "Job file"),
    )
    menu = element(
        "nav",
        to("All jobs", local("/")),
        *(to(word, local(path, **shown.fields)) for path, word in links),
        attributes={"aria-label": "Pages"},
    )
    kind = paragraph("This is a rehearsal. It costs nothing.", class_="rehearsal")
    heading = element("h1", foreign(name, _NAME))
    return document(f"{name}: {title}", menu, heading, kind if shown.job.sandbox else None, *body)


def job_page(shown: Shown) -> str:
    """The whole page. Its buttons come later, because they need the whole sheet."""
    live = element(
        "section",
        live_part(shown.job, Pace()),
        attributes={
            "aria-label": "State",
            "data-live": local("/live", **shown.fields).text,
        },
    )
    loading = element(
        "section",
        paragraph("Reading the sheet…"),
        attributes={
            "id": "actions",
            "aria-live": "polite",
            "hx-get": local("/actions", **shown.fields).text,
            "hx-trigger": "load, changed",
        },
    )
    return frame(shown, "job", live, loading, _rehearsal_link(shown), _output(shown.job))


def _rehearsal_link(shown: Shown) -> Markup | None:
    if shown.rehearsal:
        return paragraph(to("Back to the job itself", local("/job", at=shown.at)))
    if shown.job.rehearsed:
        return paragraph(to("Look at the rehearsal", local("/job", at=shown.at, rehearsal=1)))
    return None


def _output(job: Job) -> Markup | None:
    text = printed(job)
    if not text:
        return None
    summary = element("summary", "What the runs printed")
    return element("details", summary, element("pre", text))


@dataclass(slots=True)
class Pace:
    """The rows that ended per second, as one reader of the page has seen them."""

    seen: list[tuple[float, int]] = field(default_factory=list)

    def per_s(self, now: float, done: int) -> float | None:
        """Adds what is done at the time `now`, in seconds. None until it is known."""
        self.seen = [*((at, rows) for at, rows in self.seen if at > now - 30), (now, done)]
        (first, before), (last, after) = self.seen[0], self.seen[-1]
        return (after - before) / (last - first) if last > first else None


def live_part(job: Job, pace: Pace, now: float = 0.0) -> Markup:
    """The counts of a job, and the pace and the time left of an active run."""
    status = find_status(job)
    if status is None:
        return paragraph("No run yet.")
    summary = status.summary
    counts = element(
        "ul",
        *(
            element("li", element("b", f"{getattr(summary, state):,}"), f" {state}", class_=state)
            for state in ROW_COUNTS
        ),
        class_="counts",
    )
    lines = [
        paid_line(summary, job.sandbox),
        *review_lines(status.reviews),
        last_run_line(status.last_run, status.in_use, status.in_flight),
        *(_running(job, status, pace, now) if status.in_use else ()),
    ]
    return joined(counts, *map(paragraph, lines))


def _running(job: Job, status: Status, pace: Pace, now: float) -> Iterator[str]:
    summary = status.summary
    per_s = pace.per_s(now, summary.ok + summary.failed + summary.ambiguous)
    if per_s:
        left = lasting(summary.pending / per_s)
        yield f"Pace: {per_s:.2g} rows per second, about {left} left."
    else:
        yield "Pace: measuring."
    yield from rate_limit_lines(believed_limit(job.folder.log, summary.run_id))
    yield f"Process {job.folder.holder} works in the run folder."


def actions(shown: Shown) -> Markup:
    """The next step as a button, and other steps as links. Reads the whole sheet."""
    job = shown.job
    status = find_status(job)
    if job.folder.in_use:
        return _stopping(shown)
    try:
        return joined(*_steps(shown, status))
    except PipelineError as error:
        return element("p", str(error), class_="problem", attributes={"role": "alert"})


def _stopping(shown: Shown) -> Markup:
    now = to("Stop now…", local("/stop-now", **shown.fields), class_="danger")
    said = "Stop sends no more rows and waits for the answers in flight."
    return joined(
        form("/stop", shown.fields, button("Stop", kind="main")), paragraph(said), paragraph(now)
    )


def _steps(shown: Shown, status: Status | None) -> Iterator[Markup]:
    job = shown.job
    if status is None and not shown.rehearsal and not job.rehearsed:
        yield form("/rehearse", shown.fields, button("Rehearse all rows", kind="main"))
        yield paragraph(
            "The rehearsal uses a local copy of the API. It needs no key and costs nothing."
        )
        yield paragraph(_link(shown, Step(limit=TRIED), f"Try {TRIED} rows…"))
        yield paragraph(_link(shown, Step(), "Run all rows…"))
        return
    step, words = _next(status)
    checked = check_job(job, selection=step.selection())
    edit = status.summary.next_step.edit if status and status.summary.next_step else None
    if edit:
        yield paragraph(f"First {edit}.")
    if not checked.to_send and step != Step():
        step, words = Step(), "Run"
        checked = check_job(job)
    yield _button(shown, step, checked, words)
    if step != Step():
        yield paragraph(_link(shown, Step(), "Run all rows that are not done…"))


def _next(status: Status | None) -> tuple[Step, str]:
    """The step that comes next, and the word on its button."""
    if status is None:
        return Step(limit=TRIED), f"Try {TRIED} rows"
    found = status.summary.next_step
    if found is None:
        return Step(), "Run"
    step = Step.of_words(found.words)
    if step == Step():
        return step, "Run"
    if step.verb == RUN:
        return step, "Continue"
    return step, f"Send {'ambiguous' if step.ambiguous else 'failed'} rows again"


def _link(shown: Shown, step: Step, words: str) -> Markup:
    return to(words, local("/plan", **shown.fields, **step.fields))


def _button(shown: Shown, step: Step, checked: Checked, words: str) -> Markup:
    """The button of a step, with its price. Where something may be paid twice, it asks first."""
    if checked.repaid:
        return joined(
            element("p", repaid_line(checked), class_="problem", attributes={"role": "alert"}),
            paragraph(to("Open the job file", local("/edit", **shown.fields))),
            paragraph(_link(shown, step, "Send them again…")),
        )
    if checked.refusal is not None:
        return element("p", checked.refusal, class_="problem", attributes={"role": "alert"})
    if not checked.to_send:
        return paragraph("Nothing to send: every row has ended.", class_="outcome")
    if not checked.paid_at_most:
        return element("p", _why_not(shown, checked), class_="problem")
    if _questions(checked, shown.job.sandbox):
        return joined(
            paragraph(
                to(f"{words}…", local("/plan", **shown.fields, **step.fields), class_="main")
            ),
            paragraph("This may pay for something twice, so the next page asks."),
        )
    return joined(
        form(
            "/start",
            shown.fields | step.fields | {"plan": checked.plan},
            button(words, kind="main"),
        ),
        paragraph(cost_line(checked, shown.job.sandbox)),
    )


def repaid_line(checked: Checked) -> str:
    """What a changed job file would pay for again."""
    rows = counted(checked.repaid, "finished row")
    return (
        f"The job file has changed since these rows were sent: {rows} would be sent again, and "
        "every answer may be billed again. To keep the answers, undo the change."
    )


def _questions(checked: Checked, rehearsal: bool) -> list[str]:
    """What the page asks before it sends, because something may be paid twice."""
    found = [*checked.questions]
    if checked.repaid:
        found.append(repaid_line(checked))
    if checked.failed_maybe_paid:
        paid = paid_word(rehearsal)
        found.append(failed_line(checked.failed_maybe_paid, checked.names, paid))
    return found


def cost_line(checked: Checked, rehearsal: bool) -> str:
    """The most that a click can cost."""
    if rehearsal:
        return f"{counted(checked.to_send, 'row')} to send. A rehearsal costs nothing."
    most = counted(checked.paid_at_most, "request")
    lasts = f" That takes about {lasting(checked.duration_s)}." if checked.duration_s else ""
    return f"At most {most} may be billed.{lasts}"


def plan_page(shown: Shown, step: Step) -> str:
    """What a step would send and cost, with its button at the end."""
    job = shown.job
    if job.folder.in_use:
        raise Refused(f"Process {job.folder.holder} works in the run folder. Wait until it ends.")
    checked = check_job(job, selection=step.selection())
    bodies = element(
        "details",
        element("summary", "The exact requests of the first rows"),
        *(
            element("pre", f"Row {one.row}: ", foreign(one.body, _BODY))
            for one in checked.first_bodies
        ),
    )
    kept = checked.kept_by_review
    lines = [paragraph(kept_line(job, kept, checked.names))] if kept else []
    if checked.locked_folders:
        lines.append(paragraph(locked_line(checked.locked_folders)))
    questions = _questions(checked, job.sandbox)
    asked = [element("p", text, class_="problem") for text in questions]
    fields = shown.fields | step.fields | {"plan": checked.plan}
    sure = button("Yes, send them", kind="danger") if questions else None
    send = form("/start", fields, sure or button("Send", kind="main"))
    refused = checked.refusal is not None and not checked.repaid  # the plan allows to pay again
    able = checked.paid_at_most and not refused
    why = paragraph(_why_not(shown, checked), class_="problem")
    return frame(
        shown,
        "plan",
        element("h2", f"{counted(checked.to_send, 'row')} to send"),
        paragraph(cost_line(checked, job.sandbox)),
        *lines,
        *asked,
        send if able else why,
        paragraph(to("Back", local("/job", **shown.fields))),
        bodies,
    )


def _why_not(shown: Shown, checked: Checked) -> str:
    """Why a step sends nothing."""
    if checked.to_send and not checked.paid_at_most:
        limit = shown.job.to_run().limit_name(checked.paid_max)
        return f"The job file allows no more: raise `{limit}:` in it to send these rows."
    return checked.refusal or "Nothing to send."


def stop_page(shown: Shown) -> str:
    """Asks before a run leaves its requests in flight."""
    status = find_status(shown.job)
    flying = 0 if status is None else status.in_flight
    are = "1 request is" if flying == 1 else f"{flying:,} requests are"
    return frame(
        shown,
        "stop now",
        element("h2", "Stop now?"),
        paragraph(
            f"{are} in flight. If you stop now, the runner does not wait for the answers. These "
            f"rows become ambiguous: they may be {paid_word(shown.job.sandbox)} without an answer.",
            class_="problem",
        ),
        form("/stop", shown.fields, button("Stop and wait for the answers", kind="main")),
        form(
            "/stop",
            shown.fields | {"now": "1"},
            button(f"Stop now, lose {flying:,}", kind="danger"),
        ),
    )
