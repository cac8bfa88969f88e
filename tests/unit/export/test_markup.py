"""Texts in the XML of a workbook are written as the standard library would."""

from __future__ import annotations

from xml.sax import saxutils

from hypothesis import given
from hypothesis import strategies as st

from pipeline.export.xlsx.markup import escape, quoteattr

marks = st.text(st.sampled_from("ab&<>\"'\n\r\t;#é"), max_size=12)


@given(marks)
def test_texts_are_escaped_as_the_standard_library_does(text):
    """In an element and in an attribute, with every mixture of quotes."""
    assert escape(text) == saxutils.escape(text)
    assert quoteattr(text) == saxutils.quoteattr(text)
