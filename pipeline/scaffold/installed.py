"""Writes the files that start the nights, and later compares installed ones with the job file.

Each file names the command that printed it. So a check runs that command again and looks for each
line that a scheduler reads. Lines that the user added are not compared.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.core.errors import NothingWritten, Refused
from pipeline.scaffold.new_file import write_new_file
from pipeline.scaffold.night import PRINTED_BY
from pipeline.system.paths import resolved


def write_new(texts: Mapping[str, str], folder: Path) -> list[Path]:
    """Writes all `texts` into `folder`, by their names. Returns the paths.

    Raises:
        Refused: if one of the files exists, before any is written, or if the folder refuses a file.
    """
    paths = {folder / name: text for name, text in texts.items()}
    for path in paths:
        if os.path.lexists(path):
            raise NothingWritten(f"{path}: this file already exists. Move it, or write elsewhere.")
    for path, text in paths.items():
        write_new_file(path, text, "Choose another folder with --write.")
    return list(paths)


def check_installed(
    files: Sequence[Path], spec: Path, printed_again: Callable[[list[str]], Mapping[str, str]]
) -> None:
    """Compares `files` with what the job file `spec` needs now.

    `printed_again` gets the words after ``pipeline schedule`` and returns the texts by file name.

    Raises:
        Refused: if a file lacks a line, or names no command for this job file.
    """
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise NothingWritten(f"{file}: this file cannot be read ({error}).") from None
        words = _command_in(file, lines, spec)
        texts = printed_again([str(spec), *words[1:]])
        # The user may rename a unit. Its kind stays.
        needed = next(
            (text for name, text in texts.items() if Path(name).suffix == file.suffix),
            "\n".join(texts.values()),
        )
        missing = [line for line in _read_lines(needed) if line not in set(_read_lines(lines))]
        if missing:
            again = shlex.join(("pipeline", "schedule", str(spec), *words[1:]))
            raise Refused(
                f"{file}: this file no longer matches {spec}, which now needs the line "
                f"`{missing[0]}`. Print it again: {again}",
                closing="",
            )


def _command_in(file: Path, lines: Sequence[str], spec: Path) -> list[str]:
    """Returns the words with which the file was printed for `spec`: the job file, then options. A
    workflow names the job file from the top of its repository."""
    for line in lines:
        if not line.startswith(PRINTED_BY):
            continue
        with contextlib.suppress(ValueError, IndexError):  # no words, or none that a shell reads
            words = shlex.split(line.removeprefix(PRINTED_BY))
            named = Path(words[0])
            if resolved(named) == resolved(spec) or (
                not named.is_absolute() and spec.parts[-len(named.parts) :] == named.parts
            ):
                return words
    raise NothingWritten(
        f"{file}: this file has no line `{PRINTED_BY}` with {spec}. Print it again with `pipeline "
        "schedule`."
    )


def _read_lines(text: str | Sequence[str]) -> list[str]:
    """Returns the lines that a scheduler reads."""
    lines = text.splitlines() if isinstance(text, str) else text
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
