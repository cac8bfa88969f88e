"""The columns that a spec names to choose rows of a sheet, and its `where:`.

RE2 searches the patterns. Its time is proportional to the length of the text for every pattern,
while the standard library's `re` may take years for thirty characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.errors import Refused
from pipeline.core.wording import nearest
from pipeline.inputs.arrow import as_numpy, call, matches, text_scalar
from pipeline.job.spec import Condition, JobSpec


def refuse_unknown_columns(spec: JobSpec, columns: Sequence[str]) -> None:
    """Raises if `where:`, `empty:` or `shown:` names a column that the sheet does not have.

    Raises:
        Refused: with its line and the nearest name.
    """
    names = [(f"where.{number}", one.column) for number, one in enumerate(spec.where)]
    names += [(f"empty.{column}", column) for column, _ in spec.empty_by_column]
    if not isinstance(spec.shown, bool):
        names += [(f"shown.{number}", name) for number, name in enumerate(spec.shown)]
    known = frozenset(columns)
    for key, name in names:
        if name not in known:
            raise Refused(
                f'{spec.at(key)}: {spec.input.name} has no column "{name}" for '
                f"`{key.partition('.')[0]}:`.{nearest(name, columns)} It has: {', '.join(columns)}."
            )


def wanted(
    conditions: Sequence[Condition], columns: Mapping[str, pa.Array]
) -> npt.NDArray[np.bool_]:
    """Returns for each row of a batch whether every condition is true. `columns` has texts without
    nulls."""
    flags: list[npt.NDArray[np.bool_]] = []
    for condition in conditions:
        found = as_numpy(_holds(condition, columns[condition.column]))
        flags.append(found != condition.negated)
    together: npt.NDArray[np.bool_] = np.logical_and.reduce(flags)
    return together


def _holds(condition: Condition, texts: pa.Array) -> pa.Array:
    if condition.test == "empty":
        return call("equal", texts, text_scalar("", texts.type))
    if condition.test == "equals":
        return call("equal", texts, text_scalar(condition.text, texts.type))
    return matches(texts, condition.text)
