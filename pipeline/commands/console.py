"""Code that every command shares: finding its job, printing, and the exit code."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

import click

from pipeline.commands.options import (
    CheckCommand,
    ChoiceOptions,
    JobOptions,
    OutputOptions,
    ResumeCommand,
    RunCommand,
    SendOptions,
)
from pipeline.core.errors import DiskRefused, Interrupted, Locked, PipelineError, Refused
from pipeline.core.wording import json_line, printable

if TYPE_CHECKING:
    from pipeline.core.model import Summary
    from pipeline.job.job import Job
    from pipeline.planning.selection import RowNumbers, Selection
    from pipeline.show.choice import Choice

_USAGE_WORDS = (
    (r"not a valid integer( range)?\.", "not a whole number."),
    (r"not a valid float( range)?\.", "not a number."),
    (r"not in the range x>=(\S+)\.$", r"not \1 or more."),
    (r"not in the range x>(\S+)\.$", r"not above \1."),
    (r"not in the range (\S+?)<=x<=(\S+)\.$", r"not within \1 to \2."),
    (r"^(Got unexpected extra argument.*)", r"\1. A path with spaces in it needs quotes."),
)

# Commands to paste repeat the options that name the job, and those that change how rows are sent.
_OF_THE_JOB = ("output", "sandbox")
_OF_THE_ENGINE = ("engine", "ray_address", "workers")
_OVERRIDES = ("input", "max_paid", "concurrency", "rate", *_OF_THE_ENGINE)
_OF_SENDING = (*_OVERRIDES, "base_url", "key_file")


def job_said(said: JobOptions) -> Job:
    """Finds the job that the options name. Its commands to paste repeat the options of this one.

    Raises:
        Refused: for `--sandbox` with `--base-url`, and when there is no such job.
    """
    from pipeline.job.job import find_job

    if said.sandbox and getattr(said, "base_url", None):
        raise Refused("--sandbox starts a server on this machine. Leave out --base-url.")
    job = find_job(
        said.job,
        output=said.output,
        sandbox=said.sandbox,
        words=(str(said.job), *words_said(said, _OF_THE_JOB)),
        sending=words_said(said, _OF_SENDING) if isinstance(said, SendOptions) else None,
    )
    if isinstance(said, SendOptions):
        job = replace(job, limit=said.limit)
    own = words_said(said, _OF_SENDING)
    job = replace(job, withheld={n: value for n, value in job.withheld.items() if n not in own})
    return overridden(job, said)


def overridden(job: Job, said: JobOptions) -> Job:
    """Returns the job with the options that take the place of keys of its file."""
    given = {name: getattr(said, name, None) for name in _OVERRIDES}
    changed = {name: value for name, value in given.items() if value is not None}
    if "input" in changed:
        changed["input"] = changed["input"].absolute()
    if not changed:
        return job
    spec = job.to_run()
    # A message about the value of an option must not name a line of the job file.
    lines = {key: line for key, line in spec.lines.items() if key not in changed}
    return replace(job, spec=replace(spec, lines=lines, **changed))


def words_said(said: JobOptions, names: tuple[str, ...]) -> tuple[str, ...]:
    """The options among `names` that were given, as a user types them."""
    words: list[str] = []
    for name in names:
        given = getattr(said, name, None)
        for value in given if isinstance(given, tuple) else (given,):
            if value is not None and value is not False:
                words += [
                    f"--{name.strip('_').replace('_', '-')}",
                    *([] if value is True else [str(value)]),
                ]
    return tuple(words)


def codes_said(text: str | None) -> frozenset[str] | None:
    """The error codes of an option like ``timeout,gateway``."""
    return None if text is None else frozenset(code.strip() for code in text.split(","))


def rows_said(text: str | None) -> RowNumbers | None:
    """The rows of an option like ``3,7-9``."""
    from pipeline.planning.selection import parse_rows

    return None if text is None else parse_rows(text)


def choice_said(given: ChoiceOptions) -> Choice:
    """The rows that the options of `show` and `review` choose."""
    from pipeline.show.choice import Choice

    return Choice(
        rows=rows_said(given.rows),
        ids=given.ids,
        statuses=given.statuses,
        codes=codes_said(given.code) or (),
        flags=given.flags,
        find=given.find,
        sample=given.sample,
        seed=given.seed,
        limit=given.limit,
    )


def run_selection(said: RunCommand | CheckCommand) -> Selection:
    """The rows that the options of `run` choose.

    Raises:
        Refused: for --again with flags and rows, and for --rows without a flag.
    """
    from pipeline.planning.selection import Selection, parse_rows, select_again

    again, limit = frozenset(said.again), said.limit
    rows = {word for word in again if word.strip()[:1].isdigit()}
    flags = again - rows - {"all"}
    if bool(rows) + bool(flags) + ("all" in again) > 1:
        raise Refused(
            "--again takes flags, or rows such as 3,7-9, or all, and not several of these kinds. "
            "`--again FLAG --rows 3,7-9` chooses some of the rows with a flag."
        )
    if said.rows and not flags:
        raise Refused(
            "In `run`, --rows chooses some of the rows with a flag: `--again FLAG --rows 3,7-9`. "
            "`--again 3,7-9` asks again for any rows with an answer, and `resume --rows 3,7-9` "
            "sends failed rows."
        )
    if flags:
        return select_again(rows_said(said.rows), limit, flags=flags)
    if again:
        return select_again(parse_rows(",".join(said.again)) if rows else None, limit)
    return Selection(limit=limit)


def resume_selection(said: ResumeCommand | CheckCommand) -> Selection:
    """The rows that the options of `resume` choose."""
    from pipeline.planning.selection import select_resume

    return select_resume(
        only=codes_said(said.only),
        excluded=codes_said(said.except_),
        rows=rows_said(said.rows),
        ambiguous=said.ambiguous,
        limit=said.limit,
    )


def finish(said: JobOptions, work: Callable[[Job], int]) -> None:
    """Runs `work` on the job and exits with its code. A `PipelineError` becomes one message."""
    job = None
    try:
        job = job_said(said)
        code = work(job)
    except PipelineError as error:
        code = error.exit_code
        if isinstance(error, Locked) and getattr(said, "if_locked", None) == "skip":
            code = 0
        explain(error, job, said, code)
    sys.exit(code)


def explain(error: PipelineError, job: Job | None, said: OutputOptions, code: int) -> None:
    """Prints `error`, the money already spent and the next command; with `--json` the summary too.

    `code` is the exit code that follows: 0 where the user asked for this ending.
    """
    from pipeline.status.summary import as_json, summarize_error
    from pipeline.status.summary_lines import paid_line

    summary = summarize_error(job, error)
    if code or not said.quiet:
        tell(f"pipeline: {error}")
        if not isinstance(error, Refused) and summary.paid_max:
            tell(paid_line(summary, job is not None and job.sandbox))
        if job is not None and isinstance(said, SendOptions):
            tell(*_next_lines(error, job, summary))
    if said.as_json:
        # An ending that the user asked for, as with `--if-locked skip`, is not an error.
        word = "error" if code else "notice"
        print_json(as_json(summary) | {"exit_code": code, word: str(error)})


def _next_lines(error: PipelineError, job: Job, summary: Summary) -> list[str]:
    """What to do after a `run` or `resume` that did not finish. A refusal, and an error about
    damage, say so themselves."""
    from pipeline.status.summary import for_person
    from pipeline.status.summary_lines import next_lines

    if isinstance(error, Locked):
        return [f"To look at the other run: {job.command('status')}"]
    if isinstance(error, Interrupted | DiskRefused):
        return next_lines(for_person(job, summary), job.sandbox)
    return []


def show_usage(error: click.ClickException, hints: list[str]) -> None:
    """Prints what is wrong with a command line. `hints` replace click's own suggestions."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        tell(context.get_usage(), f"Try '{context.command_path} --help' for help.", "")
    tell(f"Error: {error.message if hints else in_plain_words(error)}", *hints, "Nothing was sent.")


def in_plain_words(error: click.ClickException) -> str:
    """click's message in words for people who are not programmers."""
    message = error.format_message()
    for theirs, ours in _USAGE_WORDS:
        message = re.sub(theirs, ours, message)
    return message


def person_there() -> bool:
    """Whether a question would reach a person: stdin and stderr are both a terminal, and the
    process is not in its background. The system stops a process that reads there."""
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # a terminal without job control
        return True


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal. It is None if the caller closed it."""
    return stream is not None and stream.isatty()


def confirm(question: str, request: str = "Do it?") -> bool:
    """Asks on the terminal. Ctrl-C needs Python's own handler for that, because the event loop,
    which usually handles it, is blocked until the answer."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return click.confirm(printable(f"{question}\n{request}"), err=True)
    finally:
        signal.signal(signal.SIGINT, handler)


def confirm_sending(question: str) -> bool:
    """Asks before requests that may be paid twice."""
    return confirm(question, "Send them?")


def fill_closed_streams() -> None:
    """Opens /dev/null in place of a stdin, stdout or stderr that the caller closed.

    Otherwise the next file that is opened, such as the ledger, would get that number, and libraries
    would write their warnings into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one


def tell(*lines: str) -> None:
    """Prints messages on stderr."""
    for line in lines:
        _echo(printable(line), sys.stderr)


def answer(said: JobOptions, *lines: str) -> None:
    """Prints the result of a command that only reads: on stdout, for a pager or grep.

    With `--json` it goes to stderr, because stdout then has the JSON object alone.
    """
    for line in lines:
        _echo(printable(line), sys.stderr if said.as_json else sys.stdout)


def show_run(job: Job, summary: Summary, said: JobOptions) -> None:
    """Prints the summary of a job after a command that changed it: on stderr, JSON on stdout."""
    from pipeline.status.exit_codes import needs_person
    from pipeline.status.summary import as_json

    if not said.quiet or needs_person(summary):
        tell(*_summary_lines(job, summary, job.command("report")))
    if said.as_json:
        print_json(as_json(summary))


def show(job: Job, summary: Summary, said: JobOptions) -> None:
    """Prints the summary of a job as the result of a command that only reads."""
    from pipeline.status.exit_codes import needs_person

    if not said.quiet or needs_person(summary):
        answer(said, *_summary_lines(job, summary))


def _summary_lines(job: Job, summary: Summary, report_command: str | None = None) -> list[str]:
    from pipeline.status.summary import for_person
    from pipeline.status.summary_lines import summary_lines

    lines = summary_lines(for_person(job, summary), report_command, rehearsal=job.sandbox)
    return [*lines, *_export_lines(job, summary)]


def _export_lines(job: Job, summary: Summary) -> list[str]:
    """The command that brings the answers home, once every row has ended. If another command comes
    first, because it sends failed rows again, this one is not the next."""
    if summary.pending or not summary.ok:
        return []
    from pipeline.results.proposed_export import proposed_export

    command = proposed_export(job, summary.ambiguous)
    before = "To export the answers so far" if summary.resume_command else "Next"
    return [f"{before}: {command}"] if command else []


def print_json(found: dict[str, Any]) -> None:
    """Prints one JSON object as one line on stdout."""
    _echo(json_line(found), sys.stdout)


def pour(texts: Iterable[str]) -> bool:
    """Prints texts that were made for reading on stdout, one at a time. Returns false if the reader
    has gone away before the end.

    Raises:
        DiskRefused: when stdout is a file that cannot be written. A part of the rows must not look
            like all of them.
    """
    _accept_all(sys.stdout)
    for text in texts:
        try:
            click.echo(text, sys.stdout, nl=False)
        except BrokenPipeError:
            _write_no_more(sys.stdout)
            return False
        except OSError as error:
            _write_no_more(sys.stdout)
            raise DiskRefused(
                f"The rows could not be printed on stdout ({error.strerror})."
            ) from None
    return True


def page_through(texts: Iterator[str], colour: bool) -> None:
    """Shows texts in the user's pager, each when the pager wants it."""
    click.echo_via_pager(texts, color=None if colour else False)


def _accept_all(stream: TextIO) -> None:
    """Prints ? for a character that the terminal's encoding does not have."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")


def _write_no_more(stream: TextIO) -> None:
    """At exit Python would try again to write the rest, fail, and change the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _echo(line: str, stream: TextIO | None) -> None:
    """Prints a line. A reader that has gone away does not change the exit code of the work."""
    if stream is None:
        return
    try:
        click.echo(line, stream)
    except OSError:
        _write_no_more(stream)
