"""The columns of a part: one answered row each."""

from __future__ import annotations

from itertools import chain

import pyarrow as pa

from pipeline.inputs.arrow import lists, numbers, texts
from pipeline.ledger.queries import Finished
from pipeline.policy.answer import read_answer
from pipeline.results.flags import flags_of

EMPTY_PART = "part-00000.parquet"
"""The part without answers. It makes the folder a table before the first answer."""
PART_FILE_BYTES = 1 << 30
"""The most that a part's file may have: its answers are some 16 MB, its requests may be longer."""
_TIME = pa.timestamp("us", tz="UTC")
RESULTS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("row_key", pa.string(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("workflow", pa.string(), nullable=False),
        pa.field("variables", pa.string(), nullable=False),
        pa.field("result", pa.string(), nullable=False),
        pa.field(
            "citations",
            pa.list_(pa.struct([("title", pa.string()), ("url", pa.string())])),
            nullable=False,
        ),
        pa.field("citations_raw", pa.string()),
        pa.field("extra", pa.string()),
        pa.field("flags", pa.list_(pa.string()), nullable=False),
        pa.field("http_status", pa.int32(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("latency_s", pa.float64(), nullable=False),
        pa.field("sent_at", _TIME, nullable=False),
        pa.field("finished_at", _TIME, nullable=False),
    ]
)


def results_table(rows: list[Finished], workflow: str) -> pa.Table:
    """Answers as they stand in a part."""
    columns = {"workflow": texts([workflow] * len(rows)), **_of_rows(rows), **_of_answers(rows)}
    arrays = [columns[name] for name in RESULTS_SCHEMA.names]
    return pa.Table.from_arrays(arrays, schema=RESULTS_SCHEMA)


def _of_rows(rows: list[Finished]) -> dict[str, pa.Array]:
    return {
        "row": numbers([row.sheet_row for row in rows], pa.int64()),
        "id": texts([row.id for row in rows]),
        "row_key": texts([row.row_key.hex() for row in rows]),
        "version": numbers([row.version for row in rows], pa.int32()),
        "run_id": texts([row.run_id for row in rows]),
        "http_status": numbers([row.http_status for row in rows], pa.int32()),
        "attempts": numbers([row.attempts for row in rows], pa.int32()),
        "latency_s": numbers([row.latency_s for row in rows], pa.float64()),
        "sent_at": numbers([_microseconds(row.sent_at) for row in rows], _TIME),
        "finished_at": numbers([_microseconds(row.finished_at) for row in rows], _TIME),
    }


def _of_answers(rows: list[Finished]) -> dict[str, pa.Array]:
    answers = [read_answer(row.answer) for row in rows]
    requests = [row.request.decode() for row in rows]
    citations = [citation for answer in answers for citation in answer.citations]
    cited = pa.StructArray.from_arrays(
        [texts([c.title for c in citations]), texts([c.url for c in citations])],
        fields=list(RESULTS_SCHEMA.field("citations").type.value_type),
    )
    flags = [
        [*answer.flags, *flags_of(answer.result, request)]
        for answer, request in zip(answers, requests, strict=True)
    ]
    return {
        "variables": texts(requests),
        "result": texts([answer.result for answer in answers]),
        "citations": lists([len(answer.citations) for answer in answers], cited),
        "citations_raw": texts([answer.citations_raw for answer in answers]),
        "extra": texts([answer.extra or None for answer in answers]),
        "flags": lists(list(map(len, flags)), texts(list(chain.from_iterable(flags)))),
    }


def _microseconds(since_1970_s: float) -> int:
    return round(since_1970_s * 1_000_000)
