"""Screen 2, an existing job file: as a form of its keys, or as text if a form cannot change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.errors import PipelineError, Refused
from pipeline.core.wording import few_words
from pipeline.inputs.formats import worksheet_names
from pipeline.job.spec import JobSpec, key_problem, load_spec
from pipeline.job.spec_edit import edit_keys, locked_keys
from pipeline.report.html.markup import Child, element
from pipeline.run.places import Places
from pipeline.scaffold.preview import Preview, preview_sheet
from pipeline.ui.form_parts import FormView, preview_part, sheet_form, spec_form
from pipeline.ui.job_file import (
    JobFile,
    Tried,
    paid_folders,
    read_job_file,
    save_text,
    try_text,
)
from pipeline.ui.job_page import Shown, frame
from pipeline.ui.markup import area, button, document, form, local, paragraph, to
from pipeline.ui.new_page import HAS_ERRORS, FormAnswer, problem_part, requests_part
from pipeline.ui.spec_form import LINES, SCALARS, SHEET_KEYS, Typed, changes_of

_TEXT_ROWS = 24
_KEPT = "The job has a run folder, so its name stays"


def edit_page(places: Places, fields: Mapping[str, str]) -> FormAnswer:
    """A job file, as a form if its keys can be changed one by one. With `do`, the form has what the
    user typed, and "show" shows the new text. With `text`, that text is saved.

    Raises:
        Refused: if there is no job file that the page can read.
    """
    file = read_job_file(places, fields.get("at", ""))
    hidden = {"at": file.at, "rehearsal": fields.get("rehearsal"), "was": file.state}
    page = _Page(places, file, hidden)
    changed = fields.get("was", file.state) != file.state
    if "text" in fields:
        return page.saved(fields["text"], changed)
    if fields.get("as") == "text":
        return page.as_text(file.text)
    try:
        opened = _opened(file, fields)
    except PipelineError as error:
        if "do" in fields:
            return page.unreadable(fields, str(error))
        return page.as_text(file.text, _why(error, try_text(file.path, file.content)))
    if "do" in fields and changed:
        return page.as_form(opened, Typed.of_fields(fields), {}, _CHANGED)
    if "do" not in fields:
        return page.as_form(opened, opened.given, {})
    return page.compared(opened, Typed.of_fields(fields), shown=fields["do"] == "show")


_CHANGED = (
    "An editor or another tab changed the job file in the meantime. Nothing was saved. Open the "
    "job file again to see it."
)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A job file that a form can show."""

    spec: JobSpec
    preview: Preview
    worksheets: tuple[str, ...]
    given: Typed
    locked: dict[str, str]


def _opened(file: JobFile, fields: Mapping[str, str]) -> _Opened:
    """Raises:
    Refused: with the reason why the file opens as text.
    """
    if not file.is_text:
        raise Refused("The file is not UTF-8 text.", closing="")
    locked = locked_keys(file.path, file.text)
    spec = load_spec(file.path, file.content)
    for name in LINES:
        if name in locked:
            raise Refused(f"A form cannot change `{name}:`, because {locked[name]}.", closing="")
    if "do" in fields:  # the columns of the sheet as the user wants it to be read now
        values: dict[str, str | int | None] = {n: fields.get(n, "").strip() for n in SHEET_KEYS}
        row = values["header_row"]
        values["header_row"] = int(row) if row and not key_problem("header_row", str(row)) else None
    else:
        values = {name: getattr(spec, name) for name in SHEET_KEYS}
    preview = preview_sheet(
        spec.file,
        encoding=_text(values["encoding"]),
        separator=_text(values["separator"]),
        worksheet=_text(values["sheet"]),
        header_row=values["header_row"] if isinstance(values["header_row"], int) else None,
    )
    given = Typed.of_spec(spec, preview.columns)
    return _Opened(spec, preview, worksheet_names(spec.file), given, locked)


def _text(value: str | int | None) -> str | None:
    return str(value) if value else None


def _why(error: PipelineError, tried: Tried) -> str:
    """Why a file opens as text: its error, else why a form cannot change it."""
    return str(error) if tried.spec is None else f"{error} So it opens as text."


@dataclass(frozen=True, slots=True)
class _Page:
    """The page of one job file."""

    places: Places
    file: JobFile
    hidden: Mapping[str, object]

    def saved(self, text: str, changed: bool) -> FormAnswer:
        """Saves a text, or shows it again with the reason why not."""
        if changed:
            return self.as_text(text, _CHANGED, fault=True)
        try:
            save_text(self.places, self.file, self.file.with_text(text))
        except Refused as error:
            return self.as_text(text, str(error), fault=True)
        more = {"at": self.file.at, "rehearsal": self.hidden["rehearsal"]}
        return FormAnswer(next=local("/edit", **more).text)

    def as_text(self, text: str, problem: str | None = None, fault: bool = False) -> FormAnswer:
        """The job file as text."""
        link = paragraph(to("Edit key by key", local("/edit", at=self.file.at)))
        body = self._text(text, problem)
        return FormAnswer(self._frame(*body, None if problem else link), fault)

    def unreadable(self, fields: Mapping[str, str], problem: str) -> FormAnswer:
        """Asks how to read the sheet, and keeps all other fields."""
        spec = load_spec(self.file.path, self.file.content)
        again = sheet_form(str(spec.input), fields, problem, (), "/edit")
        return FormAnswer(self._frame(again), fault=True)

    def as_form(
        self,
        opened: _Opened,
        typed: Typed,
        errors: Mapping[str, str],
        problem: str | None = None,
        draft: tuple[Child, ...] = (),
    ) -> FormAnswer:
        """The job file as a form, and the text that it makes below it."""
        locked = dict(opened.locked)
        if paid_folders(self.file.path):
            locked["name"] = _KEPT
        view = FormView(typed, opened.preview, opened.worksheets, errors, locked)
        told = [name for name in opened.spec.lines if "." not in name]
        others = [f"`{name}:`" for name in told if name not in (*SCALARS, *LINES, "input")]
        more = "The file has other keys too, which stay: " if others else None
        fault = bool(errors or problem)
        now = Tried(opened.spec) if draft else self._tried(self.file.content)
        problem = problem or now.problem
        body = (
            problem_part(problem),
            element(
                "details",
                element("summary", "The first rows of the sheet"),
                preview_part(opened.preview),
            ),
            spec_form(view, "/edit", self.hidden, "Show the new text"),
            paragraph(more, f"{few_words(others)}.") if more else None,
            paragraph(to("Edit as text", local("/edit", at=self.file.at, **{"as": "text"}))),
            *requests_part(now.requests[:1]),
            *draft,
        )
        return FormAnswer(self._frame(*body), fault)

    def compared(self, opened: _Opened, typed: Typed, shown: bool) -> FormAnswer:
        """The form with what the user typed. If all of it can be saved, the new text is shown."""
        values, errors = changes_of(opened.given, typed, opened.spec, opened.preview.columns)
        if errors or not shown:
            return self.as_form(opened, typed, errors, HAS_ERRORS if errors else None)
        try:
            text = edit_keys(self.file.path, self.file.text, values)
        except Refused as error:
            return self.as_form(opened, typed, errors, str(error))
        return self.as_form(opened, typed, errors, draft=self._text(text))

    def _text(self, text: str, problem: str | None = None) -> tuple[Child, ...]:
        """A text with its first request, and the button that saves it."""
        tried = self._tried(self.file.with_text(text))
        save = paragraph(button("Save", kind="main")) if self.file.is_text else None
        return (
            element("h2", "The job file", attributes={"id": "draft"}),
            form(
                "/edit#draft",
                self.hidden,
                problem_part(problem or tried.problem),
                area("text", text, _TEXT_ROWS, aria_label="The job file", spellcheck="false"),
                save,
                class_="spec",
            ),
            *requests_part(tried.requests),
        )

    def _tried(self, content: bytes) -> Tried:
        return try_text(self.file.path, content)

    def _frame(self, *body: Child) -> str:
        rehearsal = self.hidden["rehearsal"] == "1"
        try:
            job = self.places.job(self.file.at, rehearsal=rehearsal)
        except PipelineError:  # the file has an error, which the page shows
            links = element("nav", to("All jobs", local("/")), attributes={"aria-label": "Pages"})
            return document("Job file", links, element("h1", self.file.at), *body)
        return frame(Shown(self.file.at, job, rehearsal), "job file", *body)
