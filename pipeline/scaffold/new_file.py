"""Writes a file that must not be there yet."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.errors import NothingWritten


def write_new_file(path: Path, text: str, advice: str) -> None:
    """Writes `text` to a new file, and makes its folder. `advice` ends the message of a refusal.

    Raises:
        Refused: if there is a file, or if the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise NothingWritten(
            f"{path}: the runner cannot write this file ({error.strerror or error}). {advice}"
        ) from None
