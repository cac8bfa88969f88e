"""Screen 6, the downloads: the sheet with its answers, the report and the review sheet."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.added_columns import KINDS, USUAL
from pipeline.core.errors import Refused
from pipeline.export import Export, export_job, export_review
from pipeline.report.html.markup import element
from pipeline.report.html.write import write_report
from pipeline.report.overview import report_job
from pipeline.ui.job_page import Shown, frame
from pipeline.ui.markup import button, choice, field, form, local, paragraph, to

_SHEETS = {"xlsx": "Excel workbook", "csv": "CSV", "parquet": "Parquet", "jsonl": "JSON Lines"}
_REPORT, _REVIEW = "report", "review"
_WORDS = {"error_code": "error code", "error_message": "error message", "result": "answer"}


@dataclass(frozen=True, slots=True)
class Made:
    """A file to download, alone in its folder."""

    path: Path
    folder: Path

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def files_page(shown: Shown) -> str:
    """The page."""
    boxes = [
        element(
            "label",
            field("checkbox", f"add_{kind}", "1", **({"checked": ""} if kind in USUAL else {})),
            f" {_WORDS.get(kind, kind)}",
        )
        for kind in KINDS
    ]
    return frame(
        shown,
        "download",
        element("h2", "The sheet with its answers"),
        form(
            "/download",
            shown.fields,
            choice("kind", _SHEETS, "xlsx", "As"),
            element("fieldset", element("legend", "Columns to add"), *boxes),
            button("Download", kind="main"),
            method="get",
        ),
        element("h2", "Other files"),
        paragraph(to("The report", local("/download", **shown.fields, kind=_REPORT))),
        paragraph(
            to("A review sheet", local("/download", **shown.fields, kind=_REVIEW)),
            ": write your decisions into it, and read it in with `pipeline review --from FILE`.",
        ),
    )


def download(shown: Shown, fields: Mapping[str, str]) -> Made:
    """Writes the file that the user wants into a temporary folder.

    Raises:
        Refused: for another kind of file, and as `export_job` does.
    """
    kind, name = fields.get("kind", ""), shown.job.name
    if kind not in (*_SHEETS, _REPORT, _REVIEW):
        raise Refused(f'The page has no download "{kind}".', closing="")
    folder = Path(tempfile.mkdtemp(prefix="pipeline-page-"))
    try:
        return Made(_written(shown, kind, folder, name, fields), folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _written(shown: Shown, kind: str, folder: Path, name: str, fields: Mapping[str, str]) -> Path:
    if kind == _REPORT:
        return _report(shown, folder / f"{name}-report.html")
    if kind == _REVIEW:
        return _with_texts(export_review(shown.job, folder / f"{name}-review.xlsx"))
    add = [one for one in KINDS if fields.get(f"add_{one}") == "1"]
    return _with_texts(export_job(shown.job, folder / f"{name}-answers.{kind}", add=add or None))


def _report(shown: Shown, target: Path) -> Path:
    path = write_report(shown.job, report_job(shown.job))
    return Path(shutil.copyfile(path, target))


def _with_texts(made: Export) -> Path:
    """The file, or an archive of it and the texts that were too long for its cells."""
    if not made.aside:
        return made.path
    target = made.path.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(made.path.parent.rglob("*")):
            if path.is_file() and path != target:
                archive.write(path, path.relative_to(made.path.parent))
    return target
