"""Makes the index of a job: a little at once, more in the background."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Thread

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.errors import PipelineError
from pipeline.inputs.stored import stored_batches, stored_columns
from pipeline.job.answer_columns import AnswerColumns
from pipeline.job.run_folder import RunFolder
from pipeline.ledger.queries import Part
from pipeline.results.answer_index import (
    INDEX_COLUMNS,
    IndexFolder,
    Segment,
    section_name,
    segment_of,
    sheet_segment,
)
from pipeline.results.flags import known_flags
from pipeline.results.lookup import RUN_SHIFT, keys_of, read_part
from pipeline.show.answer_view import Held
from pipeline.system.opening import HeldFile

_AT_ONCE = 20
"""So many parts are indexed while the reader waits. More are indexed in the background."""
_STRETCH_ROWS = 2000
_PATIENCE_S = 1.0

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Indexing:
    """The index is being made: `done` of `parts` are there."""

    done: int
    parts: int


@dataclass(frozen=True, slots=True)
class SheetCopy:
    """The checked copy of the sheet, and its file's facts when it was checked."""

    named: tuple[str | None, str | None]
    file: HeldFile
    facts: tuple[int, ...]
    skipped: Mask
    stretches: dict[int, Stretch] = field(default_factory=dict)
    """Those that have a file in the index, once all have one."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of the sheet with a file in the index."""

    first: int
    rows: int
    source: str

    @property
    def name(self) -> str:
        return f"sheet-{self.first:09}"


class Index:
    """The index of one job. `held` has what stays in memory of each part, by its source."""

    def __init__(self, folder: RunFolder, columns: AnswerColumns) -> None:
        self.held: dict[str, Held] = {}
        self.run_numbers: Mapping[str, int] = {}
        self._folder = folder
        self._columns = columns
        self._columns_digest = hashlib.sha256(repr(columns.columns).encode()).hexdigest()
        self._files = IndexFolder(folder.index)
        self._worker: Thread | None = None
        self._failed: PipelineError | None = None

    def make(self, parts: Sequence[Part], copy: SheetCopy) -> Indexing | None:
        """Makes what is missing of the index: a little at once, more in the background."""
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
        sources = {self.source(part): part for part in parts}
        missing = [part for source, part in sources.items() if source not in self.held]
        rows = 0 if copy.stretches else len(copy.skipped)
        if self._worker is None and len(missing) + rows // _STRETCH_ROWS > _AT_ONCE:
            self._worker = Thread(target=self._work, args=(missing, copy), daemon=True)
            self._worker.start()
        if self._worker is None:
            self._add(missing, copy)
        elif self._worker.is_alive():
            self._worker.join(_PATIENCE_S)
        if self._worker is not None and not self._worker.is_alive():
            self._worker = None
            return self.make(parts, copy)
        if self._worker is not None:
            return Indexing(len(sources) - len(missing), len(sources))
        self.held = {source: self.held[source] for source in sources}
        self._files.sweep(
            {_name(part) for part in parts} | {one.name for one in copy.stretches.values()}
        )
        return None

    def _work(self, missing: Sequence[Part], copy: SheetCopy) -> None:
        try:
            self._add(missing, copy)
        except PipelineError as error:
            self._failed = error

    def _add(self, missing: Sequence[Part], copy: SheetCopy) -> None:
        for part in missing:
            self._hold(part, self.segment(part))
        if not copy.stretches:
            stretches = {}
            for batch in stored_batches(copy.file, np.arange(1, len(copy.skipped) + 1)):
                rows = len(batch.keys)
                one = Stretch(batch.first, rows, f"{copy.named[1]} {batch.first} {rows}")
                stretches[batch.first] = one
                if self._read(one.name, one.source, rows, set(stored_columns(copy.file))) is None:
                    self._write_stretch(copy, one, batch.columns)
            copy.stretches.update(stretches)

    def _read(
        self, name: str, source: str, rows: int, columns: Collection[str], answers: int = 0
    ) -> Segment | None:
        """A segment of the index with the columns that it has to have."""
        found = self._files.read(name, source)
        flags = (len(known_flags(self._columns.columns)), (answers + 7) // 8) if answers else (0, 0)
        if found is None or len(found.keys) != answers or found.flags.shape != flags:
            return None
        if any(len(section.ends) != rows for section in found.sections.values()):
            return None
        return found if found.sections.keys() >= set(columns) else None

    @property
    def _sections(self) -> set[str]:
        return {section_name(), *(section_name(one.name) for one in self._columns.columns)}

    def _write_stretch(self, copy: SheetCopy, one: Stretch, columns: Sequence[pa.Array]) -> Segment:
        texts = (column.to_pylist() for column in columns)
        segment = sheet_segment(dict(zip(stored_columns(copy.file), texts, strict=True)))
        self._files.write(one.name, one.source, segment)
        return segment

    def segment(self, part: Part) -> Segment:
        """The index of a part, which is made if it is missing."""
        source = self.source(part)
        found = self._read(_name(part), source, part.rows, self._sections, part.rows)
        if found is None:
            table = read_part(self._folder, part, INDEX_COLUMNS)
            found = segment_of(table, self._columns)
            self._files.write(_name(part), source, found)
        return found

    def source(self, part: Part) -> str:
        return f"{part.sha256} {self._columns_digest}"

    def _hold(self, part: Part, segment: Segment) -> None:
        self.held[self.source(part)] = self.in_memory(segment)

    def in_memory(self, segment: Segment) -> Held:
        numbers = np.array([self.run_numbers.get(run, -1) for run in segment.runs], np.int64)
        runs, rows = segment.keys >> RUN_SHIFT, segment.keys & ((1 << RUN_SHIFT) - 1)
        known = (runs >= 0) & (runs < len(numbers))
        keys = np.full(len(runs), -1, np.int64)
        keys[known] = keys_of(numbers[runs[known]], rows[known])
        return Held(keys, segment.texts, segment.variables, segment.flags)

    def stretch(self, copy: SheetCopy, one: Stretch) -> Segment:
        """The index of a stretch of the sheet, which is made if it is missing."""
        found = self._read(one.name, one.source, one.rows, set(stored_columns(copy.file)))
        if found is None:
            [batch] = stored_batches(copy.file, np.arange(one.first, one.first + one.rows))
            found = self._write_stretch(copy, one, batch.columns)
        return found


def _name(part: Part) -> str:
    return f"part-{part.number:05}"
