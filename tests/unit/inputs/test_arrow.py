"""Arrays made of buffers, beside those that pyarrow makes itself."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs.arrow import lists, numbers, texts

# Lone surrogates have no UTF-8; neither pyarrow nor we write them.
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(anything | st.none(), max_size=40))
def test_texts_are_what_pyarrow_makes_of_them(values):
    """Empty ones, nulls, and lengths in bytes that are not those in characters."""
    for kind in (pa.string(), pa.large_string()):
        made = texts(values, kind)
        made.validate(full=True)
        assert made.equals(pa.array(values, kind))


@given(st.lists(st.lists(anything, max_size=5), max_size=20))
def test_lists_are_what_pyarrow_makes_of_them(values):
    """One run of texts, cut by the lengths."""
    made = lists([len(some) for some in values], texts([text for some in values for text in some]))
    made.validate(full=True)
    assert made.equals(pa.array(values, pa.list_(pa.string())))


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.float64(), pa.timestamp("us", "UTC")])
def test_numbers_are_what_pyarrow_makes_of_them(kind):
    """Also none at all."""
    for values in ([], [0, 1, -(2**31), 2**31 - 1]):
        assert numbers(values, kind).equals(pa.array(values, kind))
