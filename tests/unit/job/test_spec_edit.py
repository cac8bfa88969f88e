"""A change of one key of a job file changes its lines only."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import Refused
from pipeline.job.spec import key_problem
from pipeline.job.spec_edit import edit_keys, locked_keys, quoted

FILE = Path("job.yaml")
TEXT = """\
# The stories of this year.
name:   stories     # the name
workflow: "wf_1"
input: 'a.csv'

# Left, the variable.
variables:
    story:    "Story idea"   # for example: x

    # a comment between
    tone: Tone
where:
  - {column: status,  empty: true}
retries:   3
"""


def test_a_value_changes_and_its_comment_stays():
    found = edit_keys(FILE, TEXT, {"name": "tales", "retries": 5, "workflow": "wf 2"})
    assert found == (
        TEXT.replace("stories     #", "tales     #").replace("3\n", "5\n").replace('"wf_1"', "wf 2")
    )


def test_the_entries_of_a_mapping_change_one_by_one():
    value = {"story": "Story idea", "voice": "Tone", "more": "A: b"}
    found = edit_keys(FILE, TEXT, {"variables": value})
    assert found == TEXT.replace("    tone: Tone\n", '    voice: Tone\n    more: "A: b"\n')
    found = edit_keys(FILE, TEXT, {"variables": {"tone": "Other"}})
    assert found == TEXT.replace('    story:    "Story idea"   # for example: x\n', "").replace(
        "tone: Tone", "tone: Other"
    )


def test_a_new_key_stands_behind_the_one_before_it_in_the_table_of_keys():
    found = edit_keys(FILE, TEXT, {"max_paid": 9, "constants": {"a b": "1"}, "dedupe": True})
    assert '    tone: Tone\nconstants:\n  a b: "1"\nwhere:' in found
    assert "empty: true}\ndedupe: true\nmax_paid: 9\nretries:   3\n" in found


@pytest.mark.parametrize("value", [None, {}])
def test_a_key_is_removed_with_its_lines(value):
    found = edit_keys(FILE, TEXT, {"variables": value, "retries": None})
    assert found == re.sub(r"(?m)^(variables|    story|    tone|retries):.*\n", "", TEXT)


def test_one_word_becomes_a_mapping_and_back():
    text = "name: a\nempty: send  # why\nretries: 1"
    mapped = edit_keys(FILE, text, {"empty": {"B c": "skip", "*": "send"}})
    assert mapped == 'name: a\nempty:  # why\n  B c: skip\n  "*": send\nretries: 1'
    assert edit_keys(FILE, mapped, {"empty": "send"}) == text


def test_line_ends_a_missing_last_one_and_an_empty_value_stay():
    assert edit_keys(FILE, "name: a\r\nretries:", {"retries": 1}) == "name: a\r\nretries: 1"
    found = edit_keys(FILE, "name: a\r\nretries: 1", {"rate": 0.5, "workflow": "w"})
    assert found == "name: a\r\nworkflow: w\r\nretries: 1\r\nrate: 0.5\r\n"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("name: a\nconstants: {tone: warm}\n", "constants"),
        ("name: a\nconstants:\n  tone: |\n    warm\n    cold\n", "constants"),
        ('name: a\nconstants:\n  tone: "warm\n    cold"\n', "constants"),
        ("name: b\n? workflow\n: a\n", "workflow"),
    ],
)
def test_a_key_that_cannot_be_changed_is_named_and_the_others_can(text: str, key: str):
    assert list(locked_keys(FILE, text)) == [key]
    with pytest.raises(Refused, match=f"`{key}` cannot be changed here"):
        edit_keys(FILE, text, {key: "x"})
    found = edit_keys(FILE, text, {"retries": 7}).splitlines()
    assert sorted(found) == sorted([*text.splitlines(), "retries: 7"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: &x a\nworkflow: *x\n", "line 1: an anchor"),
        ("name: !!str a\n", "line 1: a tag"),
        ("{name: a}\n", "one pair of { }"),
        ("name: a\nname: b\n", "a key is in the file twice"),
        ("name: [a\n", "not valid YAML"),
        ("- a\n", "not a job file"),
    ],
)
def test_a_file_that_can_only_be_edited_as_text_is_refused(text: str, said: str):
    with pytest.raises(Refused, match=re.escape(said)):
        edit_keys(FILE, text, {"name": "b"})


def test_a_change_that_the_marks_cannot_make_is_refused():
    with pytest.raises(Refused, match="`retries` cannot be changed alone"):
        edit_keys(FILE, "? name\n: a\n", {"retries": 7})


def test_a_value_is_judged_by_the_table_of_keys():
    assert key_problem("max_paid", "12") is None
    assert key_problem("max_paid", "x") == (
        "`max_paid` must be a whole number of 0 or more, not `x`."
    )
    assert "not allowed" in str(key_problem("name", "a b"))


# Texts as people write them, and as they never would.
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
_COMMENT = st.sampled_from(["", "  # why: {this} is 'so'", "  # x: [y", "   "])
_BETWEEN = st.sampled_from(["", "\n", "# a comment\n", "\n  # indented: yes\n\n", "#\n"])
_STYLES = st.sampled_from(["plain", "single", "double"])


def _scalar(text: str, style: str) -> str:
    if style == "single" and re.fullmatch(r"[ -~]*", text):
        return "'" + text.replace("'", "''") + "'"
    if style == "plain":
        return quoted(text)
    written = yaml.safe_dump(text, default_style='"', width=math.inf, allow_unicode=True)
    return str(written).rstrip("\n")


FOLDED = "id: >\n  folded\n  text\n"


@st.composite
def _specs(draw: st.DrawFn) -> str:
    """The text of a job file with comments, in any order of its keys."""
    blocks = [f"name: {_scalar('job', draw(_STYLES))}", f"retries:  {draw(st.integers(0, 9))}"]
    blocks.append("where:\n- column: a  # of where\n  empty: true")
    blocks.append("columns: {title: $.title}")
    if draw(st.booleans()):
        blocks.append(FOLDED)
    for key in draw(st.sets(st.sampled_from(["variables", "constants", "empty"]))):
        indent = " " * draw(st.integers(1, 5))
        pairs = draw(st.dictionaries(_NAMES, _TEXTS, min_size=1, max_size=4))
        lines = [
            f"{draw(_BETWEEN)}{indent}{quoted(n)}:  {_scalar(t, draw(_STYLES))}{draw(_COMMENT)}"
            for n, t in pairs.items()
        ]
        blocks.append("\n".join((f"{key}:{draw(_COMMENT)}", *lines)))
    text = ""
    for block in draw(st.permutations(blocks)):
        comment = "" if "\n" in block or "{" in block else draw(_COMMENT)
        text += f"{draw(_BETWEEN)}{block}{comment}\n"
    text += draw(_BETWEEN)
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    return text if draw(st.booleans()) else text.rstrip("\r\n")


_MAPPINGS = st.dictionaries(_NAMES, _TEXTS, max_size=4)
_CHANGES = st.one_of(
    st.tuples(st.sampled_from(["variables", "constants", "empty"]), _MAPPINGS),
    st.tuples(st.just("empty"), st.sampled_from(["send", "skip", None])),
    st.tuples(st.just("retries"), st.one_of(st.none(), st.integers(0, 99))),
    st.tuples(st.sampled_from(["name", "workflow", "sheet"]), _TEXTS),
    st.tuples(st.just("dedupe"), st.booleans()),
)


@given(_specs(), _CHANGES)
def test_one_change_leaves_all_other_keys_and_all_comment_lines(text: str, change):
    key, value = change
    before = yaml.safe_load(text)
    try:
        found = edit_keys(FILE, text, {key: value})
    except Refused:
        # Without the key, the comment below it would be a line of the folded text.
        assert "id: >" in text
        assert value in (None, {})
        return
    after = yaml.safe_load(found)
    left = {name: one for name, one in before.items() if name != key}
    assert {name: one for name, one in after.items() if name != key} == left
    assert after.get(key) == (None if value == {} else value)
    assert _comments(found) == _comments(text)
    assert _foreign_lines(found, key) == _foreign_lines(text, key)


def _lines(text: str) -> list[str]:
    return re.split("\r\n|\n", text)


def _comments(text: str) -> list[str]:
    return [line for line in _lines(text) if line.lstrip().startswith("#")]


def _foreign_lines(text: str, key: str) -> list[str]:
    """All lines except those of the key and its entries, and the blank ones at the end."""
    kept, inside = [], False
    for line in _lines(text):
        if re.match("[a-z]", line):
            inside = line.startswith(f"{key}:")
        if not (inside and line.strip() and not line.lstrip().startswith("#")):
            kept.append(line)
    while kept and not kept[-1].strip():
        kept.pop()
    return kept
