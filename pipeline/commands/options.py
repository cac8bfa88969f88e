"""The options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline.commands.completing import propose_codes, propose_jobs
from pipeline.commands.help import LIMITS, OUTPUT, SEND, WHERE, WHICH, option
from pipeline.core.model import ENGINES, MAX_RATE, MAX_WAIT_S, MIN_RATE
from pipeline.show import SEED
from pipeline.system.paths import path_fault

F = TypeVar("F", bound=Callable[..., Any])


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Combines decorators into one that applies them in the order given."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


class GivenPath(click.Path):
    """A path that a file can have, and never an empty one: an unset variable in a script must not
    mean the current folder."""

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        if not str(value):
            self.fail("a path must not be empty", parameter, context)
        fault = path_fault(value)
        if fault is not None:
            self.fail(f"the path {fault}.", parameter, context)
        return super().convert(value, parameter, context)


class Measure(click.FloatRange):
    """A number within bounds. Refuses nan, which click accepts in any range."""

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        number = super().convert(value, parameter, context)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", parameter, context)
        return number


PATH = GivenPath(path_type=Path)
_OF_SPEC = "the job file's"
INPUT = option(
    "--input", type=PATH, group=WHERE, left_out=_OF_SPEC, help="Another sheet than the job file's."
)
OUTPUT_FOLDER = option(
    "--output",
    type=PATH,
    group=WHERE,
    left_out=_OF_SPEC,
    help="Another run folder than the job file's.",
)
SANDBOX = option(
    "--sandbox",
    is_flag=True,
    group=WHERE,
    help="Rehearsal: a local copy of the API, no key, no cost.",
)
JSON = option(
    "--json",
    "as_json",
    is_flag=True,
    group=OUTPUT,
    help="Print one JSON object on stdout, messages on stderr.",
)
QUIET = option(
    "--quiet", is_flag=True, group=OUTPUT, help="Print nothing unless something needs you."
)
JOB = click.argument("job", type=PATH, shell_complete=propose_jobs)
job_options = options(JOB, OUTPUT_FOLDER, SANDBOX, JSON, QUIET)
ONLY = option(
    "--only",
    metavar="CODES",
    group=SEND,
    shell_complete=propose_codes,
    help="Only rows with these error codes: timeout,gateway.",
)
EXCEPT = option(
    "--except",
    "except_",
    metavar="CODES",
    group=SEND,
    shell_complete=propose_codes,
    help="No rows with these error codes.",
)
ROWS = option(
    "--rows",
    metavar="ROWS",
    group=SEND,
    help="Rows such as 3,7-9: row 1 is the first below the header.",
)
AMBIGUOUS = option(
    "--ambiguous",
    is_flag=True,
    group=SEND,
    help="Also ambiguous rows. They may be paid twice.",
)
AGAIN = option(
    "--again",
    metavar="WHICH",
    multiple=True,
    group=SEND,
    help="Pay again for ok rows: all, rows 3,7-9, or a flag.",
)
AGAIN_ROWS = option(
    "--rows",
    metavar="ROWS",
    group=SEND,
    help="With --again FLAG: only these rows, such as 3,7-9.",
)
RATE = option(
    "--rate",
    metavar="N",
    type=Measure(MIN_RATE, MAX_RATE),
    group=LIMITS,
    left_out=f"{_OF_SPEC}, else the limit that the runner measures",
    help="Requests per second, instead of the measured limit.",
)
LIMIT = option(
    "--limit",
    metavar="N",
    type=click.IntRange(0),
    group=SEND,
    help="Only the first N rows that the job file does not skip.",
)
ACCEPT_CHANGES = option(
    "--accept-changes",
    is_flag=True,
    group=SEND,
    help="Pay again for rows that a change made new.",
)
MAX_PAID = option(
    "--max-paid",
    metavar="N",
    type=click.IntRange(0),
    group=LIMITS,
    left_out=_OF_SPEC,
    help="Most requests that may be paid, in all runs together.",
)
BASE_URL = option(
    "--base-url",
    metavar="URL",
    group=WHERE,
    left_out="`AITUTOR_BASE_URL`, else the platform",
    help="Another address of the API.",
)
KEY_FILE = option(
    "--key-file",
    type=PATH,
    group=WHERE,
    left_out="`AITUTOR_API_KEY`",
    help="File with the key, instead of AITUTOR_API_KEY.",
)
PLAN = option(
    "--plan",
    metavar="TOKEN",
    group=SEND,
    help="Exactly the plan that `check --json` showed, or nothing.",
)
CONCURRENCY = option(
    "--concurrency",
    metavar="N",
    type=click.IntRange(1),
    group=LIMITS,
    left_out=_OF_SPEC,
    help="Most requests in flight.",
)
UNTIL = option(
    "--until",
    metavar="HH:MM",
    group=LIMITS,
    help="End by this time of day: no request is sent later.",
)
DRAIN = option(
    "--drain",
    metavar="SECONDS",
    type=Measure(0, MAX_WAIT_S),
    group=LIMITS,
    left_out=f"{_OF_SPEC} `deadline_s`",
    help="Longest wait for answers when the run stops early.",
)
ENGINE = option(
    "--engine",
    metavar="NAME",
    type=click.Choice(ENGINES),
    group=WHERE,
    left_out=_OF_SPEC,
    help="Where requests are sent from: local or ray.",
)
RAY_ADDRESS = option(
    "--ray-address",
    metavar="NAME",
    group=WHERE,
    left_out=_OF_SPEC,
    help="Ray cluster: its address, or auto.",
)
WORKERS = option(
    "--workers",
    metavar="N",
    type=click.IntRange(1),
    group=WHERE,
    left_out=_OF_SPEC,
    help="Processes of the Ray cluster to use.",
)
IF_LOCKED = option(
    "--if-locked",
    metavar="WORD",
    type=click.Choice(["fail", "skip", "wait"]),
    default="fail",
    group=WHERE,
    left_out="fail",
    help="If another run has the folder: fail, skip or wait.",
)
FAIL_ON = option(
    "--fail-on",
    metavar="WORD",
    type=click.Choice(["any", "new", "none"]),
    default="any",
    group=OUTPUT,
    left_out="any",
    help="Rows that make it exit with 3 or 5: any, new or none.",
)
STAGES = option(
    "--stages",
    is_flag=True,
    group=SEND,
    help="First run the jobs that the rows of this job come from.",
)
YES = option(
    "--yes", is_flag=True, group=SEND, help="Do not ask before rows that may be paid twice."
)


def choice_options(verb: str) -> Callable[[F], F]:
    """The options that choose rows of the last run's sheet, for a command that does `verb`."""
    return options(
        option(
            "--rows", metavar="ROWS", group=WHICH, help="Rows such as 3,7-9, as messages name them."
        ),
        option("--id", "ids", metavar="ID", multiple=True, group=WHICH, help="Rows with this id."),
        option(
            "--status",
            "statuses",
            metavar="WORD",
            multiple=True,
            group=WHICH,
            help="ok, failed, ambiguous, pending or skipped.",
        ),
        option(
            "--code",
            metavar="CODES",
            group=WHICH,
            shell_complete=propose_codes,
            help="Rows with these error codes.",
        ),
        option(
            "--flag",
            "flags",
            metavar="FLAG",
            multiple=True,
            group=WHICH,
            help="Answers with this flag, such as refusal.",
        ),
        option(
            "--find",
            metavar="TEXT",
            group=WHICH,
            help="Rows with this text in the answer or a cell.",
        ),
        option(
            "--sample",
            metavar="N",
            type=click.IntRange(1),
            group=WHICH,
            help="N of these rows, chosen at random.",
        ),
        option(
            "--seed",
            metavar="N",
            type=click.IntRange(0),
            default=SEED,
            group=WHICH,
            left_out=f"{SEED}",
            help=f"Another sample. The same N {verb} the same rows.",
        ),
        option(
            "--limit",
            metavar="N",
            type=click.IntRange(0),
            group=WHICH,
            help="The first N of these rows.",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions:
    """The options of `choice_options`."""

    rows: str | None
    ids: tuple[str, ...]
    statuses: tuple[str, ...]
    code: str | None
    flags: tuple[str, ...]
    find: str | None
    sample: int | None
    seed: int
    limit: int | None

    @property
    def none_given(self) -> bool:
        """Whether no option narrows the rows."""
        narrow = (self.rows, self.code, self.find, self.sample, self.limit)
        return not (self.ids or self.statuses or self.flags) and narrow == (None,) * len(narrow)


def choice_of(given: dict[str, Any]) -> ChoiceOptions:
    """Takes the options of `choice_options` out of those that a command got."""
    names = ChoiceOptions.__dataclass_fields__
    return ChoiceOptions(**{name: given.pop(name) for name in names})


def send_options(*which_rows: Callable[[F], F]) -> Callable[[F], F]:
    """The options of `run` and `resume`; they differ in `which_rows`."""
    return options(
        JOB,
        *which_rows,
        LIMIT,
        ACCEPT_CHANGES,
        PLAN,
        YES,
        MAX_PAID,
        RATE,
        CONCURRENCY,
        UNTIL,
        DRAIN,
        INPUT,
        OUTPUT_FOLDER,
        BASE_URL,
        KEY_FILE,
        SANDBOX,
        ENGINE,
        RAY_ADDRESS,
        WORKERS,
        IF_LOCKED,
        JSON,
        QUIET,
        FAIL_ON,
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The options that decide what a command prints."""

    as_json: bool
    quiet: bool


@dataclass(frozen=True, kw_only=True)
class JobOptions(OutputOptions):
    """The options of every command that is about a job."""

    job: Path
    output: Path | None
    sandbox: bool


@dataclass(frozen=True, kw_only=True)
class SheetOptions(JobOptions):
    """The options of commands that read the sheet."""

    input: Path | None
    limit: int | None
    max_paid: int | None
    base_url: str | None
    accept_changes: bool
    rate: float | None
    key_file: Path | None


@dataclass(frozen=True, kw_only=True)
class SendOptions(SheetOptions):
    """The options of commands that send rows, apart from which rows."""

    concurrency: int | None
    engine: str | None
    ray_address: str | None
    workers: int | None
    yes: bool
    plan: str | None
    if_locked: str
    until: str | None
    drain: float | None
    fail_on: str


@dataclass(frozen=True, kw_only=True)
class RowsOption:
    """The rows that a command names by number."""

    rows: str | None


@dataclass(frozen=True, kw_only=True)
class AgainOptions(RowsOption):
    """The ok rows that `run` sends again."""

    again: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ResumeOptions(RowsOption):
    """The rows that `resume` chooses."""

    only: str | None
    except_: str | None
    ambiguous: bool


@dataclass(frozen=True, kw_only=True)
class RunCommand(AgainOptions, SendOptions):
    """All options of `run`."""

    stages: bool


@dataclass(frozen=True, kw_only=True)
class ResumeCommand(ResumeOptions, SendOptions):
    """All options of `resume`."""


@dataclass(frozen=True, kw_only=True)
class CheckCommand(AgainOptions, ResumeOptions, SheetOptions):
    """All options of `check`."""

    resume: bool
