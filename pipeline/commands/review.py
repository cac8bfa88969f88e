"""`pipeline review`: approves, edits and rejects answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import (
    answer,
    choice_said,
    confirm,
    finish,
    person_there,
    pour,
    print_json,
    tell,
)
from pipeline.commands.help import REVIEW, command, option
from pipeline.commands.options import (
    JOB,
    JSON,
    OUTPUT_FOLDER,
    PATH,
    QUIET,
    SANDBOX,
    ChoiceOptions,
    JobOptions,
    choice_of,
    choice_options,
    options,
)
from pipeline.core.review import Decision
from pipeline.core.wording import counted, printable

if TYPE_CHECKING:
    from collections import Counter

    from pipeline.job.job import Job
    from pipeline.review.decide import Reviewed
    from pipeline.review.sheet import Imported
    from pipeline.show.rows import Shown

# What a run does with the answers that have a decision.
_MEANS = {
    Decision.APPROVED: "No run asks for another answer.",
    Decision.EDITED: "Exports have your text, and no run asks for another answer.",
    Decision.REJECTED: "To ask for other answers: {again}",
    Decision.RESET: "The earlier decisions no longer count.",
}


@command("Approve, edit or reject answers.")
@options(
    JOB,
    option("--approve", is_flag=True, group=REVIEW, help="Never ask for another answer."),
    option("--reject", is_flag=True, group=REVIEW, help="`run --again rejected` asks again."),
    option("--edit", type=PATH, group=REVIEW, help="Put the text of this file in its place."),
    option("--reset", is_flag=True, group=REVIEW, help="Undo the earlier decisions."),
    option(
        "--column",
        metavar="NAME",
        group=REVIEW,
        help="With --edit or --reset: only this column of `columns:`.",
    ),
    option(
        "--from", "sheet", type=PATH, group=REVIEW, help="Take the decisions of a review sheet."
    ),
    option("--yes", is_flag=True, group=REVIEW, help="Also for other rows with the same answer."),
    choice_options("reviews"),
    OUTPUT_FOLDER,
    SANDBOX,
    JSON,
    QUIET,
)
def review(
    approve: bool,
    reject: bool,
    edit: Path | None,
    reset: bool,
    column: str | None,
    sheet: Path | None,
    yes: bool,
    **given: Any,
) -> None:
    """Approves, edits or rejects answers of JOB. Without a decision, it lists the reviews.

    \b
    Examples:
      pipeline review jobs/stories.yaml --rows 3,7-9 --approve
      pipeline review jobs/stories.yaml --id SKU-17 --edit better.txt
      pipeline review jobs/stories.yaml --from review.xlsx

    An approved or edited answer is never paid again. Works during a run.
    """
    wanted, said = choice_of(given), JobOptions(**given)
    decision = _decision(approve, edit is not None, reject, reset)
    _check_usage(wanted, decision, column, sheet)

    def work(job: Job) -> int:
        if sheet is not None:
            from pipeline.review.sheet import review_from

            _show_imported(job, review_from(job, sheet), said)
        elif decision is None:
            _list(job, wanted, said)
        else:
            from pipeline.review.decide import decide

            text = None if edit is None else _text_of(edit)
            ask = confirm if person_there() else None
            found = decide(job, decision, choice_said(wanted), text, column, ask=ask, yes=yes)
            _show_reviewed(job, found, said)
        return 0

    finish(said, work)


def _decision(approve: bool, edit: bool, reject: bool, reset: bool) -> Decision | None:
    given = dict(zip(Decision, (approve, edit, reject, reset), strict=True))
    chosen = [decision for decision, is_given in given.items() if is_given]
    if len(chosen) > 1:
        raise click.UsageError("Use only one of --approve, --edit, --reject and --reset.")
    return chosen[0] if chosen else None


def _check_usage(
    wanted: ChoiceOptions, decision: Decision | None, column: str | None, sheet: Path | None
) -> None:
    if sheet is not None and not (wanted.none_given and decision is None and column is None):
        raise click.UsageError("--from takes the rows and the decisions from the sheet alone.")
    if decision is not None and wanted.none_given:
        raise click.UsageError("Choose the rows, such as --rows 3,7-9, --id ID or --status ok.")
    if column is not None and decision not in (Decision.EDITED, Decision.RESET):
        raise click.UsageError("--column needs --edit or --reset.")


def _text_of(path: Path) -> str:
    """The text of a file without the line end that an editor puts at its end."""
    from pipeline.core.errors import Refused
    from pipeline.review.decide import MAX_EDIT_CHARACTERS
    from pipeline.system.opening import read_file

    try:
        text = read_file(path, 4 * MAX_EDIT_CHARACTERS, follow=True).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Refused(
            f"{path}: the file cannot be read ({problem}).", closing="Nothing was saved."
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def _show_reviewed(job: Job, found: Reviewed, said: JobOptions) -> None:
    if not said.quiet:
        means = _MEANS[found.decision].format(again=job.command("run", "--again", "rejected"))
        tell(f"{counted(len(found.rows), 'row')} {found.decision}: {found.named}. {means}")
        if found.unanswered:
            tell(f"{counted(found.unanswered, 'chosen row')} left out: no answer yet.")
        if found.shared:
            tell(
                f"{counted(len(found.shared), 'other row')} with the same answer "
                f"{'has' if len(found.shared) == 1 else 'have'} the decision too."
            )
    if said.as_json:
        print_json(
            {
                "decision": found.decision,
                "rows": list(found.rows),
                "unanswered": found.unanswered,
                "shared": list(found.shared),
            }
        )


def _show_imported(job: Job, found: Imported, said: JobOptions) -> None:
    counts = {str(decision): found.stored[decision] for decision in Decision}
    if not said.quiet:
        named = [f"{number} {word}" for word, number in counts.items() if number]
        tell(
            f"Decisions saved: {', '.join(named) or 'none'}. Lines without one: {found.unchanged}."
        )
        if found.stored[Decision.REJECTED]:
            tell(_MEANS[Decision.REJECTED].format(again=job.command("run", "--again", "rejected")))
    if said.as_json:
        print_json({"stored": counts, "unchanged": found.unchanged})


def _list(job: Job, wanted: ChoiceOptions, said: JobOptions) -> None:
    from pipeline.review.decide import reviewed_rows

    with reviewed_rows(job, choice_said(wanted)) as (shown, counts):
        if said.as_json:
            from pipeline.show.as_json import row_json

            columns = shown.source.columns.columns
            pour(row_json(row, columns, versions=False) + "\n" for row in shown.rows())
            print_json({"reviews": dict(counts)})
            return
        if not said.quiet:
            answer(said, f"{job.name}: {_counts(counts)}.")
        pour(_lines(shown))


def _counts(counts: Counter[str]) -> str:
    named = [f"{counts[word]} {word}" for word in Decision if counts[word]]
    return ", ".join(named) if named else "no answer is reviewed"


def _lines(shown: Shown) -> Iterator[str]:
    for row in shown.rows():
        yield printable(f"{row.name}: {row.review}") + "\n"
