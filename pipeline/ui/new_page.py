"""Screen 2, a new job: a sheet, a workflow, its variables, and the job file as text."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import PipelineError, Refused
from pipeline.inputs.formats import READERS, worksheet_names
from pipeline.job.spec import JobSpec, key_problem, load_spec
from pipeline.job.spec_edit import edit_keys
from pipeline.job.spec_keys import NAME
from pipeline.report.html.markup import Child, Markup, element, foreign
from pipeline.run.check import Body, check_job
from pipeline.run.other_sheet import fits_sheet, with_sheet
from pipeline.run.places import Places
from pipeline.scaffold.job_spec import job_name, job_text, write_job
from pipeline.scaffold.preview import Preview, preview_sheet
from pipeline.system.paths import path_fault
from pipeline.ui.form_parts import FormView, preview_part, request_part, sheet_form, spec_form
from pipeline.ui.job_file import NOT_SAVED, read_job_file, save_text, try_text
from pipeline.ui.markup import area, button, document, form, local, paragraph, to
from pipeline.ui.spec_form import SHEET_KEYS, Typed, changes_of

MOST_SHEET_BYTES = 1 << 30
_CELL = 120
_MOST_OFFERED = 5
"""The plan of each needs the whole sheet."""
_NO_WORKFLOW = "wf"
"""Stands in the text that the fields are compared with. It is never saved."""


HAS_ERRORS = "The form has errors. Each one is below its field."


def new_sheet(places: Places, name: str) -> Path:
    """A path for an uploaded sheet that no file has yet.

    Raises:
        Refused: for a name that no sheet can have.
    """
    plain = Path(name.replace("\\", "/")).name
    path = Path(plain)
    if path_fault(plain) or plain.startswith(".") or path.suffix.lower() not in READERS:
        raise Refused(f"{plain!r}: the page reads {', '.join(READERS)}.", closing=NOT_SAVED)
    number, free = 1, plain
    while os.path.lexists(places.path(free)):
        number += 1
        free = f"{path.stem}-{number}{path.suffix}"
    return places.path(free)


class FormAnswer(NamedTuple):
    """A page, or where to go next."""

    text: str = ""
    fault: bool = False
    next: str = ""


def new_page(places: Places, fields: Mapping[str, str]) -> FormAnswer:
    """The form for a sheet. With `do`, it has what the user typed: "read" reads the sheet again,
    and "show" shows the job file. With `text`, that job file is saved."""
    sheet = fields.get("sheet_file") or fields.get("sheet", "")
    path = places.path(sheet)
    sent = "do" in fields or "text" in fields
    typed: Mapping[str, str] = fields if sent else {}
    names: tuple[str, ...] = ()
    body: list[Child] = [] if sent else [*_jobs_of(places, sheet)]
    try:
        names = worksheet_names(path)
        preview = preview_sheet(path, **_options(typed))
        body.append(preview_part(preview))
        base = job_text(preview, _target(places, job_name(path)), _NO_WORKFLOW)
    except Refused as error:
        again = sheet_form(sheet, {**typed, "sheet_file": sheet}, str(error), names, "/new")
        return FormAnswer(_page(sheet, *body, again), sent and typed.get("do") != "read")
    try:
        given = Typed.of_spec(_base_spec(places, path, base), preview.columns)
    except Refused as error:
        body.append(problem_part(f"{error} Edit the text: first the workflow id."))
        return _only_text(places, sheet, typed, base, body)
    return _filled(places, sheet, typed, _Read(preview, names, base, given), body)


class _Read(NamedTuple):
    """A sheet, its worksheets, and the job file that `init` writes for it, as text and fields."""

    preview: Preview
    worksheets: tuple[str, ...]
    base: str
    given: Typed


def _only_text(
    places: Places, sheet: str, fields: Mapping[str, str], base: str, body: list[Child]
) -> FormAnswer:
    """The job file that `init` writes, as text, for a sheet that is too wide for a form."""
    at = _relative(places, _target(places, job_name(places.path(sheet))))
    text, problem = fields.get("text"), None
    if text is not None and not (problem := _saved(places, at, text)):
        return FormAnswer(next=local("/job", at=at).text)
    draft = _draft(places, at, text or base, problem, {"sheet_file": sheet})
    return FormAnswer(_page(sheet, *body, *draft), problem is not None)


def _base_spec(places: Places, sheet: Path, base: str) -> JobSpec:
    return load_spec(_target(places, job_name(sheet)), base.encode())


def _filled(
    places: Places, sheet: str, fields: Mapping[str, str], read: _Read, body: list[Child]
) -> FormAnswer:
    typed = read.given.read_as({"workflow": ""})
    errors: dict[str, str] = {}
    draft: list[Child] = []
    problem = None
    if fields:
        typed = Typed.of_fields(fields)
    if fields.get("do") == "read":
        typed = typed.with_columns(read.given.read_as({"workflow": ""}), read.preview.columns)
    elif fields:
        at = _relative(places, _target(places, typed.values["name"]))
        text = fields.get("text")
        if text is None:
            text, errors = _new_text(places, places.path(sheet), read, typed)
        elif not (problem := _saved(places, at, text)):
            return FormAnswer(next=local("/job", at=at).text)
        if text is not None:
            kept = {name: value for name, value in fields.items() if name not in ("do", "text")}
            draft = _draft(places, at, text, problem, kept)
    if errors:
        body.append(problem_part(HAS_ERRORS, id="draft"))  # where the form leads to
    view = FormView(typed, read.preview, read.worksheets, errors)
    filled = spec_form(view, "/new", {"sheet_file": sheet}, "Show the job file")
    fault = bool(errors) or problem is not None
    return FormAnswer(_page(sheet, *body, filled, *draft), fault)


def _new_text(
    places: Places, sheet: Path, read: _Read, typed: Typed
) -> tuple[str | None, dict[str, str]]:
    """The text of the job file with what the user typed, or the errors by field."""
    target = _target(places, typed.values["name"])
    spec = _base_spec(places, sheet, read.base)
    values, errors = changes_of(read.given, typed, spec, read.preview.columns)
    if problem := key_problem("workflow", typed.values["workflow"]):
        errors["workflow"] = problem
    if "name" not in errors and os.path.lexists(target):
        errors["name"] = f"{_relative(places, target)} exists already. Choose another name."
    return (None, errors) if errors else (edit_keys(target, read.base, values), {})


def _saved(places: Places, at: str, text: str) -> str | None:
    """Writes the job file. Returns why it cannot be."""
    path, plain = places.path(at), text.replace("\r\n", "\n")
    try:
        tried = try_text(path, plain.encode("utf-8", "replace"))
        if tried.spec is None:
            return tried.problem
        if os.path.lexists(path):
            return f"{at} exists already. Choose another name. {NOT_SAVED}"
        write_job(path, plain)
    except Refused as error:
        return str(error)
    return None


def _draft(
    places: Places, at: str, text: str, problem: str | None, kept: Mapping[str, str]
) -> list[Child]:
    """The job file as text, the request of row 1, and the button that saves it."""
    tried = try_text(places.path(at), text.replace("\r\n", "\n").encode("utf-8", "replace"))
    return [
        element("h2", f"The job file {at}", attributes={"id": "draft"}),
        form(
            "/new#draft",
            kept,
            area("text", text, 24, aria_label="The job file", spellcheck="false"),
            problem_part(problem or tried.problem),
            *requests_part(tried.requests[:1]),
            paragraph(button("Save the job file", kind="main")),
            paragraph("Saving sends nothing.", class_="soft"),
            class_="spec",
        ),
    ]


def problem_part(problem: str | None, **attributes: str) -> Markup | None:
    """A message that screen readers say at once."""
    if problem is None:
        return None
    return element("p", problem, class_="problem", attributes={"role": "alert", **attributes})


def requests_part(requests: tuple[Body, ...]) -> Iterator[Markup]:
    """The exact requests, below a heading."""
    if requests:
        yield element("h2", "The exact first request")
    for one in requests:
        yield request_part(one.row, one.body)


def _page(sheet: str, *body: Child) -> str:
    return document(
        "New job",
        element("nav", to("All jobs", local("/"))),
        element("h1", "New job"),
        paragraph("The sheet is ", foreign(sheet, _CELL), "."),
        *body,
    )


def _options(fields: Mapping[str, str]) -> dict[str, Any]:
    """The options of `preview_sheet`.

    Raises:
        Refused: for a row that is no number.
    """
    given = Typed.of_fields(fields).values
    found: dict[str, Any] = {name: given[name] for name in SHEET_KEYS if given[name]}
    if "header_row" in found:
        problem = key_problem("header_row", given["header_row"])
        if problem:
            raise Refused(f"`header_row:` {problem}", closing="")
        found["header_row"] = int(given["header_row"])
    if "sheet" in found:
        found["worksheet"] = found.pop("sheet")
    return found


def _target(places: Places, name: str) -> Path:
    """Where the job file of this name would be. Not checked: the name may be wrong."""
    folder = "jobs" if (places.root / "jobs").is_dir() else ""
    return places.root / folder / f"{name if NAME.fullmatch(name) else 'job'}.yaml"


def _relative(places: Places, path: Path) -> str:
    return str(path.relative_to(places.root))


def _jobs_of(places: Places, sheet: str) -> Iterator[Markup]:
    """The jobs that have this sheet, and those that could continue with it."""
    path, offered = places.path(sheet), 0
    for name in places.jobs():
        with contextlib.suppress(PipelineError):
            job = places.job(name)
            if job.sheet == path:
                yield paragraph(
                    "It already has a job: ", to(foreign(name, _CELL), local("/job", at=name))
                )
            elif offered < _MOST_OFFERED and path.exists() and fits_sheet(job, path):
                offered += 1
                yield _continue(places, name, sheet)


def _continue(places: Places, name: str, sheet: str) -> Markup:
    """Offers to continue a job with this sheet, with the numbers of the plan that a run would
    make."""
    job = places.job(name)
    heading = element("h2", "Continue ", foreign(job.name, _CELL), " with this sheet?")
    try:
        checked = check_job(with_sheet(job, places.path(sheet)))
    except PipelineError as error:
        return element("section", heading, problem_part(str(error)), class_="card")
    counts = [f"{checked.ok} paid", f"{checked.pending} new"]
    counts += [
        f"{getattr(checked, state)} {state}"
        for state in ("failed", "ambiguous", "skipped")
        if getattr(checked, state)
    ]
    what = f"Continue {job.name} with this sheet ({', '.join(counts)})"
    return element(
        "section",
        heading,
        paragraph("The sheet has every column of this job."),
        form("/continue", {"at": name, "sheet": sheet}, button(what, kind="main")),
        paragraph(
            f"The job file then names this sheet as its `input:`, in place of "
            f"{job.to_run().input.name}. Answers to equal rows stay. This sends nothing.",
            class_="soft",
        ),
        problem_part(checked.refusal),
        class_="card",
    )


def continue_with(places: Places, at: str, sheet: str) -> None:
    """Writes another sheet into a job file, as its `input:`.

    Raises:
        Refused: if the job file can only be edited as text, or the sheet lacks a column.
    """
    path, job = places.path(sheet), places.job(at)
    if not fits_sheet(job, path):
        raise Refused(f"{sheet}: the sheet lacks a column of {job.name}.", closing=NOT_SAVED)
    file = read_job_file(places, at)
    relative = os.path.relpath(path, file.path.parent)
    text = edit_keys(file.path, file.text, {"input": relative})
    save_text(places, file, file.with_text(text))
