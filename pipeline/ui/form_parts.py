"""The form of a job file as markup: each field with its label, and with its error below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.wording import counted, shortened
from pipeline.inputs.formats import settings_of
from pipeline.inputs.unseen import unseen_lines
from pipeline.job.spec_keys import EMPTY_CHOICES
from pipeline.report.html.markup import Child, Markup, Url, element, foreign, joined
from pipeline.scaffold.preview import MOST_PROBLEMS, Preview, Problem
from pipeline.ui.markup import area, button, column_head, entry, form, paragraph, select
from pipeline.ui.spec_form import LEFT_OUT, LIMITS, SAME, Line, Typed, code_of

_CELL, _EXAMPLE, _MESSAGE, _BODY = 120, 40, 2000, 4000
_MOST_SHOWN = 30
_BLANK_LINES = 2
_EMPTY_WORDS = {
    "refuse": "refuse the sheet",
    "skip": "skip the row",
    "send": "send an empty text",
}
_LABELS = {
    "sheet": ("Worksheet", "the only one"),
    "header_row": ("Row of the column names", "1"),
    "encoding": ("Encoding", "UTF-8"),
    "separator": ("Separator", "found in the header"),
    "max_paid": ("Most requests to pay for, in all runs", "no limit"),
    "max_paid_per_run": ("Most requests to pay for, in one run", "no limit"),
    "rate": ("Requests per second", "learned from the server"),
    "concurrency": ("Most requests at the same time", "2000"),
    "retries": ("Retries of failed requests", "2"),
    "deadline_s": ("Seconds to wait for an answer", "330"),
}


@dataclass(frozen=True, slots=True)
class FormView:
    """What a form shows: the fields, their errors, and why some of them cannot change."""

    typed: Typed
    preview: Preview
    worksheets: tuple[str, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
    locked: Mapping[str, str] = field(default_factory=dict)


def spec_form(view: FormView, path: str, hidden: Mapping[str, object], action: str) -> Markup:
    """The form. `action` is the word on its button."""
    typed = view.typed
    return form(
        f"{path}#draft",
        hidden,
        _sheet_fields(view),
        element("h2", "The workflow"),
        element(
            "div",
            _field(view, "workflow", "Workflow id", "such as wf_abc123", autocomplete="off"),
            _field(view, "name", "Name of the job", "letters, digits, - and _"),
            class_="fields",
        ),
        element("h2", "The variables of the workflow"),
        paragraph(
            "Write each name exactly as it is between {{ }} in the template, and choose the column "
            "that fills it. Leave out the columns that the template does not use.",
            class_="soft",
        ),
        *_lines(view),
        _error("variables", view.errors),
        element("h2", "Empty cells and other rules"),
        element(
            "div",
            select(
                "empty",
                "If a cell of another column is empty",
                _EMPTY_WORDS,
                typed.values["empty"],
            ),
            _id(view),
            _dedupe(view),
            _hidden(view),
            class_="fields",
        ),
        element("h2", "Limits"),
        element("div", *(_field(view, name, *_LABELS[name]) for name in LIMITS), class_="fields"),
        paragraph(button(action, kind="main", name="do", value="show")),
        class_="spec",
        novalidate="",
    )


def sheet_form(
    sheet: str, typed: Mapping[str, str], problem: str, worksheets: tuple[str, ...], path: str
) -> Markup:
    """Only the fields that say how the sheet is read, for one that cannot be read yet. `typed` are
    all fields of the form, which are kept."""
    names = settings_of_sheet(sheet)
    wrong = next((n for n in names if f"`{n}:" in problem or f"`{n}`" in problem), None)
    errors = {wrong: problem} if wrong else {}
    rest = {name: text for name, text in typed.items() if name not in names and name != "do"}
    alone = None if wrong else element("p", problem, class_="problem", attributes={"role": "alert"})
    fields = [_setting(n, typed.get(n, ""), errors, worksheets, None) for n in names]
    return form(
        path,
        rest,
        alone,
        element("div", *fields, class_="fields"),
        paragraph(button("Read the sheet again", kind="main", name="do", value="read")),
        class_="spec",
        novalidate="",
    )


def settings_of_sheet(sheet: str) -> tuple[str, ...]:
    """The keys that say how this sheet is read."""
    return tuple(name for name in settings_of(Path(sheet)) if name in _LABELS)


def _sheet_fields(view: FormView) -> Markup | None:
    names = settings_of_sheet(str(view.preview.draft.input))
    if not names:
        return None
    fields = [
        _setting(n, view.typed.values[n], view.errors, view.worksheets, view.locked.get(n))
        for n in names
    ]
    summary = element("summary", "How the sheet is read")
    again = paragraph(button("Read the sheet again", name="do", value="read"))
    is_open: dict[str, str | Url] = {"open": ""} if view.errors.keys() & set(names) else {}
    return element(
        "details", summary, element("div", *fields, class_="fields"), again, attributes=is_open
    )


def _setting(
    name: str,
    value: str,
    errors: Mapping[str, str],
    worksheets: tuple[str, ...],
    locked: str | None,
) -> Markup:
    label, left_out = _LABELS[name]
    if name == "sheet" and worksheets and locked is None:
        none = left_out if len(worksheets) == 1 else "(choose one)"
        options = {"": none} | {one: one for one in (*worksheets, value) if one}
        return element("div", select(name, label, options, value), _error(name, errors))
    return _entry(name, label, left_out, value, errors, locked)


def _field(view: FormView, name: str, label: str, left_out: str, **more: str) -> Markup:
    value = view.typed.values[name]
    return _entry(name, label, left_out, value, view.errors, view.locked.get(name), **more)


def _entry(
    name: str,
    label: str,
    left_out: str,
    value: str,
    errors: Mapping[str, str],
    locked: str | None,
    **more: str,
) -> Markup:
    given = {"placeholder": left_out, **more, **_marks(name, errors)}
    if locked is not None:
        given |= {"readonly": ""}
    note = element("small", f"{locked}.") if locked else None
    return element("div", entry(name, label, value, **given), _error(name, errors), note)


def _marks(name: str, errors: Mapping[str, str]) -> dict[str, str]:
    return {"aria-invalid": "true", "aria-describedby": f"e-{name}"} if name in errors else {}


def _error(name: str, errors: Mapping[str, str]) -> Markup | None:
    if name not in errors:
        return None
    return element(
        "p", errors[name], attributes={"id": f"e-{name}", "role": "alert"}, class_="problem"
    )


def _lines(view: FormView) -> Iterator[Markup]:
    blank = [Line()] * _BLANK_LINES
    options = _column_options(view)
    for number, line in enumerate([*view.typed.lines, *blank]):
        key, errors = f"v{number}", view.errors
        gone = {} if line.source in options else {line.source: "(not in the sheet)"}
        yield element(
            "div",
            entry(f"{key}.name", f"Variable {number + 1}", line.name, **_marks(key, errors)),
            select(
                f"{key}.source",
                "Column, and its first text",
                options | gone,
                line.source,
                class_="source",
            ),
            element(
                "label",
                "Text",
                area(f"{key}.text", line.text, 1),
                class_="same",
            ),
            select(
                f"{key}.empty",
                "If its cell is empty",
                {"": "as set below"} | {word: _EMPTY_WORDS[word] for word in EMPTY_CHOICES},
                line.empty,
                class_="gaps",
            ),
            _error(key, errors),
            class_="line",
        )


def _column_options(view: FormView) -> dict[str, str]:
    found = {LEFT_OUT: "(left out)", SAME: "(the same text in every row)"}
    first = view.preview.rows[0] if view.preview.rows else ()
    for column, text in zip(view.preview.columns, first, strict=True):
        example = shortened(text)[:_EXAMPLE].strip()
        name = shortened(column)
        found[code_of(column)] = f"{name} · {example}" if example else f"{name} · (empty)"
    return found


def _id(view: FormView) -> Markup:
    options = {"": "(none)"}
    options |= {code_of(c): shortened(c) for c in view.preview.columns}
    return select("id", "The column that identifies a row", options, view.typed.values["id"])


def _dedupe(view: FormView) -> Markup:
    options = {"": "send each of them", "1": "send one, for all of them"}
    return select("dedupe", "Equal rows", options, view.typed.values["dedupe"])


def _hidden(view: FormView) -> Markup | None:
    if "hidden" not in settings_of(view.preview.draft.file):
        return None
    options = {"send": "send them like the others", "skip": "skip them"}
    return select("hidden", "Hidden rows", options, view.typed.values["hidden"])


def preview_part(preview: Preview) -> Markup:
    """The first rows, the types of the columns, what is hidden, and the cells that cannot be
    sent."""
    facts = [paragraph(foreign(line, _MESSAGE)) for line in unseen_lines(preview.sheet, "send")]
    more = len(preview.columns) - _MOST_SHOWN
    wide = paragraph(f"And {counted(more, 'more column')}.", class_="soft") if more > 0 else None
    return element(
        "section",
        element("div", _table(preview), class_="wide"),
        wide,
        paragraph(f"{counted(preview.row_count, 'row')}.", class_="soft"),
        *facts,
        _problems(preview),
    )


def _table(preview: Preview) -> Markup:
    hidden = set(preview.sheet.hidden_columns)
    heads = [
        column_head(
            joined(
                foreign(name, _CELL),
                element("small", f"{kind}{', hidden' if name in hidden else ''}"),
            )
        )
        for name, kind in zip(preview.columns[:_MOST_SHOWN], preview.types, strict=False)
    ]
    lines = [
        element(
            "tr",
            element("th", f"{number}{' (hidden)' if out else ''}", attributes={"scope": "row"}),
            *(element("td", foreign(text, _CELL)) for text in row[:_MOST_SHOWN]),
        )
        for number, out, row in zip(
            preview.row_numbers, preview.hidden_rows, preview.rows, strict=True
        )
    ]
    caption = element("caption", "The first rows, as the runner reads them")
    corner = column_head(preview.place_word.capitalize())
    return element(
        "table",
        caption,
        element("thead", element("tr", corner, *heads)),
        element("tbody", *lines),
        class_="sheet",
    )


def _problems(preview: Preview) -> Markup | None:
    """A line for each column and reason. A column of formulas has the same reason in each cell."""
    found: dict[tuple[str, str], list[Problem]] = {}
    for one in preview.problems:
        found.setdefault((one.column, one.what), []).append(one)
    if not found:
        return None
    number = len(preview.problems)
    most = f"the first {number}" if number == MOST_PROBLEMS else str(number)
    summary = element("summary", f"Cells and columns that cannot be sent: {most}")
    why = paragraph("Fix them in the sheet, or leave out their columns.", class_="soft")
    lines = [element("li", *_problem(cells, preview.place_word)) for cells in found.values()]
    return element("details", summary, why, element("ul", *lines), attributes={"open": ""})


def _problem(cells: Sequence[Problem], place_word: str) -> Iterator[Child]:
    """Cells of one column with the same reason."""
    one, more = cells[0], len(cells) - 1
    row = "" if one.row is None else f"{place_word} {one.row}, "
    yield joined(f"{row}column ", foreign(one.column, _CELL), ": ")
    where = one.where + (f" and {counted(more, 'more cell')}" if more else "")
    yield foreign(one.what if one.row is None else f"{where}: {one.what}", _MESSAGE)


def request_part(row: int, body: str) -> Markup:
    """The exact request of one row."""
    return element("pre", f"Row {row}: ", foreign(body, _BODY))
