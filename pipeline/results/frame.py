"""The sheet with its answers as a DataFrame of pandas. No other module imports pandas."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.types as kinds

from pipeline.core.added_columns import KINDS
from pipeline.inputs.arrow_rows import UNREADABLE, python_values
from pipeline.inputs.frame import is_pandas
from pipeline.job.exports import note_export
from pipeline.job.job import Job, as_job
from pipeline.job.spec import JobSpec
from pipeline.results.answered_sheet import Exported, opened, sheet_table
from pipeline.results.typed_rows import as_last_run, typed_rows

if TYPE_CHECKING:
    from pandas import DataFrame as DataFrame  # for annotations in other modules
    from pandas import Series


def read_results(job: Job | JobSpec | str | os.PathLike[str], paid: bool = False) -> DataFrame:
    """Returns the sheet of the last run with every answer next to its row, as a DataFrame.

    The rows are in the order of the sheet. The columns of a Parquet or JSON Lines sheet keep their
    types. Those of other sheets are texts, and so are those of a frame that another program passed.
    Then come the columns of an export: the answer, the columns of `columns:`, the citations, the
    status, the error code and message, the flags, and the decision of a person. All types can have
    missing values. Where a person edited an answer, the edited text is there; `paid` gives the text
    that was paid.

    Works while a run is active. A row without an answer has a status that says why.

    Raises:
        Refused: before the first run, and if a Parquet or JSON Lines sheet was changed since then.
        StorageFailed: when an answer is missing, or is not what was written.
    """
    with _answered(as_job(job), paid=paid) as exported:
        return _as_pandas(pa.Table.from_batches(exported.batches(), exported.schema))


def add_answers(given: Any, job: Job) -> DataFrame:
    """Returns the frame of `job`, which the caller got as `given`, with every answer next to its
    row. A frame of pandas keeps its index and columns as they are.

    Raises:
        Refused: if another run in the folder had other rows since then.
        StorageFailed: when an answer is missing, or is not what was written.
    """
    with _answered(job) as exported:
        names = list(exported.kinds) if is_pandas(given) else exported.schema.names
        batches = (batch.select(names) for batch in exported.batches())
        schema = pa.schema([exported.schema.field(name) for name in names])
        found = _as_pandas(pa.Table.from_batches(batches, schema))
    note_export(job.folder, exported.added)
    return _joined(given, found) if is_pandas(given) else found


@contextmanager
def _answered(job: Job, *, paid: bool = False) -> Iterator[Exported]:
    with (
        tempfile.TemporaryDirectory(prefix="pipeline-frame-") as scratch,
        opened(job, Path(scratch), KINDS, paid=paid) as source,
    ):
        spec = as_last_run(job, source.read)
        typed = None
        if spec is not None:
            typed = typed_rows(spec, source.snapshot, "A DataFrame", as_json=False)
        yield sheet_table(source, typed, with_types=True)


def _joined(given: DataFrame, found: DataFrame) -> DataFrame:
    """The columns of an earlier call stand where the frame has them, and the others at the end."""
    import pandas as pd

    found.index = given.index
    renewed = [name for name in found.columns if name in given.columns]
    joined = given.copy()
    for name in renewed:
        joined[name] = found[name]
    joined = pd.concat([joined, found.drop(columns=renewed)], axis=1)
    joined.attrs = dict(given.attrs)
    return joined


def _as_pandas(table: pa.Table) -> DataFrame:
    """The table with types that have missing values. Lists are Python's."""
    import pandas as pd

    dtypes = {
        pa.bool_(): pd.BooleanDtype(),
        pa.int8(): pd.Int8Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.uint8(): pd.UInt8Dtype(),
        pa.uint16(): pd.UInt16Dtype(),
        pa.uint32(): pd.UInt32Dtype(),
        pa.uint64(): pd.UInt64Dtype(),
        pa.float32(): pd.Float32Dtype(),
        pa.float64(): pd.Float64Dtype(),
        pa.string(): pd.StringDtype(),
        pa.large_string(): pd.StringDtype(),
        pa.string_view(): pd.StringDtype(),
    }
    return pd.DataFrame(
        {name: _series(table.select([name]), dtypes.get) for name in table.schema.names}, copy=False
    )


def _series(table: pa.Table, types_mapper: Callable[[pa.DataType], Any]) -> Series:
    """The only column of `table`. Its values are Python's objects if pandas has no type for it."""
    import pandas as pd

    [field] = table.schema
    if not _is_compound(field.type):
        with suppress(*UNREADABLE):  # pandas reads days after the year 9999, which Python does not
            series: Series = table.to_pandas(
                types_mapper=types_mapper, date_as_object=False, ignore_metadata=True
            )[field.name]
            return series
    values = [value for chunk in table[0].chunks for value in python_values(chunk)]
    return pd.Series(values, dtype=object)


def _is_compound(kind: pa.DataType) -> bool:
    """Whether pandas may have no type for this, or another value: lists that contain the texts of
    polars, and the types of extensions."""
    if isinstance(kind, pa.DictionaryType):
        kind = kind.value_type
    return isinstance(kind, pa.BaseExtensionType) or bool(kinds.is_nested(kind))
