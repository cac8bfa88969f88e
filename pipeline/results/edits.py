"""Puts the texts that people wrote in the place of the paid answers, wherever answers are read.

An edit of the whole answer replaces its text, and its stored flags, which are about the paid text.
Edits of single columns are in `COLUMN_EDITS`, because the columns are computed later.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping

import pyarrow as pa

from pipeline.core.review import Standing
from pipeline.inputs.arrow import array_of, texts
from pipeline.ledger import queries
from pipeline.ledger.reader import Read
from pipeline.ledger.reviews import Reviews
from pipeline.ledger.schema import altered
from pipeline.policy.answer import EMPTY
from pipeline.results.schema import RESULTS_SCHEMA
from pipeline.system.opening import as_object

COLUMN_EDITS = "column_edits"
"""The name of the field with the edited columns of an answer: JSON with the text by column."""

Load = Callable[[tuple[str, ...]], pa.Table]
_NAMED_BY = ("run_id", "row")


class Edits:
    """The edited answers of a run folder, by the run and the row that they were sent for."""

    def __init__(self, reviews: Reviews, read: Read) -> None:
        edited = {n: one for n, one in reviews.standing.items() if one.edits}
        self._reviews = reviews
        self._of_run: dict[str, dict[int, Standing]] = defaultdict(dict)
        for attempt_id, run_id, row in read(queries.places_of(edited)) if edited else ():
            self._of_run[run_id][row] = edited[attempt_id]
        of_columns = any(part is not None for one in edited.values() for part in one.edits)
        self.fields = (COLUMN_EDITS,) if of_columns else ()

    def around(self, load: Load) -> Load:
        """Returns a function that loads columns of answers as people edited them."""
        if not self._of_run:
            return load

        def loaded(columns: tuple[str, ...]) -> pa.Table:
            stored = [name for name in columns if name != COLUMN_EDITS]
            table = load(tuple(dict.fromkeys((*stored, *_NAMED_BY))))
            return self._applied(table, columns).select(list(columns))

        return loaded

    def _applied(self, table: pa.Table, columns: tuple[str, ...]) -> pa.Table:
        runs, rows = (table[name].to_pylist() for name in _NAMED_BY)
        edited = {
            place: standing
            for place, (run, row) in enumerate(zip(runs, rows, strict=True))
            if (standing := self._of_run.get(run, {}).get(row))
        }
        wanted = self._reviews.texts(n for one in edited.values() for n in one.edits.values())
        whole = {
            place: wanted[one.edits[None]] for place, one in edited.items() if None in one.edits
        }
        for name, value_of in _REPLACED.items():
            if name in columns and whole:
                values = table[name].to_pylist()
                for place, text in whole.items():
                    values[place] = value_of(text)
                kind = RESULTS_SCHEMA.field(name).type
                table = table.set_column(
                    table.column_names.index(name), name, pa.chunked_array([array_of(values, kind)])
                )
        if COLUMN_EDITS in columns:
            parts = {
                place: {part: wanted[n] for part, n in one.edits.items() if part is not None}
                for place, one in edited.items()
            }
            found = [json.dumps(parts[n]) if parts.get(n) else None for n in range(len(runs))]
            table = table.append_column(COLUMN_EDITS, texts(found))
        return table


_REPLACED: Mapping[str, Callable[[str], object]] = {
    "result": lambda text: text,
    "flags": lambda text: [] if text.strip() else [EMPTY],
}


def column_edits_of(answers: pa.Table | pa.RecordBatch) -> list[Mapping[str, str]]:
    """Returns the edited columns of each answer, by their names."""
    if COLUMN_EDITS not in answers.schema.names:
        return [{}] * len(answers)
    try:
        return [as_object(text) if text else {} for text in answers[COLUMN_EDITS].to_pylist()]
    except ValueError:
        raise altered("an edited column") from None
