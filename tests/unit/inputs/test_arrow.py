"""Arrays made of buffers are equal to those that pyarrow makes."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs.arrow import lists, numbers, texts

# Lone surrogates have no UTF-8, so neither pyarrow nor this module writes them.
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(anything | st.none(), max_size=40))
def test_arrays_of_texts_are_equal_to_pyarrows_own(values):
    """Also empty texts, nulls, and texts with more bytes than characters."""
    for kind in (pa.string(), pa.large_string()):
        made = texts(values, kind)
        made.validate(full=True)
        assert made.equals(pa.array(values, kind))


@given(st.lists(st.lists(anything, max_size=5), max_size=20))
def test_arrays_of_lists_are_equal_to_pyarrows_own(values):
    """The lengths cut one array of texts into lists."""
    made = lists([len(some) for some in values], texts([text for some in values for text in some]))
    made.validate(full=True)
    assert made.equals(pa.array(values, pa.list_(pa.string())))


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.float64(), pa.timestamp("us", "UTC")])
def test_arrays_of_numbers_are_equal_to_pyarrows_own(kind):
    """Also without any number."""
    for values in ([], [0, 1, -(2**31), 2**31 - 1]):
        assert numbers(values, kind).equals(pa.array(values, kind))
