"""Texts that are too long for a cell, as files next to the workbook. The cell names its file."""

from __future__ import annotations

import contextlib
import os
import re
from itertools import count
from pathlib import Path
from types import TracebackType

from pipeline.core.errors import NothingWritten
from pipeline.system.files import draft_folder, opened_folder, sync

_OURS = re.compile(r"row-\d+-[\w-]+\.txt")


def files_folder(workbook: Path) -> Path:
    """The folder for the long texts of a workbook."""
    return workbook.with_name(f"{workbook.stem}.files")


class TextsAside:
    """The files of one workbook. They are written to a draft folder, and `publish` moves them to
    their place just before the workbook gets there, so a crash leaves the earlier export unchanged.

    The files of `book.xlsx` are in `book.files`. Files there that no export wrote stay.

    Raises:
        Refused: if the folder's name is a link, because files would be written and removed
            elsewhere.
    """

    def __init__(self, workbook: Path) -> None:
        self.folder = files_folder(workbook)
        self.count = 0
        self._parent = self._draft = -1
        self._open = contextlib.ExitStack()

    def __enter__(self) -> TextsAside:
        if self.folder.is_symlink():
            raise NothingWritten(
                f"{self.folder}: this is a link, and the runner would write texts that are too "
                "long for a cell where it leads. Remove the link, or name another file."
            )
        self._parent = self._open.enter_context(opened_folder(self.folder.parent))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def put(self, row: int, column: str, text: str) -> str:
        """Writes `text` to a file as UTF-8, byte for byte. Returns the text for the cell."""
        if self._draft < 0:
            self._draft = self._open.enter_context(draft_folder(self.folder.name, self._parent))
        slug = re.sub(r"[^\w-]+", "-", column)[:50] or "column"
        for again in count(1):  # names of columns may differ only in punctuation
            name = f"row-{row}-{slug}{f'-{again}' if again > 1 else ''}.txt"
            with contextlib.suppress(FileExistsError):
                self._write(name, text.encode("utf-8", "surrogatepass"))
                break
        self.count += 1
        return f"({len(text):,} characters, too long for a cell: {self.folder.name}/{name})"

    def publish(self) -> None:
        """Moves the files to their place, and removes those of an earlier export."""
        new = set(os.listdir(self._draft)) if self.count else set()
        if new:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.folder.name, dir_fd=self._parent)
        elif not os.path.lexists(self.folder):
            return
        with opened_folder(self.folder.name, self._parent) as place:
            for name in sorted(new):
                os.replace(name, name, src_dir_fd=self._draft, dst_dir_fd=place)
            for name in os.listdir(place):
                if _OURS.fullmatch(name) and name not in new:
                    os.unlink(name, dir_fd=place)
            sync(place)
            if not os.listdir(place):
                os.rmdir(self.folder.name, dir_fd=self._parent)

    def _write(self, name: str, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o666, dir_fd=self._draft), "wb") as file:
            file.write(content)
            file.flush()
            sync(file.fileno())
