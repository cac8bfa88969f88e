"""Shows what a run would do. Sends nothing and changes nothing in the run folder."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.core.errors import Refused
from pipeline.core.model import SANDBOX_HOST, TEXT_RULES, JsonObject, Row, State
from pipeline.core.wording import NAMED
from pipeline.inputs.checks import SKIP_NAMES, Skip
from pipeline.inputs.facts import VariableFacts, describe
from pipeline.inputs.identity import SheetKeys, digests
from pipeline.inputs.row_names import RowNames, row_names
from pipeline.inputs.stored import find_snapshot, stored_keys
from pipeline.inputs.unseen import SheetFacts
from pipeline.job.access import RunKey, find_access, find_host
from pipeline.job.job import Job
from pipeline.job.spec import JobSpec
from pipeline.ledger import queries, reader
from pipeline.ledger.integrity import checked_beside
from pipeline.ledger.reader import Read
from pipeline.ledger.shown import shown_state
from pipeline.planning.changes import count_other_rows
from pipeline.planning.consent import plan_of, questions, refuse_impossible
from pipeline.planning.drift import Drift, drift
from pipeline.planning.prepared import Prepared
from pipeline.planning.repaid import Repaid, refuse_repaying
from pipeline.planning.reviewed import refuse_paying_reviewed
from pipeline.planning.selection import Selection
from pipeline.results.column_facts import ColumnsFacts, column_facts
from pipeline.run.prepare import open_sheet, prepare, with_text_rules
from pipeline.run.stages import with_source
from pipeline.sending.engines.needed import check_engine
from pipeline.sending.kept_pace import kept_pace

FIRST_BODIES = 3


@dataclass(frozen=True, slots=True)
class Body:
    """The exact text of one request, and the number of its row in the sheet."""

    row: int
    body: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What a run would find and send. The counts of rows by state are those of the current sheet.

    * `to_send`: rows to send, which is also the most requests that can be paid for.
      `requests_at_most` also counts the retries of failed requests. `paid_at_most` is the part of
      `to_send` that `max_paid` still allows, and `paid_max` the number of requests that were or
      may have been paid so far.
    * `equal_rows`: rows with the same text as an earlier row. Under `dedupe` only the earlier row
      is sent.
    * `repaid`: rows to send that were already paid under other settings.
    * `failed_maybe_paid`: failed rows to send again whose last request may have been paid.
    * `stale`: rows to send that have a paid answer to an earlier text of the job that they come
      from, which `source` names. `paid_source`: this is a rehearsal, and it reads the paid answers
      of that job.
    * `text_rules`: the number of the rules by which cells become text here. Under the newest rules,
      `new_under_newest_rules` finished rows would have another text and so be new.
    * `skipped_by`: skipped rows by reason.
    * `kept_by_review`: changed rows that are not sent, because a person approved or edited the
      answer to the earlier text. They keep that answer, and count as ok.
    * `sheet`: what the user of the sheet may not see, such as hidden rows. `hidden` is what happens
      to those: send or skip.
    * `pace_per_s`: `rate:`, or what earlier runs learned of the key, None if neither is known.
      `duration_s` is the time in seconds that `paid_at_most` requests take at that pace.
    * `in_use`: another run is active, so a second one would be refused.
    * `drift`: the changes of the sheet since the last run, None before the first run.
    * `columns`: how well `columns:` fits the answers of the last run, None without columns.
    * `other_rows`: rows whose answer or whose cells in any column may be others after the run.
    * `locked_folders`: run folders that may have paid for these rows too. The runner could not
      look, because another program has locked the ledger.
    * `questions`: the questions that the user would be asked first.
    * `names`: the first rows as the user's program names them. It is not in JSON.
    * `plan`: the token with which `run --plan` carries out exactly this plan.
    * `refusal`: why a run would be refused, if the reason is a changed job file or an address or
      file under `notify:`.
    """

    job: str
    rows: int
    ok: int
    failed: int
    ambiguous: int
    pending: int
    skipped: int
    to_send: int
    repaid: int
    failed_maybe_paid: list[int]
    stale: int
    source: str | None
    paid_source: bool
    text_rules: int
    new_under_newest_rules: int
    paid_at_most: int
    paid_max: int
    requests_at_most: int
    equal_rows: int
    dedupe: bool
    pace_per_s: float | None
    pace_learned: bool
    duration_s: float | None
    new_folder: bool
    in_use: bool
    drift: Drift | None
    skipped_by: dict[str, int]
    kept_by_review: list[int]
    sheet: SheetFacts
    hidden: str
    empty_cells: dict[str, int]
    variables: list[VariableFacts]
    first_bodies: list[Body]
    columns: ColumnsFacts | None
    other_rows: int
    locked_folders: list[str]
    questions: list[str]
    plan: str
    refusal: str | None
    names: RowNames


def checked_json(checked: Checked) -> JsonObject:
    """The JSON object of `check`, without the exit code."""
    found = asdict(checked)
    del found["names"]
    return found


def check_job(
    job: Job,
    *,
    base_url: str | None = None,
    key_file: Path | None = None,
    selection: Selection | None = None,
    accept_changes: bool = False,
) -> Checked:
    """Reads job file and sheet as a run would, and returns what the run would send.

    Raises:
        Refused: for everything that a run would refuse, except for the reasons that the result
            has in `refusal`.
        StorageFailed: when the ledger cannot be read.
    """
    job = with_text_rules(with_source(job), accept_changes=accept_changes)
    spec, selection = job.to_run(), selection or Selection()
    in_use = job.folder.in_use  # read first: if a run ends meanwhile, it has nothing in flight
    if spec.notify is not None and not job.sandbox:
        from pipeline.notify.telemetry import find_telemetry  # few jobs notify anybody

        find_telemetry(spec)
    check_engine(spec)
    job.folder.refuse_unusable()
    if not job.sandbox:
        job.folder.refuse_lost_layer()
    reader.refuse_lost(job.folder.ledger, job.folder.trace)
    sheet = open_sheet(spec, job.folder)
    host = SANDBOX_HOST if job.sandbox else find_host(base_url)
    key = RunKey(key_file)
    with (
        tempfile.TemporaryDirectory(prefix="pipeline-check-") as temporary,
        reader.reading(job.folder.ledger) as read,
    ):
        path = Path(temporary) / "input.parquet"
        with checked_beside(job.folder.ledger):
            prepared = prepare(job, sheet, host, selection, read, path)
        plan = prepared.plan
        refuse_impossible(job, prepared, selection, read)
        _, paid_max = read(queries.paid)
        paid = plan.paid_at_most(spec.budget(paid_max))
        pace, learned = _pace(job, spec, base_url, key)
        states = _shown(plan.counts, in_use)
        variables = describe(path, prepared.variables.sources)
        bodies = [Body(row.number, row.body.decode()) for row in _first(spec, prepared)]
        return Checked(
            job=job.name,
            rows=prepared.snapshot.rows,
            ok=states[State.OK],
            failed=states[State.FAILED],
            ambiguous=states[State.AMBIGUOUS],
            pending=states[State.PENDING],
            skipped=prepared.skips.total(),
            to_send=plan.to_send,
            repaid=prepared.repaid.requests,
            failed_maybe_paid=sorted(plan.risky[State.FAILED]),
            stale=prepared.stale,
            source=None if sheet.table.source is None else spec.input.name,
            paid_source=prepared.paid_source,
            text_rules=spec.text_rules,
            new_under_newest_rules=_under_newest_rules(job, host, selection, path),
            paid_at_most=paid,
            paid_max=paid_max,
            requests_at_most=plan.to_send * (1 + spec.retries),
            equal_rows=prepared.snapshot.equal_rows,
            dedupe=spec.dedupe,
            pace_per_s=pace,
            pace_learned=learned,
            duration_s=None if pace is None else round(paid / pace, 1),
            new_folder=not job.folder.ledger.exists(),
            in_use=in_use,
            drift=_drift(job, spec, prepared, read),
            skipped_by=_skipped_by(prepared.skips),
            kept_by_review=sorted(prepared.by_review.rows),
            sheet=prepared.snapshot.facts,
            hidden=spec.hidden,
            empty_cells=dict(prepared.snapshot.empty_cells),
            variables=variables,
            first_bodies=bodies,
            columns=column_facts(job, read),
            other_rows=_other_rows(job, prepared, read),
            locked_folders=[str(path) for path in prepared.neighbours.locked],
            questions=[question.text for question in questions(job, prepared)],
            plan=plan_of(job, prepared, selection, read),
            refusal=_refusal(job, prepared, accept_changes, key, read),
            names=row_names(path, _shown_rows(variables, bodies, prepared)),
        )


def _shown_rows(
    variables: list[VariableFacts], bodies: list[Body], prepared: Prepared
) -> Iterator[int]:
    yield from (body.row for body in bodies)
    yield from sorted(prepared.by_review.rows)[:NAMED]
    yield from sorted(prepared.plan.risky[State.FAILED])[:NAMED]
    for facts in variables:
        rows = (facts.shortest_row, facts.longest_row, facts.marked_row)
        yield from (row for row in rows if row is not None)


def _under_newest_rules(job: Job, host: str, selection: Selection, path: Path) -> int:
    """Returns how many finished rows would have another text under the newest text rules."""
    spec = replace(job.to_run(), text_rules=TEXT_RULES)
    if spec == job.to_run():
        return 0
    newest = path.with_name("newest.parquet")
    try:
        sheet = open_sheet(spec, job.folder)
        with reader.reading(job.folder.ledger) as read:
            moved = replace(job, spec=spec)
            return prepare(moved, sheet, host, selection, read, newest).repaid.requests
    except Refused:  # the newest rules refuse this sheet, so nothing of it would be sent
        return 0


def _shown(held: Counter[State], in_use: bool) -> Counter[State]:
    states: Counter[State] = Counter()
    for state, rows in held.items():
        states[shown_state(state, in_use)] += rows
    return states


def _refusal(
    job: Job, prepared: Prepared, accept_changes: bool, key: RunKey, read: Read
) -> str | None:
    """Returns why a run would be refused although its sheet can be sent, None if it would not."""
    spec = job.to_run()
    try:
        if accept_changes:
            refuse_paying_reviewed(job, prepared, read, accepting=True)
        repaid = Repaid() if accept_changes else prepared.repaid
        refuse_repaying(spec, repaid, rehearsal=job.sandbox)
        if spec.notify is not None and not job.sandbox:  # a rehearsal notifies no address
            from pipeline.notify.endpoint import own_textfile, told_endpoints

            told_endpoints(spec, key.in_use())
            own_textfile(spec)
    except Refused as error:
        return str(error)
    return None


def _pace(job: Job, spec: JobSpec, base_url: str | None, key: RunKey) -> tuple[float | None, bool]:
    """Returns (requests per second, whether earlier runs learned it).

    A rehearsal learns nothing. Without a key there is no limit to look up.
    """
    if spec.rate is not None:
        return spec.rate, False
    if job.sandbox:
        return None, False
    try:
        access = find_access(base_url, key)
    except Refused:
        return None, False
    kept = kept_pace(access.host, access.key)
    learned = kept.recall(time.time()) if kept else None
    if learned is None:
        return None, False
    return learned.limit * learned.g / learned.window_s, True


def _skipped_by(skips: Counter[Skip]) -> dict[str, int]:
    return {name: skips[reason] for reason, name in SKIP_NAMES.items() if skips[reason]}


def _drift(job: Job, spec: JobSpec, prepared: Prepared, read: Read) -> Drift | None:
    last = find_snapshot(job.folder.snapshots, read(queries.meta(queries.SNAPSHOT)))
    if last is None:
        return None
    snapshot = prepared.snapshot
    if spec.id is not None:
        return drift(stored_keys(last, spec.id), stored_keys(snapshot.path, spec.id))
    now = SheetKeys(snapshot.numbers, digests(snapshot.identities), None)
    return drift(stored_keys(last, None), now)


def _other_rows(job: Job, prepared: Prepared, read: Read) -> int:
    last = find_snapshot(job.folder.snapshots, read(queries.meta(queries.SNAPSHOT)))
    snapshot, plan = prepared.snapshot, prepared.plan
    answered = int(plan.weights[plan.send].sum())
    return count_other_rows(last, snapshot.path, snapshot.rows) + answered


def _first(spec: JobSpec, prepared: Prepared) -> Iterator[Row]:
    """Yields the first rows that would be sent. If none would, the first rows of the sheet."""
    plan, snapshot = prepared.plan, prepared.snapshot
    wanted = plan.send if plan.to_send else np.ones_like(plan.send)
    return islice(snapshot.selected(spec, prepared.variables, wanted), FIRST_BODIES)
