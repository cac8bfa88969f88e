"""Reads a job file as YAML nodes, which are never turned into objects.

A node has its line. It also shows if YAML reads a text (`no`, `0123`, `2024-01-02`) as another
type. All errors are reported together, at most the first 20.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import yaml

from pipeline.core.errors import Refused
from pipeline.core.wording import nearest, shortened
from pipeline.system.opening import open_file
from pipeline.system.paths import path_fault

MAX_SPEC_BYTES = 1_000_000
# PyYAML takes about 35 microseconds and 1.5 KB for each.
MAX_VALUES = 40_000
MAX_FAULTS = 20
"""The number of errors that are shown with hints. The others are only counted."""
SHEETS = (
    *(".csv", ".tsv", ".txt", ".xlsx", ".xlsm", ".ods", ".xls", ".xlsb", ".parquet", ".jsonl"),
)

_YAML_KINDS = {
    "bool": "a yes/no value",
    "int": "a number",
    "float": "a number",
    "timestamp": "a date",
    "null": "nothing",
}
# Words of YAML's parser, and their meaning for somebody who does not know YAML. The first match
# counts. With True, the reported line is the one where an unclosed element began, not the one where
# the parser noticed it.
_YAML_WORDS = (
    ("mapping values are not allowed", "this text contains `: `. Put the text in quotes", False),
    ("found character '\\t'", "a tab cannot indent a line. Use spaces", False),
    ("found character", "a text cannot begin with this character. Put the text in quotes", False),
    ("found undefined alias", "a text cannot begin with *. Put the text in quotes", False),
    ("could not find expected ':'", "this is not a `key: value` line", True),
    ("found unexpected end of stream", "a quote begins here and never ends", True),
    ("expected ',' or", "a bracket is not closed, or a comma is missing", True),
    ("expected <block end>", "this line is not indented like the lines above it", False),
    (
        "but found another document",
        "a second document (---) begins here. A job file has only one",
        False,
    ),
    ("special characters", "the file contains a control character", False),
)
_INIT = "`pipeline init SHEET --workflow ID` writes one."
_YES = ("true", "yes", "on")
_OF_JOBS = re.compile(rb"""(?<![\w-])(workflow|input)['"]?[ \t]*:""")
_HALVES = re.compile("[\ud800-\udfff]")

T = TypeVar("T")


def may_be_job_file(path: Path) -> bool:
    """Whether the YAML file at `path` looks like a job file, also one with errors. A file that this
    user cannot read may be one."""
    try:
        content = _content(path)
    except Refused:
        return True
    return _OF_JOBS.search(content.replace(b"\0", b"")) is not None  # UTF-16 has NULs


def compose(path: Path, content: bytes | None = None) -> yaml.MappingNode:
    """Reads the `key: value` lines of the file at `path`, or of `content` in its place.

    Raises:
        Refused: if the file cannot be read, or is not a job file.
    """
    raw = _content(path) if content is None else content
    if path.suffix.lower() in SHEETS:
        written = shlex.join(("pipeline", "init", str(path), "--workflow", "ID"))
        raise Refused(
            f"{path}: this is a sheet, not a job file. Name the job file that has it as `input:`. "
            f"Nothing was sent. To write one: {written}"
        )
    if len(raw) > MAX_SPEC_BYTES:
        raise Refused(f"{path}: this file has over 1 MB, so it is not a job file.")
    try:
        node = yaml.compose(raw.decode("utf-8-sig"), Loader=_Loader)
    except UnicodeDecodeError:
        raise Refused(f"{path}: the job file is not UTF-8 text. Save it as UTF-8.") from None
    except RecursionError:
        raise Refused(f"{path}: the job file is nested too deeply.") from None
    except _TooManyValues:
        raise Refused(
            f"{path}: this file has over {MAX_VALUES:,} names and values, so it is not a job file."
        ) from None
    except yaml.YAMLError as error:
        raise Refused(f"{path}{_yaml_problem(error)}.") from None
    if not isinstance(node, yaml.MappingNode):
        what = "the job file is empty" if node is None else "this is not a job file"
        raise Refused(f"{path}: {what}. A job file consists of `key: value` lines. {_INIT}")
    return node


def _content(path: Path) -> bytes:
    try:
        with open_file(path, follow=True) as file:
            return file.read(MAX_SPEC_BYTES + 1)
    except OSError as error:
        beside: list[str] = []
        with contextlib.suppress(OSError):  # a folder that this user cannot list
            beside = os.listdir(path.parent)
        hint = "" if os.path.exists(path) else nearest(path.name, beside) or f" {_INIT}"
        raise Refused(
            f"{path}: the runner cannot read this job file ({error.strerror}).{hint}"
        ) from None


class _TooManyValues(Exception):
    """The file has more nodes than any job file."""


class _Loader(yaml.SafeLoader):
    """Composes at most MAX_VALUES nodes."""

    composed = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.composed += 1
        if self.composed > MAX_VALUES:
            raise _TooManyValues
        return super().compose_node(parent, index)


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Returns the line of an error in the YAML, and the problem there."""
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", "not readable"))
    mark = getattr(error, "problem_mark", None)
    for theirs, ours, begun_before in _YAML_WORDS:
        if theirs in problem:
            problem = ours
            mark = (begun_before and getattr(error, "context_mark", None)) or mark
            break
    return f"{f' line {mark.line + 1}' if mark else ''}: not valid YAML: {problem}"


class _Fault(Exception):
    """One error in a job file, with its line if it has one."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        end = "" if problem.endswith(("?", ".")) else "."
        super().__init__(problem + end)
        self.line = line


class _Noting:
    """Records a `_Fault` that ends the block, so that later errors are found too."""

    def __init__(self) -> None:
        self.faults: list[_Fault] = []

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, _Fault):
            self.faults.append(error)
        return isinstance(error, _Fault)


class Fields:
    """The lines of a mapping, read key by key. Each method returns None if the key is missing.

    A value with an error is noted with its line and counts as missing. `refuse_faults` then reports
    all errors. `lines` has the line of each key. With `nulls`, a key without a value is present.
    """

    def __init__(
        self,
        path: Path,
        node: yaml.MappingNode,
        what: str = "the job file",
        noting: _Noting | None = None,
        nulls: bool = False,
    ) -> None:
        self._path = path
        self._noting = noting or _Noting()
        self._line = _line(node)
        self._nulls = nulls
        self._nodes = self._entries(node, what)
        self.lines = {key: _line(value) for key, value in self._nodes.items()}

    def __contains__(self, key: str) -> bool:
        return key in self._nodes

    def is_mapping(self, key: str) -> bool:
        """Whether the value is a mapping, and not a text or a list."""
        return isinstance(self._nodes.get(key), yaml.MappingNode)

    def note_unknown(self, known: Iterable[str], problem: str, hints: dict[str, str]) -> bool:
        """Notes each key that is not in `known`, and returns whether there is one.

        `problem` has a place for its name. `hints` are for names that never belong in a job file.
        """
        known = tuple(known)
        unknown = [key for key in self._nodes if key not in known]
        for key in unknown[MAX_FAULTS:]:
            self.note(key, problem.format(key))
        for key in unknown[:MAX_FAULTS]:  # finding the nearest name takes time
            hint = hints.get(key.lower()) or nearest(key, known)
            hint = hint or f" The keys are: {', '.join(known)}."
            self.note(key, f"{problem.format(key)}{hint}")
        return bool(unknown)

    def note(self, key: str | None, problem: str) -> None:
        """Notes an error in the value of `key`, or of ``key.name`` below it. Without a key, the
        error is in the whole mapping."""
        line = self._line if key is None else self.lines.get(key)
        self._noting.faults.append(_Fault(problem, line))

    def text(
        self, key: str, missing: str, pattern: re.Pattern[str] | None = None, rule: str = ""
    ) -> str | None:
        """Reads a required text. `missing` says what to do if it is not there."""
        with self._noting:
            node = self._take(key)
            if node is None:
                raise _Fault(f"`{key}:` is missing. {missing}")
            value = self._text(node, f"`{key}`")
            if not value:
                raise self._fault(node, f"`{key}` is empty. {missing}")
            if pattern and not pattern.fullmatch(value):
                raise self._fault(node, f"`{key}: {value}` is not allowed. Use {rule}")
            return value
        return None

    def optional_text(
        self, key: str, pattern: re.Pattern[str] | None = None, rule: str = ""
    ) -> str | None:
        with self._noting:
            node = self._take(key)
            if node is None:
                return None
            value = self._text(node, f"`{key}`")
            if pattern and not pattern.fullmatch(value):
                raise self._fault(node, f"`{key}: {value}` is not allowed. Use {rule}")
            return value
        return None

    def path(self, key: str, missing: str | None) -> Path | None:
        """Reads a path relative to the job file's folder, and returns it absolute. If the key is
        required, `missing` says what to do."""
        text = self.optional_text(key) if missing is None else self.text(key, missing)
        if text is None:
            return None
        path = self._path.absolute().parent / text
        fault = path_fault(path) if text else "is empty"
        if fault is not None:
            self.note(key, f"`{key}` {fault}")
            return None
        return path

    def choice(self, key: str, choices: tuple[str, ...]) -> str | None:
        node = self._take(key)
        if node is None:
            return None
        with self._noting:
            value = _shown(node)
            if value not in choices:
                raise self._fault(
                    node,
                    f"`{key}: {value}` is not one of {', '.join(choices)}."
                    f"{nearest(value, choices)}",
                )
            return value
        return None

    def words(self, key: str, choices: tuple[str, ...]) -> tuple[str, ...] | None:
        """Reads a list of words, or a single one."""
        node = self._take(key)
        if node is None:
            return None
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        wrong = [_shown(one) for one in nodes if _shown(one) not in choices]
        if wrong or not nodes:
            what = f"`{shortened(wrong[0])}` is" if wrong else "an empty list is"
            hint = nearest(wrong[0], choices) if wrong else ""
            self.note(key, f"`{key}`: {what} not possible.{hint} Use {', '.join(choices)}")
            return None
        return tuple(_shown(one) for one in nodes)

    def choices(self, key: str, choices: tuple[str, ...]) -> str | dict[str, str] | None:
        """Reads one word of `choices`, or a mapping with one for each name."""
        node = self._take(key)
        if not isinstance(node, yaml.MappingNode):
            return self.choice(key, choices)
        inner = Fields(self._path, node, f"`{key}`", self._noting)
        self.lines.update({f"{key}.{name}": line for name, line in inner.lines.items()})
        found = {name: inner.choice(name, choices) for name in inner.lines}
        return {name: value for name, value in found.items() if value is not None}

    def number(
        self,
        key: str,
        kind: Callable[[str], T],
        *,
        at_least: float | None = None,
        above: float | None = None,
        at_most: float | None = None,
    ) -> T | None:
        node = self._take(key)
        if node is None:
            return None
        rule = "a whole number" if kind is int else "a number"
        unit = " of seconds" if key.endswith("_s") else ""
        bound = f" of {at_least} or more" if at_least is not None else f"{unit} above {above}"
        if at_most is not None:
            bound += f" and at most {at_most:,}"
        with self._noting:
            wrong = self._fault(node, f"`{key}` must be {rule}{bound}, not {_kind(node)}")
            if not isinstance(node, yaml.ScalarNode):
                raise wrong
            try:
                value = kind(node.value)
                size = float(value)  # type: ignore[arg-type]
            except (ValueError, OverflowError):  # such as a whole number of 400 digits
                raise wrong from None
            too_low = (at_least is not None and size < at_least) or (
                above is not None and size <= above
            )
            too_high = at_most is not None and size > at_most
            if too_low or too_high or not math.isfinite(size):
                raise wrong
            return value
        return None

    def pairs(self, key: str, most: int) -> tuple[tuple[str, str], ...] | None:
        node = self._take(key)
        if node is None:
            return None
        texts = []
        with self._noting:
            if not isinstance(node, yaml.MappingNode):
                raise self._fault(node, f"`{key}` needs `name: text` lines, not {_kind(node)}")
            if len(node.value) > most:
                raise self._fault(
                    node, f"`{key}` has {len(node.value):,} lines, and the limit is {most:,}"
                )
            for name, value in self._entries(node, f"`{key}`").items():
                self.lines[f"{key}.{name}"] = _line(value)
                with self._noting:
                    texts.append((name, self._text(value, f"`{name}`")))
        return tuple(texts)

    def entries(self, key: str, wanted: str) -> dict[str, str | Fields] | None:
        """Reads a mapping whose values are texts or mappings. Another value of `key` is noted with
        the text `wanted`."""
        node = self._take(key)
        if node is None:
            return None
        found: dict[str, str | Fields] = {}
        with self._noting:
            if not isinstance(node, yaml.MappingNode):
                raise self._fault(node, f"{wanted}, not {_kind(node)}")
            for name, value in self._entries(node, f"`{key}`").items():
                self.lines[f"{key}.{name}"] = _line(value)
                with self._noting:
                    found[name] = (
                        Fields(self._path, value, f"`{name}`", self._noting)
                        if isinstance(value, yaml.MappingNode)
                        else self._text(value, f"`{name}`")
                    )
        return found

    def flag(self, key: str) -> bool | None:
        node = self._take(key)
        if node is None:
            return None
        with self._noting:
            if not node.tag.endswith(":bool"):
                raise self._fault(node, f"`{key}` must be true or false, not {_kind(node)}")
            return isinstance(node, yaml.ScalarNode) and node.value.lower() in _YES
        return None

    def names_or_flag(self, key: str, most: int) -> tuple[str, ...] | bool | None:
        """Reads a list of texts, or true or false."""
        node = self._take(key)
        if node is None:
            return None
        if node.tag.endswith(":bool"):
            return self.flag(key)
        with self._noting:
            if not isinstance(node, yaml.SequenceNode):
                raise self._fault(
                    node, f"`{key}` must be a list such as [Price], or true, not {_kind(node)}"
                )
            if len(node.value) > most:
                raise self._fault(
                    node, f"`{key}` has {len(node.value):,} names, and the limit is {most:,}"
                )
            self.lines.update({f"{key}.{n}": _line(one) for n, one in enumerate(node.value)})
            return tuple(self._text(one, f"a name in `{key}`") for one in node.value)
        return None

    def sections(self, key: str, what: str, wanted: str) -> list[Fields]:
        """Reads a list of mappings, or a single mapping. `what` names one of them in messages. Each
        value that is not a mapping is noted with the text `wanted`."""
        node = self._take(key)
        if node is None:
            return []
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        self.lines.update({f"{key}.{n}": _line(one) for n, one in enumerate(nodes)})
        found = []
        for one in nodes:
            if isinstance(one, yaml.MappingNode):
                found.append(Fields(self._path, one, what, self._noting, nulls=True))
            else:
                self._noting.faults.append(self._fault(one, wanted))
        return found

    def section(self, key: str, known: Iterable[str]) -> Fields | None:
        """Reads the mapping under `key`, whose keys are `known`."""
        node = self._take(key)
        if node is None:
            return None
        if not isinstance(node, yaml.MappingNode):
            self.note(key, f"`{key}` needs lines for {', '.join(known)}, not {_kind(node)}")
            return None
        inner = Fields(self._path, node, f"`{key}`", self._noting)
        self.lines.update({f"{key}.{name}": line for name, line in inner.lines.items()})
        return inner

    @property
    def problems(self) -> list[str]:
        """The errors so far, without their lines."""
        return [str(fault) for fault in self._noting.faults]

    def refuse_faults(self) -> None:
        """Raises if errors were noted.

        Raises:
            Refused: with one error as a line, or several as a list in the order of their lines.
        """
        faults = sorted(self._noting.faults, key=lambda fault: fault.line or 0)
        if len(faults) == 1:
            line = f" line {faults[0].line}" if faults[0].line else ""
            raise Refused(f"{self._path}{line}: {faults[0]}")
        if faults:
            lines = [
                f"{f'line {fault.line}: ' if fault.line else ''}{fault}"
                for fault in faults[:MAX_FAULTS]
            ]
            if len(faults) > MAX_FAULTS:
                lines.append(f"and {len(faults) - MAX_FAULTS:,} more.")
            raise Refused(
                "\n  ".join((f"{self._path} has {len(faults):,} errors:", *lines))
                + "\nNothing was sent."
            )

    def _take(self, key: str) -> yaml.Node | None:
        node = self._nodes.get(key)
        null = isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")
        return None if null and not self._nulls else node

    def _entries(self, node: yaml.MappingNode, where: str) -> dict[str, yaml.Node]:
        entries: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            with self._noting:
                key = self._text(key_node, f"a name in {where}")
                if key in entries:
                    line = _line(entries[key])
                    raise self._fault(
                        key_node, f"`{key}` is in {where} twice. It is first in line {line}"
                    )
                entries[key] = value
        return entries

    def _text(self, node: yaml.Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._fault(node, f"{what} must be a text, not {_kind(node)}")
        kind = node.tag.rsplit(":", 1)[-1]
        if kind == "null" and not node.value:
            raise self._fault(node, f'{what} has no text. Write one, or "" for an empty text')
        if kind != "str":
            read_as = _YAML_KINDS.get(kind, f"a {kind}")
            raise self._fault(
                node,
                f'{what}: YAML reads `{node.value}` as {read_as}. Put it in quotes: "{node.value}"',
            )
        text = str(node.value)
        if _HALVES.search(text):
            raise self._fault(node, f"{what} contains half a character (a lone surrogate)")
        return text

    def _fault(self, node: yaml.Node, problem: str) -> _Fault:
        return _Fault(problem, _line(node))


def _kind(node: yaml.Node) -> str:
    """Returns a description of the value: its text as written, or its kind."""
    if isinstance(node, yaml.ScalarNode):
        text = shortened(node.value)
        return f'"{text}"' if node.style in ("'", '"') else f"`{text}`"
    return "a list" if isinstance(node, yaml.SequenceNode) else "`key: value` lines"


def _shown(node: yaml.Node) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else f"({_kind(node)})"


def _line(node: yaml.Node) -> int:
    """Returns the line of a node, 0 for one that does not come from a file."""
    return int(node.start_mark.line) + 1 if node.start_mark else 0
