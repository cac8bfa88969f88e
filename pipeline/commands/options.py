"""The options that several commands share, in the order in which `--help` shows them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline.core.model import ENGINES, MAX_RATE, MAX_WAIT_S, MIN_RATE
from pipeline.system.paths import path_fault

F = TypeVar("F", bound=Callable[..., Any])


def options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator of several, in their order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


class GivenPath(click.Path):
    """A path that a file can have. It is not empty: an unset variable in a script must not mean
    "here"."""

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        if not str(value):
            self.fail("a path must not be empty", parameter, context)
        fault = path_fault(value)
        if fault is not None:
            self.fail(f"the path {fault}.", parameter, context)
        return super().convert(value, parameter, context)


class Measure(click.FloatRange):
    """A number within bounds. Not nan, which click takes for one of any range."""

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        number = super().convert(value, parameter, context)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", parameter, context)
        return number


PATH = GivenPath(path_type=Path)
job_options = options(
    click.argument("job", type=PATH),
    click.option("--output", type=PATH, show_default="the spec's", help="Run folder to use."),
    click.option("--sandbox", is_flag=True, help="Use a local copy of the API; no key, no cost."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, no words."),
    click.option("--quiet", is_flag=True, help="Say nothing unless something needs you."),
)
ONLY = click.option("--only", metavar="CODES", help="Only rows with these error codes.")
EXCEPT = click.option(
    "--except", "except_", metavar="CODES", help="No rows with these error codes."
)
ROWS = click.option("--rows", metavar="ROWS", help="Only these rows, like 3,7-9.")
AMBIGUOUS = click.option(
    "--ambiguous", is_flag=True, help="Also rows that may have been paid already."
)
AGAIN = click.option("--again", metavar="ROWS", help="Ask again for ok rows: all, or like 3,7-9.")

_OF_SPEC = "the spec's"
RATE = click.option(
    "--rate",
    metavar="N",
    type=Measure(MIN_RATE, MAX_RATE),
    show_default=f"{_OF_SPEC}, else what is learned",
    help="Requests per second.",
)
sheet_options = options(
    click.option("--input", type=PATH, show_default=_OF_SPEC, help="Sheet to read."),
    click.option(
        "--limit",
        metavar="N",
        type=click.IntRange(0),
        help="Only the first N rows of the sheet that are not skipped.",
    ),
    click.option(
        "--max-paid",
        metavar="N",
        show_default=_OF_SPEC,
        type=click.IntRange(0),
        help="Most requests that may be billed.",
    ),
    click.option(
        "--base-url",
        metavar="URL",
        show_default="AITUTOR_BASE_URL, else the platform",
        help="Another address of the API.",
    ),
    click.option(
        "--accept-changes", is_flag=True, help="Pay again for rows that a change made new."
    ),
)
send_options = options(
    sheet_options,
    click.option(
        "--concurrency",
        metavar="N",
        show_default=_OF_SPEC,
        type=click.IntRange(1),
        help="Most requests in flight.",
    ),
    RATE,
    click.option(
        "--key-file", type=PATH, show_default="AITUTOR_API_KEY", help="File that holds the key."
    ),
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        show_default=_OF_SPEC,
        help="Where requests are sent from.",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        show_default=_OF_SPEC,
        help="Ray cluster to send from: auto, or its address.",
    ),
    click.option(
        "--workers",
        metavar="N",
        show_default=_OF_SPEC,
        type=click.IntRange(1),
        help="Processes of the Ray cluster to use.",
    ),
    click.option("--yes", is_flag=True, help="Agree beforehand to what may be paid twice."),
    click.option(
        "--plan", metavar="TOKEN", help="Carry out the plan that `check --json` showed, or nothing."
    ),
    click.option(
        "--if-locked",
        type=click.Choice(["fail", "skip", "wait"]),
        default="fail",
        show_default=True,
        help="When another run works in the folder.",
    ),
    click.option(
        "--until",
        metavar="HH:MM",
        help="Send nothing after this time of day, nor what would be answered later.",
    ),
    click.option(
        "--drain",
        show_default="the spec's deadline_s",
        metavar="SECONDS",
        type=Measure(0, MAX_WAIT_S),
        help="How long to wait for answers at a stop.",
    ),
    click.option(
        "--fail-on",
        type=click.Choice(["any", "new", "none"]),
        default="any",
        show_default=True,
        help="Rows that raise the exit code, of those that the command is about: any, those of "
        "this run, or none.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """How a command speaks."""

    as_json: bool
    quiet: bool


@dataclass(frozen=True, kw_only=True)
class JobOptions(OutputOptions):
    """What `job_options` were given."""

    job: Path
    output: Path | None
    sandbox: bool


@dataclass(frozen=True, kw_only=True)
class SheetOptions(JobOptions):
    """What `sheet_options` were given."""

    input: Path | None
    limit: int | None
    max_paid: int | None
    base_url: str | None
    accept_changes: bool
    rate: float | None
    key_file: Path | None


@dataclass(frozen=True, kw_only=True)
class SendOptions(SheetOptions):
    """What `send_options` were given."""

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
class AgainOption:
    """Which ok rows `run` asks for again."""

    again: str | None


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Which rows `resume` chooses."""

    only: str | None
    except_: str | None
    rows: str | None
    ambiguous: bool


@dataclass(frozen=True, kw_only=True)
class RunCommand(AgainOption, SendOptions):
    """What `run` was given."""


@dataclass(frozen=True, kw_only=True)
class ResumeCommand(ResumeOptions, SendOptions):
    """What `resume` was given."""


@dataclass(frozen=True, kw_only=True)
class CheckCommand(AgainOption, ResumeOptions, SheetOptions):
    """What `check` was given."""

    resume: bool
