"""What the run folder notes about its exports: the columns that they added, and where.

So the next export knows which columns of a sheet are its own. The file has no checksum, and the
folder may come from somebody else. A note that no export writes counts as none.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.job.run_folder import RunFolder
from pipeline.system.files import replacing
from pipeline.system.opening import NOTE_BYTES, read_object

_MOST_NAMES = 1000
_MOST_FILES = 50
_MOST_CHARACTERS = 200
_MOST_CHARACTERS_OF_A_PATH = 4096
_MOST_COLUMNS_OF_A_FILE = 2000


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """An exported file: all its columns, and those that the export added."""

    columns: tuple[str, ...]
    added: tuple[str, ...]

    def has(self, header: Iterable[str]) -> bool:
        """Whether a file with this header can be the one that was written. A line of JSON Lines
        may lack names, and a row of a workbook may have more cells than its table."""
        there, columns = set(header), set(self.columns)
        return there.issuperset(self.added) and (there <= columns or columns <= there)


@dataclass(frozen=True, slots=True)
class Exports:
    """`columns` are all columns that exports added. `files` are the exported files, by their
    paths, whose columns alone do not show that they are exports."""

    columns: tuple[str, ...] = ()
    files: dict[str, WrittenFile] = field(default_factory=dict)


def read_exports(folder: RunFolder) -> Exports:
    """Returns the note of the folder, or an empty one if there is none in the runner's form."""
    try:
        about = read_object(folder.exports)
        columns = _names(about["columns"], _MOST_NAMES)
        if len(about["files"]) > _MOST_FILES:
            raise ValueError
        files = {
            _text(path, _MOST_CHARACTERS_OF_A_PATH): WrittenFile(
                _names(one["columns"], _MOST_COLUMNS_OF_A_FILE), _names(one["added"], _MOST_NAMES)
            )
            for path, one in about["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Exports()
    return Exports(columns, files)


def note_export(
    folder: RunFolder,
    added: Iterable[str],
    target: Path | None = None,
    columns: Iterable[str] | None = None,
) -> None:
    """Notes the columns that an export added, and its file `target` with all its `columns` if they
    are given. A folder that cannot be written is no error: the export itself is complete."""
    known = read_exports(folder)
    added = tuple(added)
    names = tuple(dict.fromkeys((*known.columns, *added)))[-_MOST_NAMES:]
    files = dict(known.files)
    there = () if columns is None else tuple(columns)
    files.pop(str(target), None)
    if there and len(there) <= _MOST_COLUMNS_OF_A_FILE and max(map(len, there)) <= _MOST_CHARACTERS:
        files[str(target)] = WrittenFile(there, added)
    now = Exports(names, dict(list(files.items())[-_MOST_FILES:]))
    if now == known:
        return
    with contextlib.suppress(OSError), replacing(folder.exports) as file:
        content = json.dumps(asdict(now)).encode()
        file.write(
            content if len(content) < NOTE_BYTES else json.dumps(asdict(Exports(names))).encode()
        )


def _names(value: Any, most: int) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError
    return tuple(_text(name, _MOST_CHARACTERS) for name in value)


def _text(value: Any, most: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= most:
        raise ValueError
    return value
