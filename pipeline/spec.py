"""A job spec: YAML text in, one frozen `JobSpec` out, or a refusal that names the line.

The YAML is composed to nodes, never constructed to objects: a node knows its line, and shows when
YAML turned a text (`no`, `0123`, `2024-01-02`) into something else. All that is wrong is told at
once.
"""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import yaml

from pipeline.errors import Refused
from pipeline.model import ENGINES

WORKFLOW = re.compile(r"[A-Za-z0-9_-]{1,64}")
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
EMPTY_CHOICES = ("refuse", "send", "skip")
MAX_SPEC_BYTES = 1_000_000
SHEETS = (".csv", ".tsv", ".xlsx", ".xlsm", ".parquet", ".jsonl")

_SECRETS = {"key", "api_key", "apikey", "token", "authorization", "secret", "headers"}
_HOSTS = {"host", "url", "base_url", "base-url", "endpoint", "server"}
_PATTERN_ERROR = "Invalid regular expression: "
_YAML_KINDS = {
    "bool": "a yes/no value",
    "int": "a number",
    "float": "a number",
    "timestamp": "a date",
    "null": "nothing",
}
# What YAML's parser says, and what that means to somebody who knows none of its words; the first
# that is found counts. True: the place is where what is not closed began, not where that was seen.
_YAML_WORDS = (
    ("mapping values are not allowed", "`: ` within a text; put the text into quotes", False),
    ("found character '\\t'", "a tab; indent by spaces", False),
    ("found character", "a text cannot begin with this character; put it into quotes", False),
    ("found undefined alias", "a text cannot begin with *; put it into quotes", False),
    ("could not find expected ':'", "not a `key: value` line", True),
    ("found unexpected end of stream", "a quote that is not closed", True),
    ("expected ',' or", "a bracket that is not closed, or a comma that is missing", True),
    ("expected <block end>", "indented otherwise than the lines above it", False),
    ("but found another document", "a second document (---); a spec is one", False),
    ("special characters", "a control character", False),
)
_MISSING = {
    "name": "Give the job one, such as `name: stories`.",
    "workflow": "Give its id on your platform, such as `workflow: wf_abc123`.",
    "input": "Name the sheet, such as `input: ../data/stories.csv`.",
}
_INIT = "`pipeline init SHEET --workflow ID` writes one."

TESTS = ("empty", "equals", "matches")
"""What a condition of `where:` can ask of a cell."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Condition:
    """What `where:` asks of one column. `test` is one of TESTS, `text` what `equals` compares with
    or the pattern (RE2) that `matches` searches for; `negated` turns it round."""

    column: str
    test: str
    text: str = ""
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Notify:
    """Whom a run tells how it went. Addresses are as they stand in the file, with their ``${NAME}``
    of the environment; each may take `timeout_s`. `opentelemetry` is whether a collector is told,
    the one that the standard environment (``OTEL_…``) names."""

    healthcheck: str | None = None
    webhook: str | None = None
    textfile: Path | None = None
    opentelemetry: bool = False
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job, with every default filled in and every path absolute.

    `variables` holds (variable, column) pairs, or is None where every column goes under its own
    name. `constants` holds (variable, text) pairs. Rows for which not all of `where` holds are
    skipped. `dedupe` sends equal rows once, for all of them. `deadline_s` is the absolute time that
    one answer may take: the API's own limit is 300 s, its edge's a little more. `engine` is where
    requests are sent from; `ray_address` (None for a cluster of this machine's own) and `workers`
    (None for one a machine, two at least) are of the engine ray.
    """

    source: Path
    name: str
    workflow: str
    input: Path
    output: Path
    variables: tuple[tuple[str, str], ...] | None = None
    constants: tuple[tuple[str, str], ...] = ()
    id: str | None = None
    empty: str = "refuse"
    where: tuple[Condition, ...] = ()
    dedupe: bool = False
    sheet: str | None = None
    header_row: int | None = None
    encoding: str | None = None
    max_paid: int | None = None
    max_paid_per_run: int | None = None
    concurrency: int = 2000
    retries: int = 2
    rate: float | None = None
    deadline_s: float = 330.0
    engine: str = "local"
    ray_address: str | None = None
    workers: int | None = None
    notify: Notify | None = None
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)
    """Where in the file a key stands (`id`, `variables.story`), for messages."""

    def at(self, key: str) -> str:
        """The file, and the line of `key` where it has one."""
        return f"{self.source} line {self.lines[key]}" if key in self.lines else str(self.source)

    def budget(self, paid_max: int) -> int | None:
        """How many more requests a run may pay for, None for any number.

        `paid_max` counts those that were or may have been billed in the run folder so far.
        """
        limits = []
        if self.max_paid is not None:
            limits.append(max(self.max_paid - paid_max, 0))
        if self.max_paid_per_run is not None:
            limits.append(self.max_paid_per_run)
        return min(limits, default=None)


def load_spec(path: Path) -> JobSpec:
    """The spec in the file at `path`.

    Raises:
        Refused: for anything that is not exactly a spec, with file, line and the nearest name of
            each fault.
    """
    fields = _Fields(path, _compose(path))
    fields.note_unknown()
    here = path.absolute().parent
    name = fields.text("name", NAME, "letters, digits, - and _")
    output = fields.optional_text("output")
    spec = JobSpec(
        source=path.absolute(),
        name=name,
        workflow=fields.text("workflow", WORKFLOW, "1 to 64 letters, digits, - and _"),
        input=here / fields.text("input"),
        output=here / (output if output is not None else f"runs/{name}"),
        variables=fields.pairs("variables"),
        constants=fields.pairs("constants") or (),
        id=fields.optional_text("id"),
        empty=fields.choice("empty", EMPTY_CHOICES, "refuse"),
        where=fields.conditions("where"),
        dedupe=fields.flag("dedupe"),
        sheet=fields.optional_text("sheet"),
        header_row=fields.number("header_row", int, at_least=1),
        encoding=fields.optional_text("encoding"),
        max_paid=fields.number("max_paid", int, at_least=0),
        max_paid_per_run=fields.number("max_paid_per_run", int, at_least=0),
        concurrency=fields.number("concurrency", int, at_least=1) or 2000,
        retries=_default(fields.number("retries", int, at_least=0), 2),
        rate=fields.number("rate", float, above=0),
        deadline_s=fields.number("deadline_s", float, above=0) or 330.0,
        engine=fields.choice("engine", ENGINES, "local"),
        ray_address=fields.optional_text("ray_address"),
        workers=fields.number("workers", int, at_least=1),
        notify=fields.notify("notify"),
        lines=fields.lines,
    )
    fields.note_both(spec)
    fields.refuse_faults()
    return spec


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint like ` Did you mean "story"?`, or nothing."""
    by_plain = {name.casefold().strip(): name for name in known}
    close = difflib.get_close_matches(word.casefold().strip(), list(by_plain), n=1)
    return f' Did you mean "{by_plain[close[0]]}"?' if close else ""


def _default(value: T | None, default: T) -> T:
    return default if value is None else value


def _compose(path: Path) -> yaml.MappingNode:
    try:
        raw = path.read_bytes()
    except OSError as error:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = "" if path.exists() else nearest(path.name, beside) or f" {_INIT}"
        raise Refused(
            f"{path}: the job spec cannot be read ({error.strerror}).{hint} Nothing was sent."
        ) from None
    if path.suffix.lower() in SHEETS:
        written = shlex.join(("pipeline", "init", str(path), "--workflow", "ID"))
        raise Refused(
            f"{path}: a sheet, not a job spec. Name the spec that it is the `input:` of. Nothing "
            f"was sent. To write one: {written}"
        )
    if len(raw) > MAX_SPEC_BYTES:
        raise Refused(f"{path}: a job spec of over 1 MB is not one. Nothing was sent.")
    try:
        node = yaml.compose(raw.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        raise Refused(
            f"{path}: the job spec is not UTF-8 text. Save it as UTF-8. Nothing was sent."
        ) from None
    except RecursionError:
        raise Refused(f"{path}: the job spec is nested too deeply. Nothing was sent.") from None
    except yaml.YAMLError as error:
        raise Refused(f"{path}{_yaml_problem(error)}. Nothing was sent.") from None
    if not isinstance(node, yaml.MappingNode):
        what = "the job spec is empty" if node is None else "not a job spec"
        raise Refused(
            f"{path}: {what}; one is a list of `key: value` lines. {_INIT} Nothing was sent."
        )
    return node


def _yaml_problem(error: yaml.YAMLError) -> str:
    """The line, and what is wrong there."""
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", "not readable"))
    mark = getattr(error, "problem_mark", None)
    for theirs, ours, begun_before in _YAML_WORDS:
        if theirs in problem:
            problem = ours
            mark = (begun_before and getattr(error, "context_mark", None)) or mark
            break
    return f"{f' line {mark.line + 1}' if mark else ''}: not valid YAML: {problem}"


class _Fault(Exception):
    """One thing that is wrong with a spec, with its line where it has one."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        end = "" if problem.endswith(("?", ".")) else "."
        super().__init__(problem + end)
        self.line = line


class _Noting:
    """Keeps the fault that ends its block, so that those after it are found too."""

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


class _Fields:
    """The spec's mapping, read key by key. What is wrong is noted with its line and read as if it
    were left out; `refuse_faults` then tells all of it."""

    KNOWN = tuple(name for name in JobSpec.__dataclass_fields__ if name not in ("source", "lines"))

    def __init__(self, path: Path, node: yaml.MappingNode, noting: _Noting | None = None) -> None:
        self._path = path
        self._noting = noting or _Noting()
        self._nodes = self._entries(node, "the spec")
        self.lines = {key: _line(value) for key, value in self._nodes.items()}

    def text(self, key: str, pattern: re.Pattern[str] | None = None, rule: str = "") -> str:
        with self._noting:
            node = self._take(key)
            if node is None:
                raise _Fault(f"`{key}:` is missing. {_MISSING[key]}")
            value = self._text(node, f"`{key}`")
            if not value:
                raise self._fault(node, f"`{key}` is empty. {_MISSING[key]}")
            if pattern and not pattern.fullmatch(value):
                raise self._fault(node, f"`{key}: {value}` is not allowed; use {rule}")
            return value
        return ""

    def optional_text(self, key: str) -> str | None:
        with self._noting:
            node = self._take(key)
            return None if node is None else self._text(node, f"`{key}`")
        return None

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        node = self._take(key)
        if node is None:
            return default
        with self._noting:
            value = _shown(node)
            if value not in choices:
                raise self._fault(
                    node,
                    f"`{key}: {value}` is not one of {', '.join(choices)}."
                    f"{nearest(value, choices)}",
                )
            return value
        return default

    def number(
        self,
        key: str,
        kind: Callable[[str], T],
        *,
        at_least: float | None = None,
        above: float | None = None,
    ) -> T | None:
        node = self._take(key)
        if node is None:
            return None
        rule = "a whole number" if kind is int else "a number"
        unit = " of seconds" if key.endswith("_s") else ""
        bound = f" of {at_least} or more" if at_least is not None else f"{unit} above {above}"
        with self._noting:
            wrong = self._fault(node, f"`{key}: {_shown(node)}` is not {rule}{bound}")
            if not isinstance(node, yaml.ScalarNode):
                raise wrong
            try:
                value = kind(node.value)
            except ValueError:
                raise wrong from None
            size = float(value)  # type: ignore[arg-type]
            too_low = (at_least is not None and size < at_least) or (
                above is not None and size <= above
            )
            if too_low or not math.isfinite(size):
                raise wrong
            return value
        return None

    def pairs(self, key: str) -> tuple[tuple[str, str], ...] | None:
        node = self._take(key)
        if node is None:
            return None
        texts = []
        with self._noting:
            if not isinstance(node, yaml.MappingNode):
                raise self._fault(node, f"`{key}` takes `name: text` lines, not {_kind(node)}")
            for name, value in self._entries(node, f"`{key}`").items():
                self.lines[f"{key}.{name}"] = _line(value)
                with self._noting:
                    texts.append((name, self._text(value, f"`{name}`")))
        return tuple(texts)

    def flag(self, key: str) -> bool:
        node = self._take(key)
        with self._noting:
            return node is not None and self._flag(node, f"`{key}`")
        return False

    def conditions(self, key: str) -> tuple[Condition, ...]:
        node = self._take(key)
        if node is None:
            return ()
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        self.lines.update({f"{key}.{n}": _line(one) for n, one in enumerate(nodes)})
        conditions = []
        for one in nodes:
            with self._noting:
                conditions.append(self._condition(one))
        return tuple(conditions)

    def notify(self, key: str) -> Notify | None:
        node = self._take(key)
        if node is None:
            return None
        known = tuple(Notify.__dataclass_fields__)
        if not isinstance(node, yaml.MappingNode):
            problem = f"`{key}` takes lines of {', '.join(known)}, not {_kind(node)}"
            self._noting.faults.append(self._fault(node, problem))
            return None
        inner = _Fields(self._path, node, self._noting)
        for name, value in inner._nodes.items():
            if name not in known:
                hint = nearest(name, known) or f" There are: {', '.join(known)}."
                self._noting.faults.append(self._fault(value, f"`{key}` knows no `{name}`.{hint}"))
        self.lines.update({f"{key}.{name}": line for name, line in inner.lines.items()})
        textfile = inner.optional_text("textfile")
        return Notify(
            healthcheck=inner.optional_text("healthcheck"),
            webhook=inner.optional_text("webhook"),
            textfile=None if textfile is None else self._path.absolute().parent / textfile,
            opentelemetry=inner.flag("opentelemetry"),
            timeout_s=inner.number("timeout_s", float, above=0) or 10.0,
        )

    def refuse_faults(self) -> None:
        """Raises if anything was wrong: one fault as a line, several as a list.

        Raises:
            Refused: with all of them, in the order of their lines.
        """
        faults = sorted(self._noting.faults, key=lambda fault: fault.line or 0)
        if len(faults) == 1:
            line = f" line {faults[0].line}" if faults[0].line else ""
            raise Refused(f"{self._path}{line}: {faults[0]} Nothing was sent.")
        if faults:
            told = [f"{f'line {fault.line}: ' if fault.line else ''}{fault}" for fault in faults]
            raise Refused(
                "\n  ".join((f"{self._path} has {len(faults)} faults:", *told))
                + "\nNothing was sent."
            )

    def note_unknown(self) -> None:
        for key, node in self._nodes.items():
            if key in self.KNOWN:
                continue
            if key.lower() in _SECRETS:
                hint = " A spec holds no key: set AITUTOR_API_KEY or use --key-file."
            elif key.lower() in _HOSTS:
                hint = " A spec holds no host: set AITUTOR_BASE_URL or use --base-url."
            else:
                hint = nearest(key, self.KNOWN) or f" There are: {', '.join(self.KNOWN)}."
            self._noting.faults.append(self._fault(node, f"unknown key `{key}`.{hint}"))

    def note_both(self, spec: JobSpec) -> None:
        mapped = {variable for variable, _ in spec.variables or ()}
        for name, _ in spec.constants:
            if name in mapped:
                problem = f"`{name}` is both a variable and a constant. Take one of them out"
                self._noting.faults.append(_Fault(problem, self.lines[f"constants.{name}"]))

    def _condition(self, node: yaml.Node) -> Condition:
        if not isinstance(node, yaml.MappingNode):
            raise self._fault(
                node, "`where` takes conditions such as `{column: status, empty: true}`"
            )
        entries = self._entries(node, "a condition of `where`")
        known = ("column", "not", *TESTS)
        for name in entries:
            if name not in known:
                hint = nearest(name, known) or f" There are: {', '.join(known)}."
                raise self._fault(entries[name], f"`where` knows no `{name}`.{hint}")
        tests = [name for name in TESTS if name in entries]
        if "column" not in entries or len(tests) != 1:
            raise self._fault(
                node, f"a condition of `where` has a `column` and one of {', '.join(TESTS)}"
            )
        column = self._text(entries["column"], "`column`")
        [test] = tests
        negated = "not" in entries and self._flag(entries["not"], "`not`")
        if test == "empty":
            return Condition(column, test, negated=negated == self._flag(entries[test], "`empty`"))
        text = self._text(entries[test], f"`{test}`")
        if test == "matches":
            self._check_pattern(entries[test], text)
        return Condition(column, test, text, negated)

    def _check_pattern(self, node: yaml.Node, pattern: str) -> None:
        import pyarrow as pa  # takes a fifth of a second, and few specs have a pattern
        import pyarrow.compute as pc

        try:
            pc.match_substring_regex(pa.array([""]), pattern)
        except pa.ArrowInvalid as error:
            raise self._fault(
                node,
                f"`matches: {pattern}` is no pattern ({str(error).removeprefix(_PATTERN_ERROR)}); "
                "it is RE2's syntax, without look-around and back-references",
            ) from None

    def _flag(self, node: yaml.Node, what: str) -> bool:
        value = node.value.lower() if isinstance(node, yaml.ScalarNode) else ""
        if not node.tag.endswith(":bool"):
            raise self._fault(node, f"{what} takes true or false, not {_kind(node)}")
        return value in ("true", "yes", "on")

    def _take(self, key: str) -> yaml.Node | None:
        node = self._nodes.get(key)
        null = isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")
        return None if null else node

    def _entries(self, node: yaml.MappingNode, where: str) -> dict[str, yaml.Node]:
        entries: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            with self._noting:
                key = self._text(key_node, f"a name in {where}")
                if key in entries:
                    line = _line(entries[key])
                    raise self._fault(
                        key_node, f"`{key}` stands twice in {where}, first in line {line}"
                    )
                entries[key] = value
        return entries

    def _text(self, node: yaml.Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._fault(node, f"{what} takes a text, not {_kind(node)}")
        kind = node.tag.rsplit(":", 1)[-1]
        if kind == "null" and not node.value:
            raise self._fault(node, f'{what} has no text; write one, or "" for an empty one')
        if kind != "str":
            read_as = _YAML_KINDS.get(kind, f"a {kind}")
            raise self._fault(
                node,
                f'{what}: YAML reads `{node.value}` as {read_as}; write it as "{node.value}"',
            )
        return str(node.value)

    def _fault(self, node: yaml.Node, problem: str) -> _Fault:
        return _Fault(problem, _line(node))


def _kind(node: yaml.Node) -> str:
    """What stands there, in a word or as it was written."""
    if isinstance(node, yaml.ScalarNode):
        return f'"{node.value}"' if node.style in ("'", '"') else f"`{node.value}`"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a map"


def _shown(node: yaml.Node) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else f"({_kind(node)})"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
