"""Reads Parquet sheets."""

from __future__ import annotations

from functools import partial

import pyarrow.parquet as pq

from pipeline.core.errors import Refused
from pipeline.inputs.arrow_rows import UNREADABLE, OpenRows, Source, first_line, open_rows
from pipeline.inputs.pages import look_through, refuse_too_much
from pipeline.inputs.table import Table, refuse_too_wide
from pipeline.job.spec import JobSpec


def open_parquet(spec: JobSpec) -> Table:
    """Opens a Parquet file. Nulls become empty, integers have no `.0`, and times are ISO 8601."""
    return open_pieces(spec).as_table(spec.file)


def open_pieces(spec: JobSpec) -> OpenRows:
    """Opens a Parquet file, for its rows with their own types and as texts."""
    path = spec.file
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        schema = file.schema_arrow
        refuse_too_wide(path, schema.names)
        batch_rows, long_texts = look_through(path, file.metadata, schema)
        if long_texts:
            file = pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=long_texts)
    except UNREADABLE as error:
        raise Refused(
            f"{path}: the file is not readable as Parquet ({first_line(error)}). Copy it again "
            "from its source."
        ) from None
    source = Source(
        path,
        schema,
        file.metadata.num_rows,
        lambda: file.iter_batches(batch_size=batch_rows),
        batch_rows,
        partial(refuse_too_much, path),
        "Write the file again without it.",
    )
    return open_rows(spec, source, uuids=_uuids(file))


def _uuids(file: pq.ParquetFile) -> frozenset[str]:
    leaves = (file.schema.column(place) for place in range(len(file.schema.names)))
    return frozenset(leaf.path for leaf in leaves if str(leaf.logical_type) == "UUID")
