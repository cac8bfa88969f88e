"""The rows of the sheet with their own types, in step with the copy in the run folder.

That copy has only texts, so the values come from the sheet itself. An answer must not stand next to
another text than the one that was sent. So the texts of each row that were sent, and its id, are
compared with the copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.errors import NothingWritten, Refused
from pipeline.inputs.stored import Copy, stored_columns, stored_mapped
from pipeline.inputs.table import Batch
from pipeline.inputs.typed import TYPED, TypedTable, open_typed
from pipeline.job.exports import read_exports
from pipeline.job.job import Job
from pipeline.job.spec import JobSpec
from pipeline.job.stage import Input, Stage
from pipeline.ledger.pins import folder_rules
from pipeline.ledger.reader import Read


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of the sheet: their cells by column, why they are skipped, and the answer
    of each, null where there is none."""

    first: int
    columns: list[pa.Array]
    skipped: pa.Array
    answered: npt.NDArray[np.bool_]
    answers: pa.RecordBatch

    def part(self, begin: int, size: int) -> Piece:
        """The `size` rows from place `begin` on."""
        end = begin + size
        return replace(
            self,
            first=self.first + begin,
            columns=[column.slice(begin, size) for column in self.columns],
            skipped=self.skipped.slice(begin, size),
            answered=self.answered[begin:end],
            answers=self.answers.slice(begin, size),
        )


@dataclass(frozen=True, slots=True)
class TypedRows:
    """The typed sheet `table` and the `columns` of the copy, of which `sent` are compared. `what`
    describes the export in messages."""

    table: TypedTable
    columns: tuple[str, ...]
    sent: tuple[str, ...]
    what: str

    @property
    def schema(self) -> pa.Schema:
        return self.table.schema

    def along(self, pieces: Iterator[Piece]) -> Iterator[tuple[Piece, list[pa.Array]]]:
        """Yields parts of `pieces`, each with the typed columns of its rows.

        Raises:
            Refused: if a text that was sent is not the same, or rows were added or removed.
        """
        at = [self.schema.names.index(name) for name in self.columns]
        typed = self.table.pieces()
        held: tuple[pa.RecordBatch, Batch] | None = None
        begin = 0
        for piece in pieces:
            done = 0
            while done < len(piece.skipped):
                if held is None or begin == len(held[1]):
                    held, begin = next(typed, None), 0
                    if held is None:
                        raise self._changed("rows were removed")
                batch, texts = held
                size = min(len(piece.skipped) - done, len(texts) - begin)
                part = piece.part(done, size)
                self._compare(part, texts, begin)
                yield part, [batch.column(place).slice(begin, size) for place in at]
                done, begin = done + size, begin + size
        if held is not None:
            self._refuse_more(held[1].split(begin)[1])
        for _, texts in typed:
            self._refuse_more(texts)

    def _compare(self, part: Piece, texts: Batch, begin: int) -> None:
        for name in self.sent:
            was = part.columns[self.columns.index(name)].to_pylist()
            now = texts.columns[self.schema.names.index(name)][begin : begin + len(was)]
            if was == now:
                continue
            place = next(n for n, (a, b) in enumerate(zip(was, now, strict=True)) if a != b)
            where = f"{self.table.place_word} {texts.places[begin + place]}"
            raise self._changed(f'{where}, column "{name}" was changed')

    def _refuse_more(self, texts: Batch) -> None:
        """Blank rows at the end are not rows of the sheet."""
        for offset, place in enumerate(texts.places):
            if any(column[offset] for column in texts.columns):
                raise self._changed(f"{self.table.place_word} {place} was added")

    def _changed(self, how: str) -> Refused:
        return changed(self.table.input, self.what, how)


def as_last_run(job: Job, read: Read) -> JobSpec | None:
    """The spec with the sheet and the text rules of the last run, so that the sheet can be compared
    with its copy in the run folder. None without a job file."""
    if job.spec is None:
        return None
    return replace(
        job.spec,
        input=job.sheet or job.spec.input,
        text_rules=folder_rules(read),
        exported=read_exports(job.folder).columns,
    )


def typed_rows(spec: JobSpec, snapshot: Copy, what: str, *, as_json: bool) -> TypedRows | None:
    """The rows of the sheet of `spec` with their own types, or with the JSON text of each value.
    None if its kind of sheet has only texts, or if it is the frame of a program that has ended.

    `snapshot` is the copy in the run folder. `what` describes the export.

    Raises:
        Refused: if the sheet cannot be read, or does not have the columns of the copy.
    """
    path, columns = spec.input, stored_columns(snapshot)
    if isinstance(path, Path):
        if path.suffix.lower() not in TYPED:
            return None
        if not path.is_file():
            raise changed(path, what, "the sheet is missing")
    elif isinstance(path, Stage) or path.table is None:
        return None
    table = open_typed(spec, as_json=as_json)
    for names, others, how in (
        (columns, table.schema.names, "removed"),
        (table.schema.names, columns, "added"),
    ):
        missing = set(names).difference(others)
        if missing:
            name = next(name for name in names if name in missing)
            raise changed(path, what, f'column "{name}" was {how}')
    sent = [*stored_mapped(snapshot), *([spec.id] if spec.id in columns else [])]
    return TypedRows(table, columns, tuple(dict.fromkeys(sent)), what)


def changed(path: Input, what: str, how: str) -> Refused:
    """The refusal of an export because the sheet is not as the last run read it."""
    return NothingWritten(
        f"{path}: {how}. {what} takes the values from this sheet, so it must be as the last run "
        "read it. Run again, which sends only new and changed rows, or export to .csv, which shows "
        "the sheet as it was sent."
    )
