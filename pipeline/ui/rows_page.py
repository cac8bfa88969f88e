"""Screen 4, the rows: the sheet as a table, and one row next to it, for reading and review."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from pipeline.core.errors import Refused
from pipeline.core.wording import counted
from pipeline.report.html.markup import Child, Markup, element, foreign
from pipeline.show.choice import REVIEWS, STATUSES, Choice
from pipeline.show.finder import Finder
from pipeline.show.found import Found, FoundRow
from pipeline.show.indexing import Indexing
from pipeline.ui.job_page import Shown, frame
from pipeline.ui.markup import button, choice, column_head, field, form, local, paragraph, to
from pipeline.ui.row_page import indexing_words, row_part

PAGE_ROWS = 50
_MOST_FIELDS = 20
_CELL, _OWN_COLUMNS = 120, 6
_FILTERS = ("status", "code", "id", "review", "flag", "text", "column")
_TEXTS = {"code": "Error code", "id": "Id", "flag": "Flag", "text": "Text"}


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
            flags=given.get("flag", ()),
            find=self.values.get("text"),
            find_in=self.values.get("column"),
        )

    @property
    def fields(self) -> dict[str, str]:
        """The fields of an address that keep this filter."""
        return {**self.values, **({"page": str(self.page)} if self.page > 1 else {})}

    @property
    def text(self) -> str:
        """The filter as one field of another form."""
        return urlencode(self.fields)

    @classmethod
    def of_text(cls, text: str) -> Filter:
        """The filter of such a field. What is no filter is left out."""
        try:
            return cls.of_fields(dict(parse_qsl(text, max_num_fields=_MOST_FIELDS)))
        except ValueError:
            return cls({})


def rows_page(shown: Shown, wanted: Filter, finder: Finder, opened: str | None = None) -> str:
    """The table of one page of rows, and a place for one of them, `opened` if it is given."""
    first = (wanted.page - 1) * PAGE_ROWS
    try:
        found = finder.find(wanted.choice, first, PAGE_ROWS)
    except Refused as error:
        if not wanted.values:
            raise
        return _refused(shown, wanted, str(error))
    if isinstance(found, Indexing):
        return _waiting(shown, wanted, found)
    body = _table(shown, wanted, found) if found.rows else paragraph("No row fits this filter.")
    beside = element(
        "aside",
        row_part(shown, finder, opened, wanted.text) if opened else None,
        attributes={"id": "beside", "aria-live": "polite", "aria-label": "One row"},
    )
    return frame(
        shown,
        "rows",
        _filter_form(shown, wanted, found.searched),
        _pages(shown, wanted, found.total),
        element("div", element("div", body, class_="wide"), beside, class_="split"),
    )


def _refused(shown: Shown, wanted: Filter, problem: str) -> str:
    """The filter again, with the reason why no row can fit it."""
    column = wanted.values.get("column")
    return frame(
        shown,
        "rows",
        _filter_form(shown, wanted, [column] if column else []),
        element("p", problem, class_="problem", attributes={"role": "alert"}),
        paragraph(to("All rows", local("/rows", **shown.fields))),
    )


def _waiting(shown: Shown, wanted: Filter, indexing: Indexing) -> str:
    """Says how far the index is, and asks again until it is there."""
    address = local("/rows", **shown.fields, **wanted.fields)
    again = {"hx-get": address.text, "hx-trigger": "load delay:1s", "hx-target": "body"}
    return frame(
        shown,
        "rows",
        element(
            "p",
            indexing_words(indexing),
            to("Look again", address),
            attributes={"role": "status", **again},
        ),
    )


def _filter_form(shown: Shown, wanted: Filter, searched: Iterable[str]) -> Markup:
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
            for name, word in _TEXTS.items()
        ),
        choice("column", options(searched), values.get("column", ""), "in column"),
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


def _table(shown: Shown, wanted: Filter, found: Found) -> Markup:
    rows, names = found.rows, found.names
    parts = tuple(rows[0].columns)
    own = names[:_OWN_COLUMNS]
    more = len(names) - len(own)
    head = ("Row", "status", "answer", *parts, *own, "flags", "review")
    note = f"Each row opens with {counted(more, 'more column')} of the sheet." if more else None
    return element(
        "table",
        element("caption", note) if note else None,
        element("thead", element("tr", *(column_head(foreign(name, _CELL)) for name in head))),
        element("tbody", *(_line(shown, wanted, row, len(own)) for row in rows)),
    )


def _line(shown: Shown, wanted: Filter, row: FoundRow, own: int) -> Markup:
    address = local("/row", **shown.fields, row=row.row, back=wanted.text or None)
    part = local("/row", **shown.fields, row=row.row, part=1, back=wanted.text or None)
    opened = to(row.name, address, hx_get=part.text, hx_target="#beside")
    status = row.status + (f" ({row.error_code})" if row.error_code else "")
    parts = (text or "" for text in row.columns.values())
    cells = row.cells[:own]
    texts = (status, row.answer or "", *parts, *cells, ", ".join(row.flags), row.review or "")
    return element(
        "tr",
        element("th", opened, attributes={"scope": "row"}),
        *(element("td", foreign(text, _CELL)) for text in texts),
    )
