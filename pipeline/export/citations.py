"""The citations of all answers as a separate table, one row per citation."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipeline.inputs.arrow import array_of
from pipeline.results.answered_sheet import AnsweredSheet, Exported
from pipeline.system.addresses import domain_of

_ADDED = ("url", "title", "domain")


def citations_table(source: AnsweredSheet) -> Exported:
    """The table with `row` (of the sheet, from 1), `id` if the job names its rows, `position` in
    the answer (from 1), `url`, `title`, and `domain`: the host of the url without `www.`, or an
    empty text."""
    ids = [pa.field("id", pa.string())] if source.answers.with_ids else []
    schema = pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            *ids,
            pa.field("position", pa.int64(), nullable=False),
            *(pa.field(name, pa.string(), nullable=False) for name in _ADDED),
        ]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for stretch in source.answers.stretches(source.scratch):
            found: dict[str, list[object]] = {name: [] for name in ("id", *schema.names)}
            answers = (stretch.answers[name].to_pylist() for name in ("id", "citations"))
            for row, row_id, citations in zip(stretch.rows.tolist(), *answers, strict=True):
                for position, citation in enumerate(citations, start=1):
                    url = citation["url"] or ""
                    values = (row_id, row, position, url, citation["title"] or "", domain_of(url))
                    for name, value in zip(("id", "row", "position", *_ADDED), values, strict=True):
                        found[name].append(value)
            arrays = [array_of(found[field.name], field.type) for field in schema]
            yield pa.record_batch(arrays, schema=schema)

    return Exported(schema, source.rows, {name: name for name in _ADDED}, batches)
