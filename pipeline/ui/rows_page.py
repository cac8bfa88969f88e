"""Screen 4, the rows: the sheet as a table, and one row next to it, for reading and review."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from pipeline.core.added_columns import ALL_KINDS
from pipeline.core.errors import Refused
from pipeline.core.review import Decision
from pipeline.core.wording import counted
from pipeline.inputs.stored import stored_cells_at, stored_columns
from pipeline.planning.selection import RowNumbers
from pipeline.report.html.markup import Child, Markup, cut, element, foreign, http_url, joined, link
from pipeline.show.choice import REVIEWS, STATUSES, Choice
from pipeline.show.rows import Shown as Chosen
from pipeline.show.rows import ShownAttempt, ShownRow, ShownVersion, showing
from pipeline.show.words import changes
from pipeline.ui.answers import rendered
from pipeline.ui.job_page import Shown, frame
from pipeline.ui.markup import area, bdi, button, choice, field, form, local, paragraph, to
from pipeline.ui.steps import Step

PAGE_ROWS = 50
_CELL, _OWN_COLUMNS, _CITATIONS = 120, 6, 200
_FILTERS = ("status", "code", "id", "review")


@dataclass(frozen=True, slots=True)
class Filter:
    """The rows that the user wants to see, and the page of them, from 1."""

    values: Mapping[str, str]
    page: int = 1

    @classmethod
    def of_fields(cls, fields: Mapping[str, str]) -> Filter:
        number = fields.get("page", "1")
        values = {name: fields[name].strip() for name in _FILTERS if fields.get(name, "").strip()}
        return cls(values, max(1, int(number[:9])) if number.isdecimal() else 1)

    @property
    def choice(self) -> Choice:
        """The rows of all pages."""
        given = {name: (text,) for name, text in self.values.items()}
        return Choice(
            ids=given.get("id", ()),
            statuses=given.get("status", ()),
            codes=given.get("code", ()),
            reviews=given.get("review", ()),
        )

    @property
    def fields(self) -> dict[str, str]:
        """The fields of an address that keep this filter."""
        return {**self.values, **({"page": str(self.page)} if self.page > 1 else {})}


def rows_page(shown: Shown, wanted: Filter, opened: str | None = None) -> str:
    """The table of one page of rows, and a place for one of them, `opened` if it is given."""
    with showing(shown.job, wanted.choice) as chosen:
        total, names = chosen.count, stored_columns(chosen.source.snapshot)
        here = _one_page(chosen, wanted.page)
        rows = list(here.rows())
        numbers = frozenset(row.row for row in rows)
        cells = dict(stored_cells_at(chosen.source.snapshot, numbers)) if rows else {}
    body = (
        _table(shown, wanted, rows, names, cells) if rows else paragraph("No row fits this filter.")
    )
    beside = element(
        "aside",
        row_part(shown, opened) if opened else None,
        attributes={"id": "beside", "aria-live": "polite", "aria-label": "One row"},
    )
    return frame(
        shown,
        "rows",
        _filter_form(shown, wanted),
        _pages(shown, wanted, total),
        element("div", element("div", body, class_="wide"), beside, class_="split"),
    )


def _one_page(chosen: Chosen, page: int) -> Chosen:
    """The rows of one page, of those that are chosen."""
    mask = np.zeros_like(chosen.mask)
    places = np.flatnonzero(chosen.mask)[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    mask[places] = True
    return replace(chosen, mask=mask)


def _filter_form(shown: Shown, wanted: Filter) -> Markup:
    def options(words: Iterable[str]) -> dict[str, str]:
        return {"": "all"} | {str(word): str(word) for word in words}

    values = wanted.values
    return form(
        "/rows",
        shown.fields,
        choice("status", options(STATUSES), values.get("status", ""), "Status"),
        choice("review", options(REVIEWS), values.get("review", ""), "Review"),
        *(
            element("label", word, " ", field("text", name, values.get(name, ""), size="12"))
            for name, word in (("code", "Error code"), ("id", "Id"))
        ),
        button("Filter"),
        method="get",
    )


def _pages(shown: Shown, wanted: Filter, total: int) -> Markup:
    last = max(1, -(-total // PAGE_ROWS))

    def page(number: int, word: str) -> Child:
        if not 1 <= number <= last:
            return None
        fields = shown.fields | wanted.fields | {"page": str(number)}
        return to(word, local("/rows", **fields))

    return paragraph(
        f"{counted(total, 'row')}, page {wanted.page} of {last}. ",
        page(wanted.page - 1, "Previous"),
        " ",
        page(wanted.page + 1, "Next"),
    )


def _table(
    shown: Shown,
    wanted: Filter,
    rows: list[ShownRow],
    names: tuple[str, ...],
    cells: Mapping[int, tuple[str, ...]],
) -> Markup:
    parts = tuple(rows[0].columns)
    own = names[:_OWN_COLUMNS]
    more = len(names) - len(own)
    head = ("Row", "status", "answer", *parts, *own, "flags", "review")
    note = f"Each row opens with {counted(more, 'more column')} of the sheet." if more else None
    return element(
        "table",
        element("caption", note) if note else None,
        element("thead", element("tr", *(_head(name) for name in head))),
        element("tbody", *(_line(shown, row, cells[row.row][: len(own)]) for row in rows)),
    )


def _head(name: str) -> Markup:
    return element("th", foreign(name, _CELL), attributes={"scope": "col"})


def _line(shown: Shown, row: ShownRow, cells: Iterable[str]) -> Markup:
    address = local("/row", **shown.fields, row=row.row)
    part = local("/row", **shown.fields, row=row.row, part=1)
    opened = to(row.name, address, hx_get=part.text, hx_target="#beside")
    status = row.status + (f" ({row.error_code})" if row.error_code else "")
    parts = (text or "" for text in row.columns.values())
    texts = (status, row.answer or "", *parts, *cells, ", ".join(row.flags), row.review or "")
    return element(
        "tr",
        element("th", opened, attributes={"scope": "row"}),
        *(element("td", foreign(text, _CELL)) for text in texts),
    )


def row_part(shown: Shown, number: str) -> Markup:
    """One row: what was sent, its answer, its requests, and what a person can do with it.

    Raises:
        Refused: if the sheet has no such row.
    """
    row, cells = _one_row(shown, number)
    return joined(
        element("h2", foreign(row.name, _CELL)),
        paragraph(_state(row)),
        paragraph(foreign(row.error_message, 2000), class_="problem")
        if row.error_message
        else None,
        *_review_forms(shown, row),
        *_answer(row),
        element("h3", "Sent" if row.sent else "To send"),
        _pairs(row.variables),
        element("details", element("summary", "The row of the sheet"), _pairs(cells)),
        _attempts(row.attempts),
        *_versions(row.versions),
    )


def row_page(shown: Shown, number: str) -> str:
    """The same as a whole page, for a browser without scripts."""
    return frame(shown, "row", row_part(shown, number))


def _one_row(shown: Shown, number: str) -> tuple[ShownRow, dict[str, str]]:
    """Returns a row, and its cells by column."""
    if not number.isdecimal() or not 1 <= int(number[:12]) <= 10**9:
        raise Refused("The page has no such row.")
    rows = RowNumbers(((int(number), int(number)),))
    with showing(shown.job, Choice(rows=rows), versions=True, kinds=ALL_KINDS) as chosen:
        copy = chosen.source.snapshot
        [(_, cells)] = stored_cells_at(copy, frozenset({int(number)}))
        return next(chosen.rows()), dict(zip(stored_columns(copy), cells, strict=True))


def _state(row: ShownRow) -> str:
    code = f" ({row.error_code})" if row.error_code else ""
    flags = f" Flags: {', '.join(row.flags)}." if row.flags else ""
    review = f" Review: {row.review}." if row.review else ""
    return f"Status: {row.status}{code}.{flags}{review}"


def _answer(row: ShownRow) -> Iterator[Markup]:
    if row.answer is None:
        return
    yield element("h3", "Answer")
    yield rendered(row.answer)
    plain = element("pre", bdi(row.answer), attributes={"dir": "auto"})
    yield element("details", element("summary", "The same as plain text"), plain)
    if any(row.columns.values()):
        yield _pairs({name: text or "" for name, text in row.columns.items()})
    if row.citations:
        yield element("h3", "Citations")
        shown = row.citations[:_CITATIONS]
        yield element("ol", *(element("li", _citation(one.title, one.url)) for one in shown))


def _citation(title: str, address: str) -> Markup:
    url = http_url(address)
    if url is None:
        return foreign(f"{title} {address}", 2000)
    return joined(link(cut(title or address, 300), url), f" ({url.host})")


def _pairs(texts: Mapping[str, str]) -> Markup:
    found = [
        joined(element("dt", foreign(name, _CELL)), element("dd", bdi(text)))
        for name, text in texts.items()
    ]
    return element("dl", *found)


def _attempts(attempts: tuple[ShownAttempt, ...]) -> Markup | None:
    if not attempts:
        return None
    head = ("Sent at", "Version", "Outcome", "HTTP", "Paid", "Message")
    return joined(
        element("h3", "Requests"),
        element(
            "div",
            element(
                "table",
                element("thead", element("tr", *map(_head, head))),
                element("tbody", *map(_attempt, attempts)),
            ),
            class_="wide",
        ),
    )


def _attempt(one: ShownAttempt) -> Markup:
    outcome = one.outcome + (f" ({one.code})" if one.code else "")
    sent = one.sent_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    texts = (sent, str(one.version), outcome, str(one.http_status or ""), one.paid, one.message)
    return element("tr", *(element("td", foreign(text, 500)) for text in texts))


def _versions(versions: tuple[ShownVersion, ...]) -> Iterator[Markup]:
    """The earlier paid answers, each with the words that the next one changed."""
    if len(versions) < 2:
        return
    yield element("h3", "Versions")
    for old, new in pairwise(versions):
        words: list[Child] = []
        for part in changes(old.answer, new.answer):
            if part.same:
                words.append(part.new)
            else:
                words.append(element("del", part.old) if part.old else None)
                words.append(element("ins", part.new) if part.new else None)
        summary = element("summary", f"From version {old.version} to {new.version}")
        yield element("details", summary, element("pre", *words))


def _review_forms(shown: Shown, row: ShownRow) -> Iterator[Markup]:
    if row.answer_id is None:
        return
    fields = shown.fields | {"row": str(row.row), "answer": row.answer_id}
    words = {Decision.APPROVED: "Approve", Decision.REJECTED: "Reject"}
    if row.review:
        words[Decision.RESET] = "Undo the review"
    yield element(
        "div",
        *(
            form("/review", fields | {"decision": word}, button(text))
            for word, text in words.items()
        ),
        class_="buttons",
    )
    if row.review not in (Decision.APPROVED, Decision.EDITED):
        step = Step(again=row.answer_id)
        yield paragraph(to("Ask again…", local("/plan", **shown.fields, **step.fields)))
    edit = form(
        "/review",
        fields | {"decision": str(Decision.EDITED)},
        area("text", row.answer or "", 10, aria_label="The edited answer"),
        button("Save this text"),
    )
    yield element("details", element("summary", "Edit the answer"), edit)


def review_question(shown: Shown, question: str, fields: Mapping[str, str]) -> str:
    """Asks before a decision that counts for other rows too."""
    return frame(
        shown,
        "review",
        paragraph(question, class_="problem"),
        form("/review", {**fields, "sure": "1"}, button("Yes, save it", kind="main")),
        paragraph(to("Back", local("/rows", **shown.fields, open=fields.get("row")))),
    )
