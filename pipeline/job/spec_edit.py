"""Changes single keys in the text of a job file. Every other line stays, with its comments.

The marks of the parser say where a value stands, and only those characters change. A library that
keeps comments, such as ruamel.yaml, writes the whole text again: it removes quotes, moves lists and
breaks long lines. After each change the text is parsed again. If it does not have exactly the
intended values then, the change is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.core.errors import NothingWritten, Refused
from pipeline.job.spec_keys import KEYS
from pipeline.job.yaml_fields import compose

Value = str | int | float | bool | Mapping[str, str]

_PLAIN = re.compile(r"[A-Za-z](?:[A-Za-z0-9 _-]*[A-Za-z0-9_])?")
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_COLON = re.compile("[ \t]*:[ \t]*")
_REST_OF_LINE = re.compile("[ \t]*(?:#[^\r\n\x85\u2028\u2029]*)?(?:[\r\n\x85\u2028\u2029]|$)")
_LINES, _BRACKETS = "its text has several lines", "it is written with { } or [ ]"
_AS_TEXT = "Edit the job file as text."


class _Edit(NamedTuple):
    """Replaces the characters from `start` to before `end`."""

    start: int
    end: int
    by: str


def quoted(text: str) -> str:
    """Returns `text` as a YAML scalar that parses to exactly this text: without quotes if that is
    safe, or else in double quotes on one line."""
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    written = yaml.safe_dump(text, default_style='"', width=math.inf, allow_unicode=True)
    return str(written).rstrip("\n")


def locked_keys(path: Path, text: str) -> dict[str, str]:
    """Returns, for each key that `edit_keys` cannot change, why not.

    Raises:
        Refused: if the text of the job file at `path` can only be edited as text, or is none.
    """
    _refuse_marked(path, text)
    entries = _entries(path, text)
    found = {name: _lock(text, *nodes) for name, nodes in entries.items()}
    return {name: why for name, why in found.items() if why is not None}


def edit_keys(path: Path, text: str, changes: Mapping[str, Value | None]) -> str:
    """Returns the text of the job file at `path` with other values for some keys. None, and a
    mapping without entries, remove a key.

    Raises:
        Refused: as `locked_keys`, and for a key that it names.
    """
    locked = locked_keys(path, text)
    for key, value in changes.items():
        if key in locked:
            raise NothingWritten(
                f"{path}: `{key}` cannot be changed here: {locked[key]}. {_AS_TEXT}"
            )
        text = _edited(path, text, key, value if value != {} else None)
    return text


def _edited(path: Path, text: str, key: str, value: Value | None) -> str:
    entries = _entries(path, text)
    wanted = {name: _plain(node) for name, (_, node) in entries.items() if name != key}
    if value is not None:
        wanted[key] = _plain(_node(value))
    if wanted == {name: _plain(node) for name, (_, node) in entries.items()}:
        return text
    edits = list(_edits(text, entries, key, value))
    found = text
    for edit in sorted(edits, reverse=True):
        found = found[: edit.start] + edit.by + found[edit.end :]
    if not _has(path, found, wanted):
        raise NothingWritten(f"{path}: `{key}` cannot be changed alone. {_AS_TEXT}")
    return found


def _has(path: Path, text: str, wanted: dict[str, Any]) -> bool:
    """Whether the text parses to exactly these values."""
    try:
        entries = _entries(path, text)
    except Refused:
        return False
    return {name: _plain(node) for name, (_, node) in entries.items()} == wanted


def _edits(
    text: str, entries: dict[str, tuple[yaml.Node, yaml.Node]], key: str, value: Value | None
) -> Iterator[_Edit]:
    if key not in entries:
        assert value is not None
        at, break_ = _place_after(text, entries, key), _break_of(text)
        column = min(name.start_mark.column for name, _ in entries.values())
        lines = _written(" " * column, key, value)
        before = "" if not at or _BREAK.match(text, at - 1) else break_
        yield _Edit(at, at, before + "".join(f"{line}{break_}" for line in lines))
        return
    name, node = entries[key]
    if value is None:
        yield _line_of(text, name)
        yield from _without_lines(text, node)
    elif isinstance(value, Mapping):
        yield from _mapping_edits(text, name, node, value)
    else:
        yield from _without_lines(text, node)
        start = (
            _colon_end(text, name) if isinstance(node, yaml.MappingNode) else node.start_mark.index
        )
        end = start if isinstance(node, yaml.MappingNode) else node.end_mark.index
        gap = "" if text[start - 1] in " \t" else " "
        yield _Edit(start, end, gap + _scalar(value))


def _mapping_edits(
    text: str, name: yaml.Node, node: yaml.Node, value: Mapping[str, str]
) -> Iterator[_Edit]:
    """Changes a mapping entry by entry. An entry with a new name and the same text is renamed."""
    if not isinstance(node, yaml.MappingNode):
        indent, last = " " * (name.start_mark.column + 2), name
        yield _Edit(_colon_end(text, name), node.end_mark.index, "")
        yield from _appended(text, last, indent, value)
        return
    left = dict(value)
    unnamed = []
    for one, old in node.value:
        new = left.pop(one.value, None)
        if new is None:
            unnamed.append((one, old))
        elif new != old.value:
            yield _Edit(old.start_mark.index, old.end_mark.index, _spaced(text, old, new))
    for one, old in unnamed:
        renamed = next((n for n, v in left.items() if v == old.value), None)
        if renamed is None:
            yield _line_of(text, one)
            continue
        del left[renamed]
        yield _Edit(one.start_mark.index, one.end_mark.index, quoted(renamed))
    first, last = node.value[0][0], node.value[-1][0]
    yield from _appended(text, last, " " * first.start_mark.column, left)


def _appended(
    text: str, after: yaml.Node, indent: str, added: Mapping[str, str]
) -> Iterator[_Edit]:
    if added:
        at, break_ = _line_of(text, after).end, _break_of(text)
        before = "" if _BREAK.match(text, at - 1) else break_
        lines = "".join(f"{indent}{quoted(n)}: {quoted(v)}{break_}" for n, v in added.items())
        yield _Edit(at, at, before + lines)


def _without_lines(text: str, node: yaml.Node) -> Iterator[_Edit]:
    if isinstance(node, yaml.MappingNode):
        yield from (_line_of(text, one) for one, _ in node.value)


def _written(indent: str, key: str, value: Value) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{indent}{key}: {_scalar(value)}"
        return
    yield f"{indent}{key}:"
    yield from (f"{indent}  {quoted(name)}: {quoted(text)}" for name, text in value.items())


def _scalar(value: str | int | float | bool) -> str:
    if isinstance(value, str):
        return quoted(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _spaced(text: str, node: yaml.Node, new: str) -> str:
    return ("" if text[node.start_mark.index - 1] in " \t" else " ") + quoted(new)


def _node(value: Value) -> yaml.Node:
    """The node that the value has once it is written."""
    lines = "\n".join(_written("", "key", value))
    node = yaml.compose(lines, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    found: yaml.Node = node.value[0][1]
    return found


def _plain(node: yaml.Node) -> Any:
    """What a node says, without its marks and its style. The order of its entries is no part."""
    if isinstance(node, yaml.MappingNode):
        return {str(_plain(key)): _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(one) for one in node.value]
    return node.tag, node.value


def _refuse_marked(path: Path, text: str) -> None:
    """Refuses what a change of one key could change elsewhere, or what the marks do not show."""
    node = compose(path, text.encode("utf-8", "replace"))
    if node.flow_style:
        raise NothingWritten(f"{path}: the file is one pair of {{ }}. {_AS_TEXT}")
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if getattr(event, "anchor", None) is not None:
            raise NothingWritten(f"{path} line {line}: an anchor (& or *) stands here. {_AS_TEXT}")
        if getattr(event, "tag", None) is not None:
            raise NothingWritten(f"{path} line {line}: a tag (!) stands here. {_AS_TEXT}")


def _entries(path: Path, text: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    root = compose(path, text.encode("utf-8", "replace"))
    entries = {str(key.value): (key, value) for key, value in root.value}
    if len(entries) != len(root.value):
        raise NothingWritten(f"{path}: a key is in the file twice. {_AS_TEXT}")
    return entries


def _lock(text: str, key: yaml.Node, value: yaml.Node) -> str | None:
    """Why an entry cannot be changed by its marks, None if it can."""
    if isinstance(value, yaml.ScalarNode):
        return _scalar_lock(text, key, value)
    if not isinstance(value, yaml.MappingNode) or value.flow_style:
        return _BRACKETS
    if not _begins_line(text, key) or not _REST_OF_LINE.match(text, _colon_end(text, key)):
        return _LINES
    if not all(isinstance(one, yaml.ScalarNode) for _, one in value.value):
        return _BRACKETS
    return next(filter(None, (_scalar_lock(text, *pair) for pair in value.value)), None)


def _scalar_lock(text: str, key: yaml.Node, value: yaml.Node) -> str | None:
    colon = _COLON.match(text, key.end_mark.index)
    in_one_line = (
        isinstance(value, yaml.ScalarNode)
        and _begins_line(text, key)
        and colon is not None
        and key.start_mark.line == value.end_mark.line
        and value.start_mark.index <= colon.end()
        and value.style in (None, '"', "'")
        and _REST_OF_LINE.match(text, value.end_mark.index)
    )
    return None if in_one_line else _LINES


def _begins_line(text: str, node: yaml.Node) -> bool:
    mark = node.start_mark
    return not text[mark.index - mark.column : mark.index].strip(" ")


def _colon_end(text: str, key: yaml.Node) -> int:
    return text.index(":", key.end_mark.index) + 1


def _line_of(text: str, node: yaml.Node) -> _Edit:
    """The removal of the line that begins with a node."""
    mark = node.start_mark
    return _Edit(mark.index - mark.column, _line_end(text, mark.index), "")


def _line_end(text: str, index: int) -> int:
    found = _BREAK.search(text, index)
    return found.end() if found else len(text)


def _break_of(text: str) -> str:
    found = _BREAK.search(text)
    return found[0] if found else "\n"


def _place_after(text: str, entries: dict[str, tuple[yaml.Node, yaml.Node]], key: str) -> int:
    """Where a new key belongs: after the last entry that comes before it in the table of keys.
    Not after a text of several lines, which may have no clear end."""
    names = [one.name for one in KEYS]
    for name in reversed(names[: names.index(key)]):
        last = _last(entries[name][1]) if name in entries else None
        if last is not None and getattr(last, "style", None) not in ("|", ">"):
            return _line_end(text, last.end_mark.index)
    first = next(iter(entries.values()))[0].start_mark
    return int(first.index - first.column)


def _last(node: yaml.Node) -> yaml.Node:
    while isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return node
