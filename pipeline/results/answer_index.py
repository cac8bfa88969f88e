"""An index of the answers: their flags and their texts, for a search among a million rows.

Each sealed part has its own file in the folder `index` of the run folder, and so has each
stretch of the sheet's copy. Such a file is made of a part that never changes, and holds the part's
SHA-256: a file of another part, of other columns or with other bytes is not used. So files may be
missing, and may be made by two processes at once. Nothing else reads them, and nothing that was
paid depends on them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.inputs.arrow import as_numpy
from pipeline.job.answer_columns import AnswerColumns
from pipeline.job.traces import INDEX_FILE
from pipeline.results.edits import column_edits_of
from pipeline.results.flags import all_flags, known_flags
from pipeline.results.lookup import hashed, keys_of
from pipeline.system.opening import read_file

INDEX_COLUMNS = ("run_id", "row", "row_key", "result", "flags")
"""The columns of a part that the index is made of."""
_MAGIC = b"pipeline index 1\n"
_DIGEST_BYTES = 32
MOST_BYTES = 1 << 31
_NUMBERS = ("keys", "texts", "variables")

Numbers = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Section:
    """The folded texts of one column, one after the other. Text n ends before byte `ends[n]`."""

    ends: Numbers
    texts: bytes

    def containing(self, folded: bytes) -> Numbers:
        """Returns the places of the texts that contain `folded`, ascending."""
        found, ends, at = [], self.ends.tolist(), 0
        while (at := self.texts.find(folded, at)) >= 0:
            place = bisect_right(ends, at)
            if at + len(folded) <= ends[place]:
                found.append(place)
                at = ends[place]
            else:  # the end of one text and the beginning of the next
                at += 1
        return np.array(found, np.int64)


@dataclass(frozen=True, slots=True)
class Segment:
    """What the index knows of one part, or of one stretch of the sheet, which has no `keys`.

    `keys` name the answers as in `lookup`, with the number of each run in `runs`. `texts` and
    `variables` are hashes, and `flags` has one row of bits for each flag. `sections` are the texts
    by column; those of a file are read again for each search.
    """

    runs: tuple[str, ...]
    keys: Numbers
    texts: Numbers
    variables: Numbers
    flags: Bits
    sections: Mapping[str, Section]


def section_name(column: str | None = None) -> str:
    """Returns the name of the section of the answers, or of a column of `columns:`."""
    return "answer" if column is None else f"column {column}"


def section(texts: Sequence[str | None]) -> Section:
    """Returns the texts of a column, folded. None is an empty text, which contains nothing."""
    folded = [(text or "").casefold().encode() for text in texts]
    return Section(np.cumsum([*map(len, folded)], dtype=np.int64), b"".join(folded))


def segment_of(table: pa.Table, columns: AnswerColumns) -> Segment:
    """Returns the segment of some answers with `INDEX_COLUMNS`."""
    answers, edited = table["result"].to_pylist(), column_edits_of(table)
    read = [columns.read(*one) for one in zip(answers, edited, strict=True)]
    numbers: dict[str, int] = {}
    runs = [numbers.setdefault(run, len(numbers)) for run in table["run_id"].to_pylist()]
    known = known_flags(columns.columns)
    has = np.zeros((len(known), len(table)), bool)
    place_of = {flag: place for place, flag in enumerate(known)}
    for at, (stored, parts) in enumerate(zip(table["flags"].to_pylist(), read, strict=True)):
        for flag in all_flags(stored, parts.flags, repeated=False):
            if flag in place_of:
                has[place_of[flag], at] = True
    of_columns = {
        one.name: section([parts.texts[place] for parts in read])
        for place, one in enumerate(columns.columns)
    }
    return Segment(
        tuple(numbers),
        keys_of(np.array(runs, np.int64), as_numpy(table["row"])),
        np.fromiter(map(hashed, answers), np.uint64, len(answers)).view(np.int64),
        np.fromiter((int(key[:16], 16) for key in table["row_key"].to_pylist()), np.uint64).view(
            np.int64
        ),
        np.packbits(has, axis=1),
        {section_name(): section(answers)}
        | {section_name(name): one for name, one in of_columns.items()},
    )


def sheet_segment(columns: Mapping[str, Sequence[str]]) -> Segment:
    """Returns the segment of a stretch of the sheet."""
    none = np.empty(0, np.int64)
    sections = {name: section(texts) for name, texts in columns.items()}
    return Segment((), none, none, none, np.empty((0, 0), np.uint8), sections)


def write_segment(path: Path, source: str, segment: Segment) -> None:
    """Writes a segment (mode 0600). `source` names all that it was made of.

    A crash may leave a damaged file, which `read_segment` does not use.

    Raises:
        OSError: when the disk refuses the write.
    """
    sections = {
        name: [len(one.ends), len(one.texts), pa.compress(one.texts, "lz4", asbytes=True)]
        for name, one in segment.sections.items()
    }
    about = {
        "source": source,
        "runs": segment.runs,
        "answers": len(segment.keys),
        "flags": list(segment.flags.shape),
        "sections": {name: [*sizes, len(packed)] for name, (*sizes, packed) in sections.items()},
    }
    head = json.dumps(about).encode()
    content = [len(head).to_bytes(8, "little"), head]
    content += [getattr(segment, name).tobytes() for name in _NUMBERS]
    content += [segment.flags.tobytes()]
    for name, (*_, packed) in sections.items():
        content += [segment.sections[name].ends.tobytes(), packed]
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in content:
        digest.update(part)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            file.write(_MAGIC + digest.digest())
            file.writelines(content)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def read_segment(path: Path, source: str) -> Segment | None:
    """Returns the segment in a file, None if there is none that was made of `source`."""
    try:
        content = memoryview(read_file(path, MOST_BYTES))
        begin = len(_MAGIC) + _DIGEST_BYTES
        digest = hashlib.blake2b(content[begin:], digest_size=_DIGEST_BYTES).digest()
        if content[:begin] != _MAGIC + digest:
            return None
        return _parsed(_Cut(content, begin), source)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        RecursionError,
        MemoryError,
        OverflowError,
    ):
        return None


@dataclass(slots=True)
class _Cut:
    """Takes one value after the other from the bytes of a file."""

    content: memoryview
    at: int

    def bytes(self, size: int) -> memoryview:
        part = self.content[self.at : self.at + size]
        if size < 0 or len(part) != size:
            raise ValueError("the file is too short")
        self.at += size
        return part

    def numbers(self, count: int) -> Numbers:
        return np.frombuffer(self.bytes(8 * count), np.int64)


def _parsed(cut: _Cut, source: str) -> Segment | None:
    about: dict[str, Any] = json.loads(bytes(cut.bytes(int.from_bytes(cut.bytes(8), "little"))))
    if about["source"] != source or not all(isinstance(run, str) for run in about["runs"]):
        return None
    keys, hashes, variables = (cut.numbers(about["answers"]) for _ in _NUMBERS)
    height, width = about["flags"]
    flags = np.frombuffer(cut.bytes(height * width), np.uint8).reshape(height, width)
    if about["answers"] and width != (about["answers"] + 7) // 8:
        return None
    sections = {}
    for name, (count, size, packed) in about["sections"].items():
        if not 0 <= size <= MOST_BYTES:
            return None
        ends = cut.numbers(count)
        texts = pa.decompress(cut.bytes(packed), size, "lz4", asbytes=True)
        if (np.diff(ends, prepend=0) < 0).any() or (ends[-1] if count else 0) != size:
            return None
        sections[name] = Section(ends, texts)
    return Segment(tuple(about["runs"]), keys, hashes, variables, flags, sections)


@dataclass(slots=True)
class IndexFolder:
    """The files of the index. `sources` has the source of each file by its name."""

    path: Path
    kept: dict[str, Segment] = field(default_factory=dict)
    """Segments of a run folder that cannot be written."""

    def read(self, name: str, source: str) -> Segment | None:
        return self.kept.get(f"{name} {source}") or read_segment(self.path / name, source)

    def write(self, name: str, source: str, segment: Segment) -> None:
        try:
            if self.path.is_symlink():
                raise OSError("the runner follows no links in a run folder")
            self.path.mkdir(mode=0o700, exist_ok=True)
            write_segment(self.path / name, source, segment)
        except OSError:
            self.kept[f"{name} {source}"] = segment

    def sweep(self, names: set[str]) -> None:
        """Removes the files that no part needs."""
        with contextlib.suppress(OSError):
            for path in self._others(names):
                path.unlink()

    def _others(self, names: set[str]) -> Iterator[Path]:
        if not self.path.is_symlink():
            for path in self.path.iterdir():
                if path.name not in names and INDEX_FILE.fullmatch(path.name):
                    yield path
