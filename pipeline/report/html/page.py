"""report.html as markup: one page that loads nothing, for a screen, a phone and paper.

Its content security policy forbids scripts and everything that a browser would fetch, and allows
the one style sheet by its hash. The texts about failures come from the same functions as those in
the terminal.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipeline.core.model import ROW_COUNTS, RateLimit, State, Summary
from pipeline.core.wording import counted
from pipeline.inputs.row_names import RowNames
from pipeline.ledger.past_runs import RunFacts
from pipeline.ledger.queries import LastRun
from pipeline.ledger.trends import History
from pipeline.report.groups import Group
from pipeline.report.html.charts import Picture, duration
from pipeline.report.html.markup import (
    Child,
    Markup,
    cut,
    element,
    foreign,
    http_url,
    joined,
    link,
)
from pipeline.report.html.samples import SampleAnswer, Samples
from pipeline.report.html.style import STYLE
from pipeline.report.overview import FlaggedAnswers
from pipeline.report.terminal import (
    MARKED_TITLE,
    group_line,
    left_out_line,
    mark_line,
    mark_meaning,
    marked_note,
    more_marks,
    unread_line,
)
from pipeline.status.summary_lines import (
    last_run_line,
    next_note,
    outcome_line,
    paid_line,
    rate_limit_lines,
    review_lines,
)

# Together they keep a page small even if every character of it takes eight when escaped.
_MOST_GROUPS, _MOST_RUNS, _MOST_CITATIONS, _MOST_VARIABLES = 12, 30, 6, 8
_TITLE, _SHORT, _MESSAGE, _RESULT = 120, 160, 300, 1500
_LOOK = (
    "`export --flags` writes the flags next to the answers. `run --again FLAG` sends these rows "
    "once more, for another version of their answers. It shows the cost and asks first."
)
_WHY = {
    "first": "one of the first",
    "random": "picked at random",
    "longest": "the longest one read",
}


@dataclass(frozen=True, slots=True)
class PageFacts:
    """The data of a page. `sent` has the variables (JSON text) of the rows that `groups` name, by
    row of the sheet. `written_at` is in seconds since 1970. `to_add` names the options that its
    commands lack. `marked`, `unread` and `names` are those of the `Report`, but `names` also has
    the rows of `samples`. `sources` has a line about each earlier stage, and `reviews`
    counts the reviewed rows by their decision."""

    summary: Summary
    groups: Sequence[Group]
    last_run: LastRun | None
    in_use: bool
    in_flight: int
    rehearsal: bool
    workflow: str
    history: History
    samples: Samples
    sent: Mapping[int, str]
    pictures: Sequence[Picture]
    written_at: float
    version: str
    rate_limit: RateLimit | None = None
    to_add: str | None = None
    marked: Sequence[FlaggedAnswers] = ()
    unread: str | None = None
    names: RowNames = field(default_factory=RowNames)
    sources: Sequence[str] = ()
    reviews: Mapping[str, int] = field(default_factory=dict)


def page(facts: PageFacts) -> str:
    """The whole document."""
    title = f"{cut(facts.summary.job, _TITLE)}: report"
    document = element(
        "html",
        element("head", *_head(title, facts.version)),
        element(
            "body",
            element(
                "main",
                *_outcome(facts),
                _failures(facts),
                _marked(facts),
                _pictures(facts.pictures),
                _samples(facts.samples, facts.names),
                _runs(facts.history.runs),
            ),
            _footer(facts),
        ),
        attributes={"lang": "en"},
    )
    return f"<!DOCTYPE html>\n{document.source}\n"


def policy() -> str:
    """The content security policy of the page: a browser may show it with its own style sheet, and
    do nothing else."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _head(title: str, version: str) -> Iterable[Markup]:
    yield element("meta", attributes={"charset": "utf-8"})
    yield element("meta", attributes={"http-equiv": "Content-Security-Policy", "content": policy()})
    for name, content in (
        ("viewport", "width=device-width, initial-scale=1"),
        ("referrer", "no-referrer"),
        ("robots", "noindex"),
        ("color-scheme", "light dark"),
        ("generator", f"pipeline {version}"),
    ):
        yield element("meta", attributes={"name": name, "content": content})
    yield element("title", title)
    yield element("style", STYLE)


def _outcome(facts: PageFacts) -> Iterable[Child]:
    summary = facts.summary
    yield element("h1", foreign(summary.job, _TITLE))
    yield element("p", foreign(outcome_line(summary), 1000), class_="outcome")
    for line in facts.sources:
        yield element("p", foreign(line, 1000))
    if facts.rehearsal:
        words = "This is a rehearsal with the local sandbox. It cost nothing."
        yield element("p", words, class_="rehearsal")
    yield element(
        "ul",
        *(
            element("li", element("b", f"{getattr(summary, state):,}"), f" {state}", class_=state)
            for state in ROW_COUNTS
        ),
        class_="counts",
    )
    for line in review_lines(facts.reviews):
        yield element("p", line)
    yield element("p", paid_line(summary, facts.rehearsal), " ", _paid(summary))
    yield element("p", last_run_line(facts.last_run, facts.in_use, facts.in_flight))
    yield from (element("p", line) for line in rate_limit_lines(facts.rate_limit))
    if summary.resume_command:
        yield element("p", next_note(summary, facts.rehearsal), " Next:")
        yield _command(summary.resume_command)
    if facts.to_add:
        yield element("p", foreign(facts.to_add, 1000))


def _paid(summary: Summary) -> str:
    """Explains the one or two numbers of `paid_line`."""
    if summary.paid_min == summary.paid_max:
        return "Each of them brought an answer. The runner counts requests, not credits."
    return (
        f"{summary.paid_min:,} requests brought an answer. The higher number includes the requests "
        "whose outcome is unknown. The runner counts requests, not credits."
    )


def _failures(facts: PageFacts) -> Markup | None:
    if not facts.groups:
        return None
    more = left_out_line(facts.groups, _MOST_GROUPS)
    return element(
        "section",
        element("h2", "Rows that are not ok, and what to do"),
        *(_group(group, facts) for group in facts.groups[:_MOST_GROUPS]),
        element("p", more) if more else None,
    )


def _marked(facts: PageFacts) -> Markup | None:
    """The answers to look at, next to the rows that failed: their rows count as ok."""
    if facts.unread:
        lines = [element("p", foreign(unread_line(facts.unread), 1000))]
    elif facts.marked:
        note = f"{_sentence(marked_note(facts.rehearsal))} Only a reader can judge the answers."
        marks = [_mark(found, facts.names) for found in facts.marked[:_MOST_GROUPS]]
        ends = filter(None, (more_marks(facts.marked, _MOST_GROUPS), _LOOK))
        lines = [element("p", note), *marks, *(element("p", end) for end in ends)]
    else:
        return None
    return element("section", element("h2", MARKED_TITLE), *lines)


def _mark(found: FlaggedAnswers, names: RowNames) -> Markup:
    return element(
        "article",
        element("h3", foreign(mark_line(found, names), _MESSAGE)),
        element("p", _sentence(mark_meaning(found))),
        _command(found.command) if found.command else None,
        class_="marked",
    )


def _sentence(text: str) -> str:
    return f"{_capital(text)}."


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _group(group: Group, facts: PageFacts) -> Markup:
    sent = facts.sent
    rows = [row for row in group.first_rows if row in sent]
    first = group.message and group.state is not State.PENDING
    return element(
        "article",
        element("h3", foreign(group_line(group, facts.rehearsal, facts.names), _MESSAGE)),
        element("p", group.advice),
        element("p", "First message: ", foreign(group.message, _MESSAGE)) if first else None,
        *(_sent(_row(row, facts.names), sent[row]) for row in rows),
        _command(group.command) if group.command else None,
        class_=str(group.state),
    )


def _command(command: str) -> Markup:
    """A command to paste. It wraps only between words, and is one line when copied."""
    first, *rest = command.split(" ")
    words = [part for word in rest for part in (" ", element("span", word))]
    return element("pre", element("code", element("span", first), *words), class_="command")


def _row(number: int, names: RowNames) -> Markup:
    return foreign(_capital(names.row(number)), _MESSAGE)


def _sent(heading: Markup, variables: str) -> Markup:
    return element("div", element("p", heading, class_="row"), _variables(variables), class_="sent")


def _variables(text: str) -> Markup:
    """The variables of a request, each cut to about two lines."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return element("p", foreign(text, _SHORT))
    pairs = []
    for name, value in list(found.items())[:_MOST_VARIABLES]:
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        pairs += [element("dt", foreign(name, _TITLE)), element("dd", foreign(shown, _SHORT))]
    left = len(found) - _MOST_VARIABLES
    more = element("p", f"and {counted(left, 'variable')} more") if left > 0 else None
    return joined(element("dl", *pairs), more)


def _pictures(pictures: Sequence[Picture]) -> Markup | None:
    if not pictures:
        return None
    figures = [
        element(
            "figure",
            element("h3", picture.title),
            picture.svg,
            element("figcaption", foreign(picture.caption, 1000)),
        )
        for picture in pictures
    ]
    return element(
        "section",
        element("h2", "Charts"),
        element("div", *figures, class_="pictures"),
    )


def _samples(samples: Samples, names: RowNames) -> Markup | None:
    if not samples.shown:
        return None
    read = f"{samples.answers:,} answers"
    if samples.parts_read < samples.parts:
        read += f" in {samples.parts_read} of {samples.parts} parts of the results"
    return element(
        "section",
        element("h2", "Some of the answers"),
        element("p", f"{len(samples.shown)} of the {read}, the ones that this report read."),
        *(_answer(answer, names) for answer in samples.shown),
    )


def _answer(answer: SampleAnswer, names: RowNames) -> Markup:
    return element(
        "article",
        element("h3", _row(answer.sheet_row, names), " ", element("small", _WHY[answer.why])),
        _variables(answer.variables),
        element("div", cut(answer.result, _RESULT), attributes={"dir": "auto"}, class_="result"),
        _citations(answer.citations),
        class_="answer",
    )


def _citations(citations: Sequence[tuple[str, str]]) -> Markup | None:
    if not citations:
        return None
    left = len(citations) - _MOST_CITATIONS
    return element(
        "ol",
        *(element("li", _citation(*citation)) for citation in citations[:_MOST_CITATIONS]),
        element("li", f"and {left} more") if left > 0 else None,
        class_="citations",
    )


def _citation(title: str, address: str) -> Markup:
    """A title as a link to its address, followed by the host that the link really leads to."""
    url = http_url(address)
    if url is None:
        return joined(foreign(title, _SHORT), " ", element("small", foreign(address, _SHORT)))
    text = cut(title.strip() or url.host, _SHORT)
    host = None if text == url.host else element("small", cut(url.host, _SHORT))
    return joined(link(text, url), " ", host)


def _runs(runs: Sequence[RunFacts]) -> Markup:
    shown = runs[-_MOST_RUNS:]
    left = len(runs) - len(shown)
    head = ("run", "began (UTC)", "took", "requests", "ok", "429", "ended")
    return element(
        "section",
        element("h2", "Runs"),
        element(
            "div",
            element(
                "table",
                element("thead", element("tr", *(element("th", name) for name in head))),
                element("tbody", *map(_run, reversed(shown))),
            ),
            class_="wide",
        ),
        element("p", f"{counted(left, 'earlier run')} not shown.") if left else None,
    )


def _run(run: RunFacts) -> Markup:
    took, ended = "", "killed, or still active"
    if run.finished_at is not None:
        took = duration(max(run.finished_at - run.started_at, 0.0))
        ended = f"exit {run.exit_code}" + (f", stopped: {run.stopped}" if run.stopped else "")
    counts = (f"{run.requests:,}", f"{run.ok:,}", f"{run.rate_limited:,}")
    cells = (cut(run.run_id, _SHORT), _moment(run.started_at), took, *counts, cut(ended, _SHORT))
    return element("tr", *(element("td", cell) for cell in cells))


def _footer(facts: PageFacts) -> Markup:
    return element(
        "footer",
        element(
            "p",
            f"Written {_moment(facts.written_at)} UTC by pipeline {facts.version}; workflow ",
            foreign(facts.workflow, _TITLE),
            ". ",
            f"{counted(facts.history.checked, 'attempt')}, every row of the ledger and the parts "
            "with the answers shown matched their checksums. `pipeline report` writes this page "
            "again.",
        ),
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
