"""JSON Lines: strings and numbers are read exactly, or refused with the line."""

from __future__ import annotations

import pytest

from pipeline.core.errors import Refused
from pipeline.inputs.formats import open_table
from pipeline.inputs.stored import stored_cells
from tests.unit.inputs.test_inputs import read, sheet, snap, spec_for


def lines(tmp_path, content: bytes | str):
    return sheet(tmp_path, content, "sheet.jsonl")


@pytest.mark.parametrize(
    ("content", "columns", "rows"),
    [
        ('{"a":"x","b":"y"}\n', ("a", "b"), [("x", "y")]),
        ('{"a":"x"}\r\n{"a":"y"}', ("a",), [("x",), ("y",)]),
        ('\ufeff{"a":"x"}\n', ("a",), [("x",)]),
        ('\n{"a":"x"}\n  \n\r\n{"a":"y"}\n\n', ("a",), [("x",), ("y",)]),
        (
            '{"b":"1"}\n{"a":"2"}\n{"c":"3","b":"4"}\n',
            ("b", "a", "c"),
            [("1", "", ""), ("", "2", ""), ("4", "", "3")],
        ),
        (
            '{"a":1.10,"b":1234567890123456789,"c":1e5}\n',
            ("a", "b", "c"),
            [("1.10", "1234567890123456789", "1e5")],
        ),
        ('{"a":-0,"b":1E400}\n', ("a", "b"), [("-0", "1E400")]),
        ('{"a":true,"b":false}\n', ("a", "b"), [("TRUE", "FALSE")]),
        ('{"a":null,"b":"null"}\n', ("a", "b"), [("", "null")]),
        ('{"a":"\\ud83d\\ude00\\u0000\\n\\u2028"}\n', ("a",), [("😀\0\n\u2028",)]),
        ('{"a":"\u2028\x85 "}\n{"a":1}\n', ("a",), [("\u2028\x85 ",), ("1",)]),
        ('{"a":"x"}\n{}\n{"a":"y"}\n', ("a",), [("x",), ("",), ("y",)]),
        ('{"":"x","a":"y"}\n', None, ["no name"]),
        ('{"a":"x"\n', None, ["line 1", "not one JSON object", "character"]),
        ('{"a":"x"}\n{"a":"y"} {"a":"z"}\n', None, ["line 2", "not one JSON object"]),
        ('{"a":"x"}\n["y"]\n', None, ["line 2", "not a JSON object"]),
        ('[\n{"a":"x"}\n]\n', None, ["line 1", "a list"]),
        ('"x"\n', None, ["line 1", "not a JSON object"]),
        ('{"a":"x","a":"y"}\n', None, ["line 1", 'the name "a" twice']),
        ('{"a":"x","b":{"c":1,"c":2}}\n', None, ["line 1", 'the name "c" twice']),
        ('{"a":NaN}\n', None, ["line 1", "NaN"]),
        ('{"a":"x"}\n\n{"a":-Infinity}\n', None, ["line 3", "-Infinity"]),
        ('{"a":"x"}\n{"a":"\\ud800"}\n', None, ["line 2", "surrogate"]),
        ('{"\\udfff":"x"}\n', None, ["line 1", "surrogate"]),
        (
            '{"a":"x"}\n{"a":"y","b":{"c":1}}\n',
            None,
            ["line 2", '"b" is an object', "variables:"],
        ),
        ('{"a":[]}\n', None, ["line 1", '"a" is a list']),
        (b'{"a":"x"}\n{"a":"\xff"}\n', None, ["line 2", "not UTF-8"]),
        ('{"a":"x"}\n'.encode("utf-16"), None, ["UTF-16", "Save the file as UTF-8"]),
        ('{"a":' + "[" * 100_000 + "\n", None, ["line 1", "nested too deeply"]),
        ('{"a":"x\n"}\n', None, ["line 1", "not one JSON object"]),
        ("", None, ["no objects"]),
        ("{}\n\n", None, ["no objects"]),
        (
            "".join(f'{{"c{n}":1}}\n' for n in range(16_385)),
            None,
            ["line 16385", "over 16384 names"],
        ),
    ],
)
def test_each_line_is_read_exactly_or_refused_with_its_place(tmp_path, content, columns, rows):
    """The names of all lines are columns. Null and missing values are empty."""
    path = lines(tmp_path, content)
    if columns is not None:
        assert read(path) == (columns, rows)
        return
    with pytest.raises(Refused) as caught:
        snap(path)
    for word in rows:
        assert word in str(caught.value), caught.value
    assert str(caught.value).endswith("Nothing was sent.")


def test_nested_values_that_are_not_sent_keep_their_text(tmp_path):
    """Numbers in them too, because the export contains them."""
    path = lines(tmp_path, '{"a":"x","b":{"n":[1.10,true,null,"é\\n"]}}\n')
    snapshot = snap(path, variables=(("a", "a"),))[0]
    assert list(stored_cells(snapshot.path)) == [(1, ("x", '{"n":[1.10,true,null,"é\\n"]}'))]


def nested(depth: int) -> str:
    return f'{"[" * depth}"😀"{"]" * depth}'


def test_deeply_nested_values_in_a_column_that_is_not_sent_are_kept(tmp_path):
    """A hundred levels."""
    path = lines(tmp_path, f'{{"a":"x","b":{nested(100)}}}\n'.replace("😀", "\\ud83d\\ude00"))
    snapshot = snap(path, variables=(("a", "a"),))[0]
    assert list(stored_cells(snapshot.path)) == [(1, ("x", nested(100)))]


@pytest.mark.parametrize("depth", [900, 5000])
def test_values_that_are_nested_too_deeply_to_be_written_are_refused(tmp_path, depth):
    """Python's reader stops at a thousand levels, and the writer earlier."""
    with pytest.raises(Refused, match="line 1: a value is nested too deeply"):
        snap(lines(tmp_path, f'{{"a":"x","b":{nested(depth)}}}\n'), variables=(("a", "a"),))


def test_empty_values_are_named_by_line_and_column(tmp_path):
    """A blank line is not a row, but it counts as a line."""
    with pytest.raises(
        Refused, match=r'2 cells that would be sent are empty: line 3, column "a"; l'
    ):
        snap(lines(tmp_path, '{"a":"x"}\n\n{"a":null}\n{}\n{"a":"y"}\n'))


def test_a_line_of_a_hundred_megabytes_is_a_row_and_a_longer_one_is_refused(tmp_path):
    """A whole file on one line would fill the memory."""
    path = lines(tmp_path, '{"a":"' + "x" * 100_000_000 + '"}\n')
    _, rows = read(path)
    assert [len(text) for (text,) in rows] == [100_000_000]
    with path.open("ab") as file:
        file.write(b" " * (129 << 20))
    with pytest.raises(Refused, match=r"line 2: this line is over 128 MB"):
        read(path)


def test_a_file_that_is_saved_between_the_two_readings_is_refused(tmp_path):
    """The new version has a name that was not a column."""
    path = lines(tmp_path, '{"a":"x"}\n')
    opened = open_table(spec_for(path))
    path.write_text('{"a":"x","b":"y"}\n')
    with pytest.raises(Refused, match="saved while the runner read it"):
        list(opened.batches())
