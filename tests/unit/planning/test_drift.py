"""The differences between two sheets."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.inputs.identity import SheetKeys, digests
from pipeline.planning.drift import Drift, drift


def keys(texts: list[str], ids: list[str] | None = None) -> SheetKeys:
    def raw(values: list[str]) -> bytes:
        return b"".join(value.encode().ljust(16, b".") for value in values)

    numbers = np.arange(1, len(texts) + 1, dtype=np.int64)
    return SheetKeys(numbers, digests(raw(texts)), None if ids is None else digests(raw(ids)))


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ("abc", "abc", Drift(3, 0, 0, 0)),
        ("abc", "cab", Drift(3, 0, 0, 0)),
        ("abc", "xabc", Drift(3, 0, 1, 0)),
        ("abc", "axc", Drift(2, 1, 0, 0)),
        ("abc", "ab", Drift(2, 0, 0, 1)),
        ("aaab", "aab", Drift(3, 0, 0, 1)),
        ("", "ab", Drift(0, 0, 2, 0)),
    ],
)
def test_drift_counts_rows_that_are_the_same_changed_new_and_gone(before, now, found):
    """Without ids, a changed row is found by its row number."""
    assert drift(keys(list(before)), keys(list(now))) == found


def test_with_ids_a_changed_row_is_found_by_its_id():
    """At any place in the sheet."""
    before = keys(["1a", "2b", "3c"], ["1", "2", "3"])
    now = keys(["4d", "3c", "2x", "1a"], ["4", "3", "2", "1"])
    assert drift(before, now) == Drift(same=2, changed=1, new=1, gone=0)
