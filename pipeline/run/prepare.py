"""Makes the plan from the sheet and the ledger, before anything is changed or sent.

`run` carries the plan out. `check` only shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import Refused
from pipeline.core.model import SANDBOX_HOST, TEXT_RULES, Alike, State
from pipeline.core.wording import NAMED
from pipeline.inputs.checks import Skip
from pipeline.inputs.formats import open_table
from pipeline.inputs.identity import KEY_BYTES
from pipeline.inputs.mapping import bind
from pipeline.inputs.row_names import no_such_row, row_names
from pipeline.inputs.snapshot import Snapshot, take_snapshot
from pipeline.inputs.stored import find_snapshot
from pipeline.inputs.table import SourceJob
from pipeline.inputs.where import refuse_unknown_columns
from pipeline.job.exports import read_exports
from pipeline.job.job import Job
from pipeline.job.run_folder import RunFolder
from pipeline.job.spec import JobSpec
from pipeline.ledger import matching, queries
from pipeline.ledger.pins import folder_rules
from pipeline.ledger.reader import Read, reading
from pipeline.ledger.reviews import Reviews, read_reviews
from pipeline.planning.changes import MovedRow, find_mass_change, find_moved, find_stale
from pipeline.planning.pinned_settings import read_pins
from pipeline.planning.plan import Plan, add_batch, empty_plan, finish_plan, keep_rows
from pipeline.planning.prepared import KeptByReview, Neighbours, OpenSheet, Prepared
from pipeline.planning.repaid import find_repaid
from pipeline.planning.reviewed import find_kept, linked
from pipeline.planning.selection import Flagged, Selection
from pipeline.run.neighbours import find_neighbours
from pipeline.system.opening import HeldFile
from pipeline.system.paths import resolved

_LOOK_UP_ROWS = 10_000
# A signal waits for one step: a million rows take 0.6 s.
_IN_PLACE_ROWS = 200_000


def with_text_rules(job: Job, *, accept_changes: bool) -> Job:
    """Returns the job with the text rules of its run folder, by which cells become text, and with
    the columns that exports of the folder added.

    A new folder has the newest rules. So has any folder if the user accepts what a change costs.

    Raises:
        Refused: when a newer release wrote the folder.
        StorageFailed: when the ledger cannot be read.
    """
    with reading(job.folder.ledger) as read:
        rules = TEXT_RULES if accept_changes else folder_rules(read)
    exported = read_exports(job.folder).columns
    return replace(job, spec=replace(job.to_run(), text_rules=rules, exported=exported))


def open_sheet(spec: JobSpec, folder: RunFolder) -> OpenSheet:
    """Opens the sheet of `spec`.

    Raises:
        Refused: when it cannot be read, lacks a mapped column, or is a file of this run folder.
    """
    file = spec.input
    if isinstance(file, Path) and resolved(file).parent == resolved(folder.path):
        raise Refused(
            f"{file}: this file is in the job's own run folder, so it cannot be the job's "
            "sheet. To send failed rows again, use `pipeline resume`. To use the file as the sheet "
            "of another job, give that job another `output:`."
        )
    table = open_table(spec)
    refuse_unknown_columns(spec, table.columns)
    return OpenSheet(table, bind(spec, table.columns))


def prepare(
    job: Job, sheet: OpenSheet, host: str, selection: Selection, read: Read, path: Path
) -> Prepared:
    """Reads the sheet into a snapshot at `path` and compares it with the ledger.

    Does not verify the ledger's checksums: the caller does that with `integrity.check_ledger`.

    Raises:
        Refused: for a sheet that cannot be sent, for chosen rows that it does not have, for flags
            that no answer can have, and for another host than that of earlier runs.
        StorageFailed: when the snapshot cannot be written, or the ledger is damaged.
    """
    spec = job.to_run()
    source = sheet.table.source
    if source is not None:
        _refuse_other_host(source, spec, host)
    pins = read_pins(read, spec, sheet.variables, host, source)
    reviews = read_reviews(job.folder, read)
    flagged = _flagged(job, selection, read, reviews)
    last = find_snapshot(job.folder.snapshots, read(queries.meta(queries.SNAPSHOT)))
    if last is not None and last.path == path:  # the new snapshot is about to replace it
        last = None
    skip_ambiguous = State.AMBIGUOUS not in selection.states
    snapshot = take_snapshot(
        spec, sheet.table, sheet.variables, path, skip_ambiguous=skip_ambiguous, last=last
    )
    if selection.rows is not None and selection.rows.last > snapshot.rows:
        raise Refused(no_such_row(selection.rows.last, spec.input.name, snapshot.rows, path))
    read(matching.protect(reviews.protected))
    plan = _lay_over(spec, snapshot, selection, flagged, read)
    read(matching.check_absent)
    skips, kept = _keep_answers(spec, snapshot, plan, read)
    by_review = KeptByReview(last_review=reviews.last)
    if reviews.protected and not pins.changed:  # else `repaid` finds the reviewed answers
        by_review = _keep_reviewed(spec, last, snapshot, plan, reviews.last, read)
    _share(snapshot, by_review, read)
    repaid = find_repaid(spec, snapshot, sheet.variables, pins, plan, read)
    moved = find_moved(spec, last, snapshot, selection.rows)
    mass_change = None if pins.changed else find_mass_change(spec, last, snapshot, plan, read)
    neighbours = Neighbours()
    known = read(queries.last_change) != (0, 0)
    # Who sends ambiguous rows of an export to another folder has said so: --ambiguous.
    if plan.to_send and host != SANDBOX_HOST and not (known and not skip_ambiguous):
        neighbours = find_neighbours(spec, job.folder, host, snapshot, plan, known=known)
    return Prepared(
        snapshot,
        sheet.variables,
        plan,
        pins,
        skips,
        kept,
        repaid,
        moved,
        mass_change,
        neighbours,
        row_names(snapshot.path, _to_name(plan, moved, by_review)),
        flagged,
        find_stale(spec, snapshot, plan, read),
        reviews,
        by_review,
        source is not None and host == SANDBOX_HOST != source.host,
    )


def _refuse_other_host(source: SourceJob, spec: JobSpec, host: str) -> None:
    """Refuses answers of another host, such as those of a rehearsal, in a paid job."""
    if host not in (SANDBOX_HOST, source.host):
        kind = "a rehearsal" if source.host == SANDBOX_HOST else source.host
        raise Refused(
            f"{spec.at('input')}: the answers of {spec.input.name} are those of {kind}, and this "
            f"job sends to {host}. Nothing was sent. Run {spec.input.name} there first."
        )


def _flagged(job: Job, selection: Selection, read: Read, reviews: Reviews) -> Flagged | None:
    """Returns the rows that the flags of `selection` choose, None if it has no flags."""
    if not selection.flags:
        return None
    # Imported here, because no other plan reads answers.
    from pipeline.run.flagged import find_flagged

    return find_flagged(job, selection.flags, read, reviews)


def _to_name(plan: Plan, moved: Sequence[MovedRow], by_review: KeptByReview) -> Iterator[int]:
    """Yields the rows that a question or a notice may name: the first ones of each list."""
    left = (plan.given_up_left, plan.tried_left, plan.reviewed_left, by_review.rows)
    for numbers in (*plan.risky.values(), *left):
        yield from sorted(numbers)[:NAMED]
    yield from (row.number for row in moved[:NAMED])


def _keep_answers(
    spec: JobSpec, snapshot: Snapshot, plan: Plan, read: Read
) -> tuple[Counter[Skip], int]:
    """Counts skipped rows that already have a paid answer as ok.

    Returns the skipped rows without an answer, by reason, and the number of those with one.
    """
    if not snapshot.skipped_rows:
        return Counter(), 0
    wanted = [(row.number, row.name) for row in snapshot.skipped_rows]
    kept = set(read(matching.keep_answers(wanted, deduped=spec.dedupe)))
    plan.counts[State.OK] += len(kept)
    plan.kept[State.OK] += len(kept)
    without = (row.reason for row in snapshot.skipped_rows if row.number not in kept)
    return Counter(without), len(kept)


def _lay_over(
    spec: JobSpec, snapshot: Snapshot, selection: Selection, flagged: Flagged | None, read: Read
) -> Plan:
    """Returns the plan, after looking up every row in the ledger except duplicates."""
    duplicates = snapshot.duplicates
    plan = empty_plan(snapshot.rows, selection, duplicates, snapshot.numbers)
    firsts = np.flatnonzero(~np.isin(snapshot.numbers, duplicates.numbers, assume_unique=True))
    if read(matching.begin_deduped if spec.dedupe else matching.begin):
        left = firsts if spec.dedupe else _add_in_place(plan, snapshot, selection, flagged, read)
        for start in range(0, len(left), _LOOK_UP_ROWS):
            positions = left[start : start + _LOOK_UP_ROWS]
            held = _held(spec, snapshot, positions, read)
            add_batch(plan, snapshot.numbers[positions], held, selection, flagged)
    else:  # a look-up takes 3 microseconds per row, and a new ledger is empty
        add_batch(plan, snapshot.numbers[firsts], (), selection, flagged)
    finish_plan(plan, duplicates)
    return plan


def _add_in_place(
    plan: Plan, snapshot: Snapshot, selection: Selection, flagged: Flagged | None, read: Read
) -> npt.NDArray[np.int64]:
    """Adds the finished rows that stand where they stood at the last run: of a long sheet nearly
    all. Returns the positions of the others in the snapshot."""
    names = np.zeros((snapshot.rows, KEY_BYTES), dtype=np.uint8)
    flat = np.frombuffer(snapshot.identities, np.uint8)
    names[snapshot.numbers - 1] = flat.reshape(-1, KEY_BYTES)
    names[snapshot.numbers[snapshot.occurrences > 0] - 1] = 0
    left = np.ones(snapshot.rows, dtype=np.bool_)
    for first in range(1, read(matching.last_row) + 1, _IN_PLACE_ROWS):
        span = range(first, first + _IN_PLACE_ROWS)
        alike = read(matching.find_in_place(names.data, span))
        add_batch(plan, alike.numbers, [alike], selection, flagged)
        left[alike.numbers - 1] = False
    return np.flatnonzero(left[snapshot.numbers - 1])


def _share(snapshot: Snapshot, by_review: KeptByReview, read: Read) -> None:
    """Records the duplicates, except those that keep the answer of a review."""
    kept = np.fromiter(by_review.rows, np.int64, len(by_review.rows))
    sent = ~np.isin(snapshot.duplicates.numbers, kept)
    numbers, firsts = snapshot.duplicates.numbers[sent], snapshot.duplicates.firsts[sent]
    for start in range(0, len(numbers), _LOOK_UP_ROWS):
        span = slice(start, start + _LOOK_UP_ROWS)
        pairs = zip(numbers[span].tolist(), firsts[span].tolist(), strict=True)
        read(matching.share(list(pairs)))


def _keep_reviewed(
    spec: JobSpec,
    last: HeldFile | None,
    snapshot: Snapshot,
    plan: Plan,
    last_review: int,
    read: Read,
) -> KeptByReview:
    """Gives changed rows the reviewed answer to their earlier text, instead of sending them."""
    protected = read(matching.protected_rows)
    before = read(queries.kept_by_review)
    found = find_kept(spec, last, snapshot, plan, protected, before)
    keep_rows(plan, found)
    links = linked(spec, snapshot, found, before, {one.row_id for one in protected})
    for number, first in zip(
        snapshot.duplicates.numbers.tolist(), snapshot.duplicates.firsts.tolist(), strict=True
    ):
        if first in found:
            found[number] = found[first]
    read(matching.keep_reviewed(found))
    return KeptByReview(found, None if links == before else links, last_review)


def _held(
    spec: JobSpec, snapshot: Snapshot, positions: npt.NDArray[np.int64], read: Read
) -> list[Alike]:
    """Looks up the rows at some positions of the snapshot in the ledger.

    Under `dedupe: true` they are looked up by row key, and from then on have the identity and
    occurrence that the ledger has for that key.
    """
    numbers = snapshot.numbers[positions].tolist()
    if not spec.dedupe:
        ranks = snapshot.occurrences[positions].tolist()
        identities = map(snapshot.identity_at, positions.tolist())
        return read(matching.look_up(list(zip(numbers, identities, ranks, strict=True))))
    keys = map(snapshot.row_key_at, positions.tolist())
    wanted = [(number, key, 0) for number, key in zip(numbers, keys, strict=True)]
    held = read(matching.look_up(wanted, deduped=True))
    position_of = dict(zip(numbers, positions.tolist(), strict=True))
    for number, name, rank in read(matching.names):
        snapshot.rename(position_of[number], name, rank)
    return held
