"""The columns of a JSON answer: where the JSON may stand, the text of each value, and the flags."""

from __future__ import annotations

import json
import time

import pytest

from pipeline.job.answer_columns import (
    MAX_CHARACTERS,
    TYPES,
    AnswerColumn,
    AnswerColumns,
    Parts,
    compiled,
    flags_of_columns,
    json_of,
)
from pipeline.job.answer_shape import sample_shape

TITLE = AnswerColumns([AnswerColumn("title", "$.title")])


def value(answer: str, kind: str = "text", path: str = "$.x", join: str | None = None) -> Parts:
    """Returns the only column of an answer."""
    return AnswerColumns([AnswerColumn("x", path, kind, join)]).read(answer)


@pytest.mark.parametrize(
    "answer",
    [
        '{"title": "T"}',
        '\ufeff \n{"title": "T"}\n',
        '```json\n{"title": "T"}\n```',
        '```\n{"title": "T"}\n```',
        'Here it is:\n\n```json\r\n{"title": "T"}\r\n```\n\nTell me if {you} need more.',
        'Sure! {"title": "T"}',
        '{"title": "T"} I hope that helps.',
        'As [1] says in {curly} words: {"title": "T"}, and that {is it.',
        '"{\\"title\\": \\"T\\"}"',
        '```json\n"{\\"title\\": \\"T\\"}"\n```',
        '{"title": "T", "code": "```python\\nprint({})\\n```"}',
        '{"title": "T", "note": "two\nlines and a\ttab"}',
        '{"title": "first", "title": "T"}',
    ],
)
def test_the_json_of_an_answer_may_stand_in_text_in_a_fence_or_in_a_string(answer):
    """Of two equal keys the last one counts, as in most JSON readers."""
    assert TITLE.read(answer) == Parts(("T",))


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I cannot answer that.",
        '{"title": "a"} {"title": "b"}',
        'Example: {"title": "a"}\n```json\n{"title": "b"}\n```',
        '```json\n{"title": "a"}\n```\n```json\n{"title": "b"}\n```',
        '{"title": "T"',
        '{"title": NaN}',
        '{"title": Infinity}',
        "{'title': 'T'}",
        '{"title": "T",}',
        '["text", {"title": "T"}] and ["more"] {"title": "U"}',
        "[" * 101 + "]" * 101,
        '{"title": ' * 101 + "1" + "}" * 101,
        '"' + "x" * MAX_CHARACTERS + '"',
    ],
)
def test_an_answer_without_exactly_one_json_text_is_a_flag(answer):
    """The runner does not choose one of two objects."""
    assert TITLE.read(answer) == Parts((None,), ("not_json",))


@pytest.mark.parametrize(
    ("written", "kind", "text"),
    [
        ('"T"', "text", "T"),
        ("1.10", "text", "1.10"),
        ("1E5", "text", "1E5"),
        ("-0", "text", "-0"),
        ("9" * 400, "text", "9" * 400),
        ("true", "text", "true"),
        ('{"b": [1.50, null], "a": "ü"}', "text", '{"b":[1.50,null],"a":"ü"}'),
        ('""', "text", ""),
        ('"half \\ud83d a character"', "text", "half � a character"),
        ('"\\ud83d\\ude00"', "text", "😀"),
        ("1.10", "number", "1.10"),
        ("12345678901234567890.5", "number", "12345678901234567890.5"),
        ('" 7.5 "', "number", "7.5"),
        ("9" * 400, "number", None),
        ("9" * 5000, "number", None),
        ("1e999", "number", None),
        ('"7,5"', "number", None),
        ('"07"', "number", None),
        ('"٣"', "number", None),
        ("true", "number", None),
        ("[7]", "number", None),
        ("7", "integer", "7"),
        ("7.0", "integer", "7"),
        ("1e3", "integer", "1000"),
        ("-0", "integer", "0"),
        ('"7"', "integer", "7"),
        ("9223372036854775807", "integer", "9223372036854775807"),
        ("-9223372036854775808", "integer", "-9223372036854775808"),
        ("9223372036854775808", "integer", None),
        ("9007199254740993.0", "integer", "9007199254740993"),
        ('"1234567890123456789.0"', "integer", "1234567890123456789"),
        ("9223372036854775807.0", "integer", "9223372036854775807"),
        ("9.007199254740993e15", "integer", "9007199254740993"),
        ("9007199254740993.4", "integer", None),
        ("1.00000000000000000001", "integer", None),
        ("1e-400", "integer", None),
        ("1e-99999999999999999999", "integer", None),
        ("0e-99999999999999999999", "integer", None),
        ("0e5", "integer", "0"),
        ("7.5", "integer", None),
        ("1e300", "integer", None),
        ("true", "boolean", "true"),
        ('"FALSE"', "boolean", "false"),
        ("1", "boolean", None),
        ('"yes"', "boolean", None),
        ('"2026-11-28"', "date", "2026-11-28"),
        ('"2026-02-30"', "date", None),
        ('"2026-11-28T10:00:00Z"', "date", None),
        ('"28.11.2026"', "date", None),
        ("20261128", "date", None),
        ('{"b": 1.50, "a": []}', "json", '{"b":1.50,"a":[]}'),
        ('"T"', "json", '"T"'),
        ("9" * 400, "json", "9" * 400),
        ("[]", "json", "[]"),
        ("{}", "json", "{}"),
    ],
)
def test_each_type_has_a_canonical_text(written, kind, text):
    """A number has the digits of the answer. What does not fit is an empty cell and a flag."""
    flags = () if text is not None else ("type:x",)
    assert value(f'{{"x": {written}}}', kind) == Parts((text,), flags)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("answer", ["{}", '{"x": null}', "[]", "7", '"T"'])
def test_no_value_and_null_are_missing(kind, answer):
    """So an empty cell always has a reason."""
    assert value(answer, kind) == Parts((None,), ("missing:x",))


def test_several_values_are_joined_or_a_list_or_a_flag():
    """`join` also takes one list apart, which may be empty."""
    answer = '{"tags": ["a", 1.50, null, {"b": 1}], "none": []}'
    assert value(answer, path="$.tags[*]", join="; ") == Parts(('a; 1.50; {"b":1}',))
    assert value(answer, path="$.tags", join="; ") == Parts(('a; 1.50; {"b":1}',))
    assert value(answer, path="$.none", join="; ") == Parts(("",))
    assert value(answer, path="$.none[*]", join="; ") == Parts((None,), ("missing:x",))
    assert value(answer, "json", "$.tags[*]") == Parts(('["a",1.50,null,{"b":1}]',))
    assert value(answer, "json", "$.tags[:1]") == Parts(('["a"]',))
    assert value(answer, "text", "$.tags[*]") == Parts((None,), ("type:x",))
    assert value(answer, "text", "$.tags[:1]") == Parts(("a",))
    assert value('{"x": "alone"}', join="; ") == Parts(("alone",))


def test_a_path_may_choose_by_conditions():
    """The whole of RFC 9535 except patterns of regular expressions."""
    answer = '{"parts": [{"name": "a", "score": 1.5}, {"name": "b", "score": 2.5}]}'
    assert value(answer, path="$.parts[?@.score > 2].name") == Parts(("b",))
    assert value(answer, path="$..name", join=",") == Parts(("a,b",))
    assert value(answer, path="$['parts'][-1]['name']") == Parts(("b",))
    assert value(answer, "json", "$") == Parts((answer.replace(": ", ":").replace(", ", ","),))


@pytest.mark.parametrize(
    "path",
    [
        "title",
        "$.",
        "$.a[",
        "",
        "$.a..b..c",
        "$[?match(@.a, 'x')]",
        "$.a.length()",
        "^.a",
        f"$.{'a' * 1000}",
    ],
)
def test_a_text_that_is_no_path_is_refused(path):
    """Also a path that could take too long: two `..`, or a pattern."""
    with pytest.raises(ValueError, match=r"\w"):
        compiled(path)


def test_every_flag_is_known_in_advance():
    """So that `--again` and `show --flag` can refuse a typo."""
    columns = [AnswerColumn("a", "$.a"), AnswerColumn("two words", "$.b", "number")]
    assert flags_of_columns(columns) == (
        "not_json",
        "missing:a",
        "type:a",
        "missing:two words",
        "type:two words",
    )
    assert flags_of_columns([]) == ()


M = MAX_CHARACTERS
COSTLY = {
    "5 MB of opened lists": "[" * 5_000_000,
    "5 MB of closed lists": "[" * 2_500_000 + "]" * 2_500_000,
    "opened lists": "[" * M,
    "closed lists": "[" * (M // 2) + "]" * (M // 2),
    "opened objects": '{"a":' * (M // 5),
    "braces": "{" * M,
    "braces and quotes": '{"' * (M // 2),
    "beginnings": '{"a":1,' * (M // 7),
    "many objects": "{} " * (M // 3),
    "fences": "```\n" * (M // 4),
    "one long number": '{"x":' + "9" * (M - 6) + "}",
    "one long list": json.dumps({"x": ["x"] * (M // 5 - 2)}),
    "many numbers": "[" + "1.5," * (M // 4 - 2) + "1]",
    "many names": json.dumps({str(n): n for n in range(M // 20)}),
    "layers": json.dumps(json.dumps(json.dumps('"' * (M // 16)))),
}


def test_the_work_for_many_searching_columns_is_bounded():
    """A path for one value reads any answer; the others share what is read."""
    answer = json.dumps([{"a": n} for n in range(20_000)])
    paths = [AnswerColumn(f"c{n}", f"$..[?@.a > {n}].a", "json") for n in range(50)]
    first, *rest = AnswerColumns([AnswerColumn("first", "$[0].a"), *paths]).read(answer).texts
    assert (first, set(rest)) == ("0", {None})
    few = AnswerColumns(paths[:2]).read(answer)
    assert (None in few.texts, few.flags) == (False, ())


@pytest.mark.parametrize("name", COSTLY)
def test_the_work_for_any_answer_is_bounded(name):
    """No answer takes more than 10 s of CPU time, or ends in a recursion error."""
    columns = AnswerColumns(
        [AnswerColumn("x", "$.x"), AnswerColumn("y", "$..x", "json"), AnswerColumn("z", "$[*]")]
    )
    begin = time.process_time()
    columns.read(COSTLY[name])
    assert time.process_time() - begin < 10


def test_the_shape_of_a_rehearsal_fills_the_columns():
    """Paths with conditions or `..` cannot be filled by it."""
    columns = [
        AnswerColumn("title", "$.title"),
        AnswerColumn("tags", "$.tags[*]", join="; "),
        AnswerColumn("names", "$.names", join="; "),
        AnswerColumn("score", "$.parts[0].score", "number"),
        AnswerColumn("day", "$.parts[0]['the day']", "date"),
        AnswerColumn("more", "$.more", "json"),
        AnswerColumn("any", "$..any"),
    ]
    shape = sample_shape(columns)
    assert shape == {
        "title": "text",
        "tags": ["text"],
        "names": ["text"],
        "parts": [{"score": "number", "the day": "date"}],
        "more": {"value": "text"},
    }
    assert json_of(json.dumps(shape)) == shape
    assert sample_shape([]) is None
