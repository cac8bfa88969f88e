"""Reads a job file into one frozen `JobSpec`, or refuses it with the lines of its errors.

The settings of `run_frame` are read in the same way.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.added_columns import column_names
from pipeline.core.errors import Refused
from pipeline.core.model import TEXT_RULES
from pipeline.job.answer_columns import AnswerColumn
from pipeline.job.call import node_of
from pipeline.job.frame import Frame
from pipeline.job.spec_columns import read_columns
from pipeline.job.spec_keys import EMPTY_CHOICES, KEYS, OTHER_COLUMNS, Key
from pipeline.job.stage import Input, Stage
from pipeline.job.yaml_fields import Fields, compose

TESTS = ("empty", "equals", "matches")
"""The tests that a condition of `where:` can make on a cell."""
MAX_CONDITIONS = 100
MAX_PATTERN_CHARACTERS = 2000
"""The limit for all patterns of a job file together. RE2 needs up to 65 MB and 0.4 s for this many,
and 300 MB for ten times as many, before its own limit stops it."""

_NO_KEY = " A job file never contains the key: set AITUTOR_API_KEY or use --key-file."
_NO_HOST = " A job file never contains the API's address: set AITUTOR_BASE_URL or use --base-url."
_NEVER = {
    **dict.fromkeys(
        ("key", "api_key", "apikey", "token", "authorization", "secret", "headers"), _NO_KEY
    ),
    **dict.fromkeys(("host", "url", "base_url", "base-url", "endpoint", "server"), _NO_HOST),
}
_PATTERN_ERROR = "Invalid regular expression: "
_CALL = Path("run_frame")
OF_FILES = (
    *("input", "sheet", "header_row", "encoding", "shown", "locale", "separator", "hidden"),
)
"""The keys that are about the file of a sheet."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of `where:`. `test` is one of TESTS. `text` is the text for `equals` or the RE2
    pattern for `matches`. `negated` reverses the test."""

    column: str
    test: str
    text: str = ""
    negated: bool = False


TEXTFILE_ENDING = ".prom"
MAX_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Notify:
    """The targets to which a run reports its result.

    Addresses are as in the file, with ``${NAME}`` not yet replaced from the environment. Each
    target may take `timeout_s`. With `opentelemetry`, the run also reports to the collector that
    the standard environment variables (``OTEL_…``) name.
    """

    healthcheck: str | None = None
    webhook: str | None = None
    textfile: Path | None = None
    opentelemetry: bool = False
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job, with every default filled in and every path absolute.

    `input` is the sheet's file, the frame of `run_frame`, or another job whose answers are the
    rows. `source` is the job file, None for a frame.

    `variables` are (variable, column) pairs, or None if each column fills the variable of its name.
    `constants` are (variable, text) pairs. `empty` says what happens to an empty cell, and
    `empty_by_column` has (column, choice) pairs for single columns. Rows that do not meet all
    conditions of `where` are skipped. `shown` are the columns that are sent as the sheet displays
    them in the language `locale`, or True for all columns that the job uses. `dedupe` sends equal
    rows once, for all of them. `deadline_s` is the total time for one response, from its request to
    its last byte. The API's own limit is 300 s, and that of its edge is a little more. `engine` is
    the place that requests are sent from. `ray_address` (None for a new cluster on this machine)
    and `workers` (None for one per machine, at least two) only apply to the engine ray.
    """

    source: Path | None
    name: str
    workflow: str
    input: Input
    output: Path
    variables: tuple[tuple[str, str], ...] | None = None
    constants: tuple[tuple[str, str], ...] = ()
    id: str | None = None
    empty: str = "refuse"
    empty_by_column: tuple[tuple[str, str], ...] = ()
    where: tuple[Condition, ...] = ()
    dedupe: bool = False
    sheet: str | None = None
    header_row: int | None = None
    encoding: str | None = None
    shown: tuple[str, ...] | bool = False
    locale: str | None = None
    separator: str | None = None
    hidden: str = "send"
    max_paid: int | None = None
    max_paid_per_run: int | None = None
    concurrency: int = 2000
    retries: int = 2
    rate: float | None = None
    deadline_s: float = 330.0
    engine: str = "local"
    ray_address: str | None = None
    workers: int | None = None
    answer_column: str | None = None
    """The name of the answer's column in exports: `as:` in the file. None for the usual names."""
    columns: tuple[AnswerColumn, ...] = ()
    """The columns that the parts of JSON answers fill. They change no request."""
    add: tuple[str, ...] | None = None
    """The kinds of columns that an export adds. None for the usual ones."""
    notify: Notify | None = None
    text_rules: int = TEXT_RULES
    """The rules by which a cell becomes text. The run folder decides them, not the job file."""
    exported: tuple[str, ...] = ()
    """The columns that exports of the run folder added, as the folder notes them."""
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)
    """The line of each key in the file (`id`, `variables.story`), for messages."""

    @property
    def file(self) -> Path:
        """The sheet's file, for code that reads files.

        Raises:
            TypeError: for a frame and for another job, which have no file.
        """
        if not isinstance(self.input, Path):
            raise TypeError(f"{self.input} is no sheet's file")
        return self.input

    @property
    def job_file(self) -> Path:
        """The job file, for code that writes or names it.

        Raises:
            TypeError: for a frame, which has none.
        """
        if self.source is None:
            raise TypeError("a frame has no job file")
        return self.source

    def at(self, key: str) -> str:
        """Returns the path of the file, with the line of `key` if the key has one. For a frame,
        this is the argument of the call."""
        if self.source is None:
            return f"run_frame({key.partition('.')[0]}=…)"
        return f"{self.source} line {self.lines[key]}" if key in self.lines else str(self.source)

    def shows(self, column: str) -> bool:
        """Returns whether `column` is sent as the sheet displays it, if the job uses it."""
        return self.shown is True or (self.shown is not False and column in self.shown)

    def empty_in(self, column: str) -> str:
        """Returns what happens to an empty cell of `column`: refuse, send or skip."""
        return dict(self.empty_by_column).get(column, self.empty)

    def column_names(self, kinds: Iterable[str], number: int = 1) -> dict[str, str]:
        """Returns the kind of each column that an export adds, by its name."""
        return column_names(kinds, self.answer_column, number, [one.name for one in self.columns])

    def budget(self, paid_max: int) -> int | None:
        """Returns the number of requests that a run may still pay for, None without a limit.

        `paid_max` is the number of paid and maybe paid requests in the run folder so far.
        """
        return min(self._limits(paid_max).values(), default=None)

    def limit_name(self, paid_max: int) -> str:
        """Returns the key whose limit `budget` returns."""
        limits = self._limits(paid_max)
        return min(limits, key=limits.__getitem__, default="max_paid")

    def _limits(self, paid_max: int) -> dict[str, int]:
        limits = {}
        if self.max_paid is not None:
            limits["max_paid"] = max(self.max_paid - paid_max, 0)
        if self.max_paid_per_run is not None:
            limits["max_paid_per_run"] = self.max_paid_per_run
        return limits


def load_spec(path: Path, content: bytes | None = None) -> JobSpec:
    """Reads the job file at `path`, or `content` as the job file that would be there.

    Raises:
        Refused: if the file has any error, with the file, the line and the nearest known name for
            each.
    """
    fields = Fields(path, compose(path, content))
    fields.note_unknown([key.name for key in KEYS], "unknown key `{}`.", _NEVER)
    values = _values(fields, KEYS)
    _note_both(fields, values)
    _note_idle(fields, values)
    if isinstance(values.get("input"), Stage):
        _note_of_files(fields, values)
        values.setdefault("empty", "skip")
    notify = _notify(fields)
    fields.refuse_faults()
    if isinstance(values["input"], Stage):
        values.setdefault("id", _inherited_id(path, values["input"]))
    here = path.absolute().parent
    values.setdefault("output", here / "runs" / values["name"])
    return JobSpec(source=path.absolute(), notify=notify, lines=fields.lines, **values)


def key_problem(name: str, value: str) -> str | None:
    """Returns what is wrong with a value of one key, None if nothing is."""
    [key] = [key for key in KEYS if key.name == name]
    fields = Fields(_CALL, node_of({name: value}))
    if key.type is not None:
        key.type.read(fields, name)
    return fields.problems[0] if fields.problems else None


def frame_spec(frame: Frame, other_options: Iterable[str] = ()) -> JobSpec:
    """Reads the settings of a call that passed a frame. `other_options` are the names of its other
    options, for the nearest name of one that is unknown.

    Raises:
        Refused: if a setting has an error.
    """
    fields = Fields(_CALL, node_of(frame.settings), "the call")
    keys = [key for key in KEYS if key.name not in OF_FILES]
    known = [*(key.name for key in keys), *other_options]
    of_files = dict.fromkeys(OF_FILES, " It is for the files of sheets.")
    fields.note_unknown(known, "there is no option `{}`.", _NEVER | of_files)
    values = _values(fields, keys)
    _note_both(fields, values)
    notify = _notify(fields)
    fields.refuse_faults()
    return JobSpec(source=None, input=frame, notify=notify, **values)


def _inherited_id(path: Path, stage: Stage) -> str | None:
    """Returns the `id:` of the nearest job before this one that has one, in the chain of jobs whose
    answers are each other's rows. Only the keys for this are read.

    Raises:
        Refused: if a job of the chain cannot be read, or if the chain is a circle.
    """
    chain = [path.absolute(), stage.job]
    found: str | None = None
    while True:
        if any(
            one.samefile(chain[-1]) for one in chain[:-1] if one.exists() and chain[-1].exists()
        ):
            named = " reads ".join(one.name for one in chain)
            raise Refused(f"{path}: the jobs read each other's answers in a circle: {named}.")
        try:
            values = _some(chain[-1], ("id", "input"))
        except Refused as error:
            raise Refused(
                f"{path}: `input: {{job: …}}` must name the file of the earlier job. {error} To "
                f"read the answers that {path.name} has already, name its run folder."
            ) from None
        found = found or values["id"]
        if not isinstance(values["input"], Stage):
            return found
        chain.append(values["input"].job)


def load_output(path: Path, workflow: str) -> Path | None:
    """Returns the run folder of the job file at `path`, or None if it is for another workflow.

    Only the three keys for this are read.

    Raises:
        Refused: if one of these keys has an error.
    """
    values = _some(path, ("name", "workflow", "output"))
    if values["workflow"] != workflow:
        return None
    output: Path | None = values["output"]
    return output or path.absolute().parent / "runs" / values["name"]


def _some(path: Path, names: Container[str]) -> dict[str, Any]:
    """Returns the values of some keys of the job file at `path`, None for those it lacks."""
    fields = Fields(path, compose(path))
    values: dict[str, Any] = {
        key.name: key.type.read(fields, key.name)
        for key in KEYS
        if key.type is not None and key.name in names
    }
    fields.refuse_faults()
    return values


def _values(fields: Fields, keys: Iterable[Key]) -> dict[str, Any]:
    """Returns the values in the file, by key. Other keys get the defaults of `JobSpec`."""
    read = {key.name: key.type.read(fields, key.name) for key in keys if key.type is not None}
    read["where"] = _conditions(fields)
    read["answer_column"] = read.pop("as")
    read["columns"] = read_columns(fields, read["answer_column"])
    read |= _empty(fields)
    return {key: value for key, value in read.items() if value is not None}


def _empty(fields: Fields) -> dict[str, Any]:
    """Returns the choice for every column, and the choices for single columns."""
    chosen = fields.choices("empty", EMPTY_CHOICES)
    if not isinstance(chosen, dict):
        return {"empty": chosen}
    others = chosen.pop(OTHER_COLUMNS, None)
    return {"empty": others, "empty_by_column": tuple(chosen.items())}


def _note_both(fields: Fields, values: dict[str, Any]) -> None:
    mapped = {variable for variable, _ in values.get("variables", ())}
    for name, _ in values.get("constants", ()):
        if name in mapped:
            fields.note(
                f"constants.{name}",
                f"`{name}` is both a variable and a constant. Remove one of them",
            )


def _note_idle(fields: Fields, values: dict[str, Any]) -> None:
    if "locale" in values and not values.get("shown"):
        fields.note("locale", "`locale` has no effect without `shown`. Leave it out")


def _note_of_files(fields: Fields, values: dict[str, Any]) -> None:
    """Notes settings of a sheet's file, where the rows come from another job."""
    if "variables" not in values:
        fields.note(
            None,
            "`variables:` is missing. Name each column of the other job's export that is sent, "
            "such as `title: title`",
        )
    for name in OF_FILES[1:]:
        if name in fields:
            fields.note(name, f"`{name}:` is for the files of sheets. Leave it out")


def _notify(fields: Fields) -> Notify | None:
    known = tuple(Notify.__dataclass_fields__)
    inner = fields.section("notify", known)
    if inner is None:
        return None
    inner.note_unknown(known, "`notify` has no key `{}`.", {})
    textfile = inner.path("textfile", None)
    read = {
        "healthcheck": inner.optional_text("healthcheck"),
        "webhook": inner.optional_text("webhook"),
        "textfile": textfile,
        "opentelemetry": inner.flag("opentelemetry"),
        "timeout_s": inner.number("timeout_s", float, above=0, at_most=MAX_TIMEOUT_S),
    }
    if textfile is not None and not textfile.name.endswith(TEXTFILE_ENDING):
        inner.note(
            "textfile",
            f"`textfile` must end in {TEXTFILE_ENDING}: the collector reads no other files",
        )
    values: dict[str, Any] = {key: value for key, value in read.items() if value is not None}
    return Notify(**values)


def _conditions(fields: Fields) -> tuple[Condition, ...]:
    wanted = "`where` needs conditions such as `{column: status, empty: true}`"
    sections = fields.sections("where", "a condition of `where`", wanted)
    if len(sections) > MAX_CONDITIONS:
        fields.note(
            "where", f"`where` has {len(sections):,} conditions, and the limit is {MAX_CONDITIONS}"
        )
        return ()
    found = [(one, condition) for one in sections if (condition := _condition(one))]
    patterns = [(one, condition.text) for one, condition in found if condition.test == "matches"]
    characters = sum(len(pattern) for _, pattern in patterns)
    if characters > MAX_PATTERN_CHARACTERS:
        fields.note(
            "where",
            f"the patterns of `where` have {characters:,} characters together, and the limit is "
            f"{MAX_PATTERN_CHARACTERS:,}. Shorten them",
        )
        return ()
    for one, pattern in patterns:
        _check_pattern(one, pattern)
    return tuple(condition for _, condition in found)


def _condition(fields: Fields) -> Condition | None:
    """Reads one condition. Returns None if it has an error, which is noted."""
    if fields.note_unknown(
        ("column", "not", *TESTS), "a condition of `where` has no key `{}`.", {}
    ):
        return None
    tests = [name for name in TESTS if name in fields]
    if "column" not in fields or len(tests) != 1:
        fields.note(
            None, f"a condition of `where` needs a `column` and exactly one of {', '.join(TESTS)}"
        )
        return None
    column, negated, [test] = fields.optional_text("column"), fields.flag("not"), tests
    if test == "empty":
        empty = fields.flag(test)
        if column is None or empty is None:
            return None
        return Condition(column, test, negated=bool(negated) == empty)
    text = fields.optional_text(test)
    if column is None or text is None:
        return None
    return Condition(column, test, text, bool(negated))


def _check_pattern(fields: Fields, pattern: str) -> None:
    import pyarrow as pa  # the import takes 0.2 s, and few job files have a pattern
    import pyarrow.compute as pc

    try:
        pc.match_substring_regex(pa.nulls(1, pa.string()), pattern)
    except pa.ArrowInvalid as error:
        fields.note(
            "matches",
            f"`matches: {pattern}` is not a pattern ({str(error).removeprefix(_PATTERN_ERROR)}). "
            "Use RE2 syntax, which has no look-around and no back-references",
        )
