"""Arrays made of buffers are equal to those that pyarrow makes, and are read as pyarrow does."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs.arrow import (
    Texts,
    array_of,
    as_numpy,
    at,
    filled,
    hexes,
    large_texts,
    lists,
    numbers,
    positions,
    text_scalar,
    texts,
    unhexed,
)
from pipeline.inputs.unseen import first_bytes

# Lone surrogates have no UTF-8, so neither pyarrow nor this module writes them.
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(anything | st.none(), max_size=40))
def test_arrays_of_texts_are_equal_to_pyarrows_own(values):
    """Also empty texts, nulls, and texts with more bytes than characters."""
    for kind in (pa.string(), pa.large_string()):
        made = texts(values, kind)
        made.validate(full=True)
        assert made.equals(pa.array(values, kind))


@given(st.lists(anything, max_size=40), st.data())
def test_the_texts_of_an_array_and_their_first_bytes_are_read_from_any_part_of_it(values, data):
    first = data.draw(st.integers(0, len(values)))
    part = texts(values, pa.large_string()).slice(first)
    assert list(Texts(part)) == Texts(part)[:] == values[first:]
    assert [Texts(part)[place] for place in range(len(Texts(part)))] == values[first:]
    assert large_texts(Texts(part)) is part
    assert first_bytes(part).tolist() == [(t.encode() or [-1])[0] for t in values[first:]]


@given(st.lists(st.binary(min_size=4, max_size=4) | st.none(), max_size=40), st.data())
def test_the_bytes_of_hex_texts_are_read_from_any_part_of_an_array(values, data):
    """Also if all of them are null."""
    first = data.draw(st.integers(0, len(values)))
    there = np.array([value is not None for value in values], dtype=bool)
    kept = list(filter(None, values))
    made = hexes(b"".join(kept), 4, there)
    assert made.to_pylist() == [value and value.hex() for value in values]
    assert unhexed(made.slice(first)) == b"".join(filter(None, values[first:]))
    assert unhexed(pa.array([None] * 3, pa.string())) == b""
    assert first_bytes(pa.array([""] * 3, pa.large_string())).tolist() == [-1] * 3


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


CITATION = pa.struct([("title", pa.string()), ("url", pa.string())])
citation = st.fixed_dictionaries({"title": anything | st.none(), "url": anything})
OF_KIND = {
    pa.string(): anything,
    pa.large_string(): anything,
    pa.bool_(): st.booleans(),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.list_(pa.string()): st.lists(anything | st.none(), max_size=4),
    CITATION: citation,
    pa.list_(CITATION): st.lists(citation | st.none(), max_size=4),
}


@pytest.mark.parametrize("kind", OF_KIND, ids=str)
@given(data=st.data())
def test_arrays_of_any_kind_are_equal_to_pyarrows_own(kind, data):
    """Also with nulls at every level."""
    values = data.draw(st.lists(OF_KIND[kind] | st.none(), max_size=20))
    made = array_of(values, kind)
    made.validate(full=True)
    assert made.equals(pa.array(values, kind))


NUMBERS = [pa.bool_(), pa.int8(), pa.int32(), pa.int64(), pa.uint64(), pa.float32(), pa.float64()]


@pytest.mark.parametrize("kind", NUMBERS, ids=str)
@given(values=st.lists(st.integers(0, 1), max_size=30), start=st.integers(0, 12))
def test_numpy_gets_the_numbers_that_pyarrow_would_give_it(kind, values, start):
    """Also of a slice, whose first bit is inside a byte, and of an array in chunks."""
    array = pa.array(values, pa.int64()).cast(kind).slice(start)
    chunked = pa.chunked_array([array, array.slice(0, 0), array], kind)
    for given_one in (array, chunked, pa.chunked_array([], kind)):
        read = as_numpy(given_one)
        known = pa.chunked_array([given_one]) if isinstance(given_one, pa.Array) else given_one
        assert read.dtype == known.to_numpy().dtype
        assert read.tolist() == given_one.to_pylist()


@given(st.lists(st.integers(-1, 3), max_size=20))
def test_a_negative_position_takes_null(chosen):
    """So rows without an answer get an empty cell."""
    taken = texts(["a", "b", "c", "d"]).take(positions(np.array(chosen, dtype=np.int64)))
    assert taken.to_pylist() == ["abcd"[place] if place >= 0 else None for place in chosen]


def test_a_text_is_compared_with_an_array_of_its_kind():
    """pyarrow would import pandas for a Python text."""
    for kind in (pa.string(), pa.large_string()):
        assert text_scalar("é", kind).equals(pa.scalar("é", kind))


@given(st.lists(anything | st.none(), max_size=40), st.integers(0, 20), st.integers(0, 20))
def test_the_places_with_a_value_are_those_that_pyarrow_finds(values, start, size):
    """Also in a slice, and where no value is missing."""
    array = pa.array(values, pa.string()).slice(start, size)
    assert filled(array).tolist() == array.is_valid().to_pylist()


@given(st.lists(st.integers(0, 19), max_size=20))
def test_few_and_many_values_are_read_at_their_places(places):
    """Few are read one by one, and many with the whole column."""
    column = texts([None if place == 7 else str(place) for place in range(20)])
    for one in (column, pa.chunked_array([column.slice(0, 3), column.slice(3)])):
        assert at(one, places) == [None if place == 7 else str(place) for place in places]
