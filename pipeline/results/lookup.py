"""The answers of the sheet's rows, in the sheet's order, wherever they are and however many.

They are sealed in parts, or still in the ledger, in the order in which they came; the sheet may
have been sorted since. So every part is read twice: once to find out which row of the sheet each
answer is for and how large it is, and once to copy the answers into a temporary file by stretches
of the sheet. A stretch is as many rows as a bounded number of bytes holds: memory does not depend
on the order of the sheet, nor on the length of the answers, and no part is read a third time.
"""

from __future__ import annotations

import hashlib
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import StorageFailed
from pipeline.inputs.arrow import as_numpy, call, numbers, shortened_lists, taken
from pipeline.job.answer_columns import AnswerColumns
from pipeline.job.job import Job
from pipeline.job.run_folder import RunFolder
from pipeline.ledger import queries
from pipeline.ledger.queries import Answered, Part
from pipeline.ledger.reader import Operation, Read
from pipeline.ledger.reviews import Reviews, read_reviews
from pipeline.ledger.schema import altered
from pipeline.policy.answer import MAX_CITATIONS
from pipeline.results.edits import COLUMN_EDITS, Edits, column_edits_of
from pipeline.results.flags import REPEATED, REPEATED_FROM_CHARACTERS, all_flags, known_flags
from pipeline.results.schema import PART_FILE_BYTES, RESULTS_SCHEMA, results_table
from pipeline.system.opening import read_file

STRETCH_BYTES = 12 * 1024 * 1024
# So that a shuffled sheet does not cut every part into thousands of pieces.
_MOST_STRETCHES = 200
ANSWER_COLUMNS = ("id", "result", "citations", "flags")
NO_COLUMNS = AnswerColumns(())

# Further columns of the results whose texts have any length.
_LONG = ("variables", "extra", COLUMN_EDITS)
_UNSEALED_ROWS = 200
_CHUNK_ROWS = 20_000
# (run, row as sent) as one integer: no sheet has 2^40 rows.
RUN_SHIFT = 40

Rows = npt.NDArray[np.int64]
Load = Callable[[tuple[str, ...]], pa.Table]


@dataclass(frozen=True, slots=True)
class _Placed:
    """Which answers are wanted, by their position, ascending, and the row of the sheet that each
    is for. An answer is there more than once where equal rows share it."""

    positions: Rows
    rows: Rows

    def split(self, counts: list[int]) -> list[_Placed]:
        """The same by part, of so many answers each; positions count from the part's first."""
        firsts = np.cumsum([0, *counts])
        cuts = np.searchsorted(self.positions, firsts)
        return [
            _Placed(self.positions[begin:end] - first, self.rows[begin:end])
            for first, begin, end in zip(firsts, cuts, cuts[1:], strict=False)
        ]

    def only(self, rows: npt.NDArray[np.bool_]) -> _Placed:
        """The same for some rows of the sheet (row 1 at 0)."""
        keep = rows[self.rows - 1]
        return _Placed(self.positions[keep], self.rows[keep])


@dataclass(frozen=True, slots=True)
class Stretch:
    """The rows `first` to `last` of the sheet. `rows` are the answered ones among them, ascending,
    and `answers` holds the columns of each."""

    first: int
    last: int
    rows: Rows
    answers: pa.Table


@dataclass(frozen=True, slots=True)
class Answers:
    """Where the answer of every row of a sheet is.

    `repeated` flags the rows (row 1 at 0) whose answer is also another row's, with other variables;
    it is None, and `flagged` empty, unless flags were asked for. `flagged` has the rows with each
    flag, ascending. `with_ids`: the job names its rows. `has` flags the answered rows. `columns`
    are those of the results that the answers have.
    """

    with_ids: bool
    has: npt.NDArray[np.bool_]
    columns: tuple[str, ...]
    repeated: npt.NDArray[np.bool_] | None
    flagged: Mapping[str, Rows]
    _loads: list[Load]
    _placed: list[_Placed]
    _first_rows: Rows
    _sheet_rows: int

    @property
    def answered(self) -> int:
        """How many rows of the sheet have an answer."""
        return int(self.has.sum())

    def only(self, rows: npt.NDArray[np.bool_]) -> Answers:
        """The same, but of the other rows no answer is read. They still count as answered."""
        return replace(self, _placed=[placed.only(rows) for placed in self._placed])

    def stretches(self, scratch: Path) -> Iterator[Stretch]:
        """Every row of the sheet once, in order. The temporary file is made in `scratch`, has no
        name, and is gone with the process.

        Raises:
            StorageFailed: when a part is no longer what it was.
        """
        with tempfile.TemporaryFile(dir=scratch) as file:
            spill = _Spill(file, self.columns)
            for load, placed in zip(self._loads, self._placed, strict=True):
                if len(placed.rows):
                    spill.add(load(self.columns), placed, self._first_rows)
            lasts = [*(self._first_rows[1:] - 1), self._sheet_rows]
            for number, (first, last) in enumerate(zip(self._first_rows, lasts, strict=True)):
                yield Stretch(int(first), int(last), *spill.read(number))


def find_answers(
    folder: RunFolder,
    read: Read,
    sheet_rows: int,
    *,
    flags: bool = False,
    columns: AnswerColumns = NO_COLUMNS,
    more: tuple[str, ...] = (),
    which: Operation[Iterator[Answered]] = queries.answered,
    edits: Edits | None = None,
    stretch_bytes: int = STRETCH_BYTES,
) -> Answers:
    """Looks every answer up that the ledger counts for a row of the sheet. With `flags`, those that
    `columns` computes are found too. The answers have `ANSWER_COLUMNS` and those that `more` names.
    `which` yields the answers, if not those of the sheet's rows. With `edits`, the texts are those
    that people wrote.

    `stretch_bytes` of answers are in memory at once, and one answer more.

    Needs 25 bytes a row for as long as the answers are used, and some 60 while it looks.

    Raises:
        StorageFailed: when one of them is not in the results, or a part is not what was written.
    """
    loads = _loads(folder, read)
    if edits is not None:
        loads = [edits.around(load) for load in loads]
        more = (*more, *edits.fields)
    held = _HeldAnswers(flags, columns, more)
    for load in loads:
        held.add(load(held.columns))
    of_row, keys = _wanted(read, which, held.run_numbers)
    placed, sizes = held.place(of_row, keys, sheet_rows, folder)
    ends = np.cumsum(sizes)
    stretch_bytes = max(stretch_bytes, int(sizes.sum()) // _MOST_STRETCHES)
    first_rows = np.flatnonzero(np.diff(ends // stretch_bytes, prepend=-1)) + 1
    repeated = None
    if flags:
        texts, variables = (
            np.concatenate([np.empty(0, np.uint64), *arrays])[placed.positions]
            for arrays in (held.texts, held.variables)
        )
        repeated = repeated_rows(placed.rows, texts, variables, sheet_rows)
    has = np.zeros(sheet_rows, bool)
    has[of_row - 1] = True
    return Answers(
        held.with_ids,
        has,
        (*ANSWER_COLUMNS, *more),
        repeated,
        _Flagged(held, placed, repeated),
        loads,
        placed.split(held.counts),
        first_rows.astype(np.int64),
        sheet_rows,
    )


def answers_at(
    loads: Sequence[Load],
    places: Sequence[tuple[Rows, Rows]],
    has: npt.NDArray[np.bool_],
    repeated: npt.NDArray[np.bool_],
    more: tuple[str, ...],
) -> Answers:
    """Returns the answers of some rows, for a caller that knows where they are: `places` has for
    each of `loads` the positions of the answers, ascending, and the rows of the sheet. `has` and
    `repeated` are about the whole sheet."""
    placed = [_Placed(*one) for one in places]
    columns, first = (*ANSWER_COLUMNS, *more), np.ones(1, np.int64)
    return Answers(True, has, columns, repeated, {}, list(loads), placed, first, len(has))


def find_flagged_answers(job: Job, read: Read, reviews: Reviews | None = None) -> Answers:
    """Looks every answer up for its flags, in the sheet of the last run.

    `reviews` are those of the folder, if the caller has read them.

    Raises:
        StorageFailed: as `find_answers` does.
    """
    columns = AnswerColumns(job.spec.columns if job.spec else ())
    rows = read(queries.counts).sheet_rows
    reviews = reviews or read_reviews(job.folder, read)
    which = queries.answered_after_review(reviews.protected)
    return find_answers(
        job.folder,
        read,
        rows,
        flags=True,
        columns=columns,
        which=which,
        edits=Edits(reviews, read),
    )


def _loads(folder: RunFolder, read: Read) -> list[Load]:
    """What loads columns of each part, and of the answers that the ledger itself still holds."""
    parts: list[Load] = [partial(read_part, folder, p) for p in read(queries.sealed_parts)]
    return parts + list(unsealed_loads(read).values())


def unsealed_loads(read: Read) -> dict[tuple[int, int], Load]:
    """Returns what loads columns of the answers that the ledger itself still holds, by the numbers
    of the first and the last answer."""
    first, last = read(queries.unsealed_range)
    begins = range(first, last + 1, _UNSEALED_ROWS)
    ranges = [(begin, min(begin + _UNSEALED_ROWS - 1, last)) for begin in begins]
    return {numbers: partial(_unsealed, read, *numbers) for numbers in ranges}


def read_part(folder: RunFolder, part: Part, columns: Sequence[str]) -> pa.Table:
    """Columns of the answers in one part. Checked and read from the same bytes: a disk may give
    others.

    Raises:
        StorageFailed: when it is not what was written.
    """
    path = folder.results / part.name
    try:
        content = read_file(path, PART_FILE_BYTES)
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise OSError("it is not as the runner wrote it")
        file = pq.ParquetFile(pa.BufferReader(content))
        if not file.schema_arrow.equals(RESULTS_SCHEMA) or file.metadata.num_rows != part.rows:
            raise OSError("its columns or its number of rows are not those in the ledger")
        return file.read(columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise StorageFailed(
            f"{path}: the runner cannot use this part of the results "
            f"({getattr(error, 'strerror', None) or error}). Restore the file from a copy of the "
            "run folder. `pipeline verify` lists everything that is damaged."
        ) from None


def _unsealed(read: Read, first_seq: int, last_seq: int, columns: tuple[str, ...]) -> pa.Table:
    return results_table(read(queries.finished(first_seq, last_seq)), "").select(list(columns))


def _wanted(
    read: Read, which: Operation[Iterator[Answered]], run_numbers: dict[str, int]
) -> tuple[Rows, Rows]:
    """(row of the sheet, key of its answer) of every row that the ledger says is answered."""
    found = read(which)
    rows, keys = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    while chunk := read(lambda _: list(islice(found, _CHUNK_ROWS))):
        rows.append(np.array([a.sheet_row for a in chunk], np.int64))
        runs = [run_numbers.get(a.run_id, -1) for a in chunk]
        keys.append(keys_of(np.array(runs, np.int64), np.array([a.sent_row for a in chunk])))
    return np.concatenate(rows), np.concatenate(keys)


def keys_of(runs: Rows, rows: Rows) -> Rows:
    """Returns one number for each answer, from the number of its run and its row in that run."""
    return (runs << RUN_SHIFT) + rows


class _HeldAnswers:
    """What is known of each answer that is held, one number a column, in the order of the parts."""

    def __init__(self, flags: bool, columns: AnswerColumns, more: tuple[str, ...]) -> None:
        self._texts = ("result", "citations_raw", *(name for name in more if name in _LONG))
        self.columns: tuple[str, ...] = ("run_id", "row", "id", *self._texts)
        if flags:
            self.columns += ("row_key", "flags")
        self.run_numbers: dict[str, int] = {}
        self.counts: list[int] = []
        self.with_ids = False
        self.texts: list[npt.NDArray[np.uint64]] = []
        self.variables: list[npt.NDArray[np.uint64]] = []
        self._keys: list[Rows] = []
        self._sizes: list[npt.NDArray[np.int32]] = []
        self._flagged: dict[str, list[npt.NDArray[np.uint8]]] = defaultdict(list)
        self._flagging = flags
        self._answer_columns = columns
        self.known = known_flags(columns.columns)

    def add(self, table: pa.Table) -> None:
        """The next part, with `columns`."""
        numbers = self.run_numbers
        runs = [numbers.setdefault(run, len(numbers)) for run in table["run_id"].to_pylist()]
        self.counts.append(len(table))
        self._keys.append(keys_of(np.array(runs, np.int64), as_numpy(table["row"])))
        sizes = [_bytes_of(table[name]) for name in self._texts]
        self._sizes.append(np.add.reduce(sizes, dtype=np.int32))
        self.with_ids |= table["id"].null_count < len(table)
        if self._flagging:
            self.texts.append(np.fromiter(map(hashed, table["result"].to_pylist()), np.uint64))
            keys = (int(key[:16], 16) for key in table["row_key"].to_pylist())
            self.variables.append(np.fromiter(keys, np.uint64))
            self._add_flags(table)

    def _add_flags(self, table: pa.Table) -> None:
        """Keeps one bit for each answer and flag: a job with 50 columns has a hundred flags."""
        has = {flag: np.zeros(len(table), bool) for flag in self.known}
        columns = self._answer_columns
        answers, edited = table["result"].to_pylist(), column_edits_of(table)
        for place, stored in enumerate(table["flags"].to_pylist()):
            computed = columns.read(answers[place], edited[place]).flags if columns.columns else ()
            for flag in all_flags(stored, computed, repeated=False):
                if flag in has:
                    has[flag][place] = True
        for flag, found in has.items():
            self._flagged[flag].append(np.packbits(found))

    def with_flag(self, flag: str, placed: _Placed) -> Rows:
        """The rows of the sheet whose answer has a flag, ascending."""
        parts = zip(self._flagged[flag], self.counts, strict=True)
        has = [np.unpackbits(bits, count=count).astype(bool) for bits, count in parts]
        rows: Rows = np.sort(
            placed.rows[np.concatenate([np.empty(0, bool), *has])[placed.positions]]
        )
        return rows

    def place(
        self, of_row: Rows, keys: Rows, sheet_rows: int, folder: RunFolder
    ) -> tuple[_Placed, Rows]:
        """(the answer of each answered row, bytes of the answer of each row of the sheet)."""
        held = np.concatenate([np.empty(0, np.int64), *self._keys])
        order = np.argsort(held, kind="stable")
        at = np.searchsorted(held, keys, sorter=order)
        at = order[np.minimum(at, max(len(held) - 1, 0))] if len(held) else at
        lost = held[at] != keys if len(held) else np.ones(len(keys), bool)
        if lost.any():
            raise StorageFailed(
                f"{folder.results}: answers are missing, {int(lost.sum())} in all (the first is "
                f"that of row {int(of_row[lost].min())}). A part may have been removed. `pipeline "
                "verify` lists the missing parts and rows."
            )
        if len(of_row) and not 1 <= of_row.min() <= of_row.max() <= sheet_rows:
            raise altered("the record of where an answer is")
        sizes = np.zeros(sheet_rows, np.int64)
        sizes[of_row - 1] = np.concatenate([np.empty(0, np.int32), *self._sizes])[at]
        by_position = np.argsort(at, kind="stable")
        return _Placed(at[by_position], of_row[by_position]), sizes


class _Flagged(Mapping[str, Rows]):
    """The rows of each flag that an answer has, in the order of `known_flags`. They are listed only
    when they are asked for, because all together can be many times as many as the answers."""

    def __init__(
        self, held: _HeldAnswers, placed: _Placed, repeated: npt.NDArray[np.bool_] | None
    ) -> None:
        self._held = held
        self._placed = placed
        self._repeated = repeated
        self._flags = [] if repeated is None else [f for f in held.known if len(self[f])]

    def __getitem__(self, flag: str) -> Rows:
        if self._repeated is None or flag not in self._held.known:
            raise KeyError(flag)
        if flag == REPEATED:
            return np.flatnonzero(self._repeated) + 1
        return self._held.with_flag(flag, self._placed)

    def __iter__(self) -> Iterator[str]:
        return iter(self._flags)

    def __len__(self) -> int:
        return len(self._flags)


def _bytes_of(texts: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    none = numbers([0], pa.int32())[0]
    return as_numpy(call("coalesce", call("binary_length", texts), none))


def hashed(text: str) -> int:
    """64 bits of a text; 0 for one that is too short to be remarkable when it comes twice."""
    if len(text) < REPEATED_FROM_CHARACTERS:
        return 0
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1


def repeated_rows(
    rows: Rows, texts: npt.NDArray[np.uint64], variables: npt.NDArray[np.uint64], sheet_rows: int
) -> npt.NDArray[np.bool_]:
    """Returns for each row of the sheet whether its answer is also that of other variables. `texts`
    and `variables` have the hashes of the answers of `rows`."""
    flags = np.zeros(sheet_rows, bool)
    used = np.flatnonzero(texts)
    used = used[np.lexsort((variables[used], texts[used]))]
    if not len(used):
        return flags
    texts, variables = texts[used], variables[used]
    begins = np.flatnonzero(np.diff(texts, prepend=~texts[:1]))
    sizes = np.diff(begins, append=len(used))
    # Sorted by variables within equal texts: the ends differ where any of them do.
    differ = variables[begins] != variables[begins + sizes - 1]
    flags[rows[used[np.repeat(differ, sizes)]] - 1] = True
    return flags


@dataclass(slots=True)
class _Spill:
    """Answers on their way from the order of the parts to the order of the sheet."""

    file: IO[bytes]
    columns: tuple[str, ...]
    places: dict[int, list[tuple[int, int, int]]] = field(default_factory=lambda: defaultdict(list))
    """Of each stretch: (offset, bytes, checksum) of its pieces."""

    @property
    def schema(self) -> pa.Schema:
        fields = [
            pa.field(name, pa.string()) if name == COLUMN_EDITS else RESULTS_SCHEMA.field(name)
            for name in self.columns
        ]
        return pa.schema([pa.field("sheet_row", pa.int64()), *fields])

    def add(self, answers: pa.Table, placed: _Placed, first_rows: Rows) -> None:
        """Answers of one part."""
        by_row = np.argsort(placed.rows, kind="stable")
        rows = placed.rows[by_row]
        table = taken(answers, placed.positions[by_row]).add_column(
            0, "sheet_row", numbers(rows, pa.int64())
        )
        place = table.column_names.index("citations")
        cut = shortened_lists(table["citations"], MAX_CITATIONS)
        table = table.set_column(place, "citations", cut)
        table = pa.Table.from_arrays(table.columns, schema=self.schema)
        stretches = np.searchsorted(first_rows, rows, side="right") - 1
        begins = np.flatnonzero(np.diff(stretches, prepend=-1))
        for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
            content = _packed(table.slice(begin, end - begin))
            place = (self.file.seek(0, 2), len(content), zlib.crc32(content))
            self.file.write(content)
            self.places[int(stretches[begin])].append(place)

    def read(self, number: int) -> tuple[Rows, pa.Table]:
        """(the answered rows of a stretch, ascending; the answer of each)."""
        tables = [pa.Table.from_batches([], self.schema)]
        for offset, size, checksum in self.places.pop(number, ()):
            self.file.seek(offset)
            content = self.file.read(size)
            if zlib.crc32(content) != checksum:
                raise StorageFailed(
                    "A temporary file does not contain the bytes that the runner wrote to it. The "
                    "results in the run folder are safe. Check the disk for errors."
                )
            tables.append(pa.ipc.open_stream(pa.py_buffer(content)).read_all())
        table = pa.concat_tables(tables)
        order = np.argsort(as_numpy(table["sheet_row"]), kind="stable")
        table = taken(table, order).combine_chunks()
        return as_numpy(table["sheet_row"]), table.drop_columns("sheet_row")


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(memoryview(sink.getvalue()))
