"""Texts that are too long for a cell: files in a folder beside the workbook, named by the cell."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import TracebackType

from pipeline.folder import sync_file

_OURS = re.compile(r"row-\d+-[\w-]+\.txt")


class TextsAside:
    """The files of one workbook. They are written to a draft folder, and come to their place with
    `publish`: just before the workbook does, so that a crash leaves the earlier export as it was.

    `book.xlsx` has them in `book.files`. Files there that an export did not make stay.
    """

    def __init__(self, workbook: Path) -> None:
        self.folder = workbook.with_name(f"{workbook.stem}.files")
        self.count = 0
        self._draft = workbook.with_name(f".{workbook.stem}.files.draft")

    def __enter__(self) -> TextsAside:
        shutil.rmtree(self._draft, ignore_errors=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._draft, ignore_errors=True)

    def put(self, row: int, column: str, text: str) -> str:
        """Keeps `text`, byte for byte as UTF-8. What the cell says instead."""
        self._draft.mkdir(exist_ok=True)
        slug = re.sub(r"[^\w-]+", "-", column)[:50] or "column"
        path = self._draft / f"row-{row}-{slug}.txt"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        sync_file(path)
        self.count += 1
        return f"({len(text):,} characters, too long for a cell: {self.folder.name}/{path.name})"

    def publish(self) -> None:
        """Puts the files in place, and removes those that an earlier export put there."""
        new = {path.name: path for path in sorted(self._draft.glob("*.txt"))}
        if new:
            self.folder.mkdir(exist_ok=True)
        for name, path in new.items():
            path.replace(self.folder / name)
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if _OURS.fullmatch(path.name) and path.name not in new:
                    path.unlink()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
