"""One row of screen 4: what was sent, its answer, and what a person can do with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from pipeline.core.errors import Refused
from pipeline.core.model import State
from pipeline.core.review import Decision
from pipeline.core.wording import counted
from pipeline.report.html.markup import Child, Markup, cut, element, foreign, http_url, joined, link
from pipeline.show.finder import Finder
from pipeline.show.indexing import Indexing
from pipeline.show.rows import ShownAttempt, ShownRow, ShownVersion
from pipeline.show.words import changes
from pipeline.ui.answers import rendered
from pipeline.ui.job_page import Shown, frame
from pipeline.ui.markup import area, bdi, button, column_head, form, local, paragraph, to
from pipeline.ui.steps import RESUME, Step

_CELL, _CITATIONS = 120, 200


def row_part(shown: Shown, finder: Finder, number: str, back: str = "") -> Markup:
    """One row: what was sent, its answer, its requests, and what a person can do with it. A
    decision leads to the rows of the filter `back`.

    Raises:
        Refused: if the sheet has no such row.
    """
    found = finder.row(row_number(number))
    if isinstance(found, Indexing):
        return paragraph(indexing_words(found))
    row, cells = found.row, found.cells
    return joined(
        element("h2", foreign(row.name, _CELL)),
        paragraph(_state(row)),
        paragraph(foreign(row.error_message, 2000), class_="problem")
        if row.error_message
        else None,
        _send_link(shown, row),
        *_review_forms(shown, row, back),
        *_answer(shown, row, back),
        element("h3", "Sent" if row.sent else "To send"),
        _pairs(row.variables),
        element("details", element("summary", "The row of the sheet"), _pairs(cells)),
        _attempts(row.attempts),
        *_versions(row.versions),
    )


def row_page(shown: Shown, finder: Finder, number: str, back: str = "") -> str:
    """The same as a whole page, for a browser without scripts."""
    return frame(shown, "row", row_part(shown, finder, number, back))


def row_number(text: str) -> int:
    """Returns the number of a row that an address names.

    Raises:
        Refused: if it is none.
    """
    if not text.isdecimal() or not 1 <= int(text[:12]) <= 10**9:
        raise Refused("The page has no such row.")
    return int(text)


def _state(row: ShownRow) -> str:
    code = f" ({row.error_code})" if row.error_code else ""
    flags = f" Flags: {', '.join(row.flags)}." if row.flags else ""
    review = f" Review: {row.review}." if row.review else ""
    return f"Status: {row.status}{code}.{flags}{review}"


def _send_link(shown: Shown, row: ShownRow) -> Markup | None:
    """The way to send one row that has no answer."""
    if row.status == State.OK or row.skipped:
        return None
    step = Step(RESUME, rows=str(row.row), ambiguous=row.status == State.AMBIGUOUS)
    words = "Send this row again…" if row.sent else "Send this row…"
    return paragraph(to(words, local("/plan", **shown.fields, **step.fields)))


def _answer(shown: Shown, row: ShownRow, back: str) -> Iterator[Markup]:
    if row.answer is None:
        return
    yield element("h3", "Answer")
    yield rendered(row.answer)
    plain = element("pre", bdi(row.answer), attributes={"dir": "auto"})
    yield element("details", element("summary", "The same as plain text"), plain)
    yield from _column_forms(shown, row, back)
    if row.citations:
        yield element("h3", "Citations")
        first = row.citations[:_CITATIONS]
        yield element("ol", *(element("li", _citation(one.title, one.url)) for one in first))


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
                element("thead", element("tr", *map(column_head, head))),
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


def _column_forms(shown: Shown, row: ShownRow, back: str) -> Iterator[Markup]:
    """The columns of the answer, each with a form to edit it."""
    for name, text in row.columns.items():
        fields = _of_answer(shown, row, back) | {"decision": str(Decision.EDITED), "column": name}
        shown_text = foreign(text, _CELL) if text else "empty"
        lines = 1 + min(9, len(text or "") // 60)
        edit = form(
            "/review",
            fields,
            area("text", text or "", lines, aria_label=f"The text of {name}"),
            button("Save this column"),
        )
        yield element(
            "details",
            element("summary", element("b", foreign(name, _CELL)), ": ", shown_text),
            edit,
        )


def _of_answer(shown: Shown, row: ShownRow, back: str) -> dict[str, str]:
    """The fields of a form about the answer of a row."""
    fields = shown.fields | {"row": str(row.row), "answer": row.answer_id or ""}
    return fields | ({"back": back} if back else {})


def _review_forms(shown: Shown, row: ShownRow, back: str) -> Iterator[Markup]:
    if row.answer_id is None:
        return
    fields = _of_answer(shown, row, back)
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


def indexing_words(indexing: Indexing) -> str:
    """How far the index is."""
    parts = counted(indexing.parts, "part")
    return f"The index of the answers is being made: {indexing.done:,} of {parts}. "


def review_question(shown: Shown, question: str, fields: Mapping[str, str]) -> str:
    """Asks before a decision that counts for other rows too."""
    return frame(
        shown,
        "review",
        paragraph(question, class_="problem"),
        form("/review", {**fields, "sure": "1"}, button("Yes, save it", kind="main")),
        paragraph(to("Back", local("/rows", **shown.fields, open=fields.get("row")))),
    )
