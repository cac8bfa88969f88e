"""Compares a sheet with the sheet of the last run, in rows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.inputs.identity import SheetKeys


@dataclass(frozen=True, slots=True)
class Drift:
    """The differences between a sheet and the sheet of the last run, as numbers of rows."""

    same: int
    changed: int
    new: int
    gone: int


def drift(before: SheetKeys, now: SheetKeys) -> Drift:
    """Counts rows that are the same, changed, new and gone. The order of rows does not matter.

    With ids, a row is changed if its id is still there with another text. Without ids, a row is
    changed if it has the row number of a row that left the sheet.
    """
    fresh = ~_among(now.rows, before.rows)
    left = ~_among(before.rows, now.rows)
    if before.ids is not None and now.ids is not None:
        changed = int(_among(now.ids[fresh], before.ids[left]).sum())
    else:
        changed = int(_among(now.numbers[fresh], before.numbers[left]).sum())
    new, gone = int(fresh.sum()) - changed, int(left.sum()) - changed
    return Drift(len(now.rows) - changed - new, changed, new, gone)


def _among(values: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Returns which of `values` are in `others`, as np.isin does. Its hash table would need 130
    bytes per row."""
    if not len(others):
        return np.zeros(len(values), dtype=np.bool_)
    arranged = np.sort(others)
    places = np.searchsorted(arranged, values)
    np.minimum(places, len(others) - 1, out=places)
    found: npt.NDArray[np.bool_] = arranged[places] == values
    return found
