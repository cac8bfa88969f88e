"""Screen 2, a new job: a sheet, a workflow, and the job file as text."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from pipeline.core.errors import PipelineError, Refused
from pipeline.inputs.formats import READERS
from pipeline.job.spec import load_spec
from pipeline.report.html.markup import Child, Markup, element, foreign
from pipeline.run.check import check_job
from pipeline.scaffold.job_spec import init_job
from pipeline.scaffold.preview import Preview, preview_sheet
from pipeline.system.files import write_durably
from pipeline.system.opening import read_file
from pipeline.system.paths import path_fault
from pipeline.ui.job_page import Shown, frame
from pipeline.ui.markup import (
    area,
    button,
    column_head,
    document,
    field,
    form,
    local,
    paragraph,
    to,
)
from pipeline.ui.places import Places

MOST_SHEET_BYTES = 1 << 30
_MOST_SPEC_BYTES = 1 << 20
_CELL = 120
_NOT_SAVED = "Nothing was saved."


def new_sheet(places: Places, name: str) -> Path:
    """A path for an uploaded sheet that no file has yet.

    Raises:
        Refused: for a name that no sheet can have.
    """
    plain = Path(name.replace("\\", "/")).name
    path = Path(plain)
    if path_fault(plain) or plain.startswith(".") or path.suffix.lower() not in READERS:
        raise Refused(f"{plain!r}: the page reads {', '.join(READERS)}.", closing=_NOT_SAVED)
    number, free = 1, plain
    while os.path.lexists(places.path(free)):
        number += 1
        free = f"{path.stem}-{number}{path.suffix}"
    return places.path(free)


def new_page(places: Places, sheet: str) -> str:
    """The first rows of a sheet, and what the page has to know for a job file."""
    preview = preview_sheet(places.path(sheet))
    known = [name for name in places.jobs() if _reads(places, name, sheet)]
    links = [
        paragraph("It already has a job: ", to(foreign(one, _CELL), local("/job", at=one)))
        for one in known
    ]
    name = element("label", "Name ", field("text", "name", Path(sheet).stem, required=""))
    workflow = element("label", "Workflow id ", field("text", "workflow", required=""))
    return document(
        "New job",
        element("nav", to("All jobs", local("/"))),
        element("h1", "New job"),
        paragraph("The sheet is ", foreign(sheet, _CELL), "."),
        *links,
        element("div", _table(preview), class_="wide"),
        form("/new", {"sheet": sheet}, name, workflow, button("Write the job file", kind="main")),
        paragraph("This sends nothing. The next page shows the job file, with every column in it."),
    )


def _reads(places: Places, name: str, sheet: str) -> bool:
    with contextlib.suppress(PipelineError):
        return places.job(name).sheet == places.path(sheet)
    return False


def _table(preview: Preview) -> Markup:
    head = [column_head(foreign(name, _CELL)) for name in preview.columns]
    lines = [
        element("tr", *(element("td", foreign(text, _CELL)) for text in row))
        for row in preview.rows
    ]
    caption = element("caption", "The first rows, as the runner reads them")
    return element(
        "table", caption, element("thead", element("tr", *head)), element("tbody", *lines)
    )


def write_new(places: Places, fields: Mapping[str, str]) -> str:
    """Writes the job file of a sheet as `pipeline init` does. Returns its path in the folder.

    Raises:
        Refused: as `init_job` does.
    """
    sheet = places.path(fields.get("sheet", ""))
    name = Path(fields.get("name", "")).name
    folder = "jobs/" if (places.root / "jobs").is_dir() else ""
    at = f"{folder}{name}.yaml"
    init_job(sheet, fields.get("workflow", "").strip(), places.path(at))
    return at


def edit_page(shown: Shown, places: Places) -> str:
    """The text of the job file, and what it would send for the first rows."""
    path = places.path(shown.at)
    text = read_file(path, _MOST_SPEC_BYTES, follow=True).decode("utf-8", "replace")
    return frame(
        shown,
        "job file",
        element("h2", "The job file"),
        form(
            "/edit",
            shown.fields,
            area("text", text, 24, aria_label="The job file", spellcheck="false"),
            button("Save", kind="main"),
        ),
        element("h2", "The first requests"),
        *_requests(shown),
    )


def _requests(shown: Shown) -> list[Child]:
    try:
        checked = check_job(shown.job)
    except PipelineError as error:
        return [element("p", str(error), class_="problem", attributes={"role": "alert"})]
    return [
        element("pre", f"Row {one.row}: ", foreign(one.body, 2000)) for one in checked.first_bodies
    ]


def save_spec(shown: Shown, places: Places, text: str) -> None:
    """Replaces a job file by `text`, if that is one.

    Raises:
        Refused: for an error in the text, and if the job would get another run folder although it
            has one.
    """
    path = places.path(shown.at)
    draft = path.with_name(f".{path.stem}-{secrets.token_hex(4)}.yaml")
    content = text.replace("\r\n", "\n").encode("utf-8", "replace")
    try:
        write_durably(draft, content)
        try:
            spec = load_spec(draft)
        except Refused as error:
            raise Refused(str(error).replace(draft.name, path.name), closing=_NOT_SAVED) from None
        folder = places.job(shown.at).folder  # the paid one, also if the rehearsal is shown
        if folder.path.exists() and spec.output != folder.path:
            raise Refused(
                f"The job has a run folder, {folder.path}, so its `name:` and `output:` stay. With "
                "others, its answers would be paid again.",
                closing=_NOT_SAVED,
            )
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
