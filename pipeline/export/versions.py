"""All paid answers as a separate table, one row per answer."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipeline.core.added_columns import ANSWER
from pipeline.inputs.arrow import array_of, texts
from pipeline.job.job import Job
from pipeline.ledger import attempts
from pipeline.results.answered_sheet import AnsweredSheet, Exported
from pipeline.results.lookup import find_answers
from pipeline.results.schema import RESULTS_SCHEMA

_STORED = ("version", "sent_at", ANSWER, "citations")
_REVIEW = "review"


def versions_table(job: Job, source: AnsweredSheet) -> Exported:
    """The table with `row` (of the sheet, from 1), `id` if the job names its rows, and the answers
    of each row, the oldest first."""
    source.read(attempts.choose(range(1, source.rows + 1), {}))
    number = source.read(attempts.count_versions)
    answers = find_answers(
        job.folder, source.read, number, more=_STORED[:2], which=attempts.paid_versions
    )
    ids = [RESULTS_SCHEMA.field("id")] if answers.with_ids else []
    schema = pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            *ids,
            *(RESULTS_SCHEMA.field(name) for name in _STORED),
            pa.field(_REVIEW, pa.string()),
        ]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        places = source.read(lambda db: list(attempts.rows_of_versions(db)))
        for stretch in answers.stretches(source.scratch):
            here = [places[number - 1] for number in stretch.rows.tolist()]
            columns = {
                name: stretch.answers[name].combine_chunks()
                for name in (*(field.name for field in ids), *_STORED)
            }
            columns["row"] = array_of([row for row, _ in here], pa.int64())
            standing = [source.reviews.standing.get(attempt) for _, attempt in here]
            columns[_REVIEW] = texts(
                [str(one.decision) if one and one.decision else None for one in standing]
            )
            yield pa.record_batch([columns[name] for name in schema.names], schema=schema)

    added = {name: name for name in (ANSWER, "citations", _REVIEW)}
    return Exported(schema, number, added, batches)
