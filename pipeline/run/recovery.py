"""Repairs a run folder after any kind of ending. Sends nothing."""

from __future__ import annotations

from dataclasses import replace

from pipeline.core.events import Listener, Notice
from pipeline.core.model import Reply, Verdict
from pipeline.core.wording import counted
from pipeline.inputs.stored import find_snapshot
from pipeline.job.run_folder import RunFolder
from pipeline.ledger import queries
from pipeline.ledger.ledger import SqliteLedger
from pipeline.ledger.queries import Unread
from pipeline.planning.pinned_settings import pinned_workflow
from pipeline.policy.answer import classify
from pipeline.results.failures_csv import rewrite_failures
from pipeline.results.sealing import Sealer
from pipeline.sending.engines.decoding import readings


def recover(
    folder: RunFolder, ledger: SqliteLedger, workflow: str, tell: Listener
) -> frozenset[int]:
    """Finishes what a killed run left half done, and reads answers that no earlier release could.

    Marks the rows that were in flight ambiguous, seals answers into parts, and adopts a snapshot
    that the ledger already names. `workflow` is the one in the current job file. Returns the
    ledger's ids of the rows that were in flight. May be called twice.

    Raises:
        StorageFailed: when the disk refuses a write, or the folder is damaged.
    """
    cut = ledger.recover()
    read = read_again(ledger)
    if read:
        number = counted(read, "answer")
        tell(
            Notice(
                f"The runner can now read {number} that it could not read before. No row was sent "
                "again for this."
            )
        )
    # Unsealed answers belong to the workflow of the run that got them, not to a newer one.
    sealer = Sealer(ledger, folder.results, pinned_workflow(ledger.read) or workflow)
    sealer.recover()
    sealer.seal_all()
    current = ledger.read(queries.meta(queries.SNAPSHOT))
    if current and find_snapshot((folder.new_snapshot,), current):
        folder.adopt_snapshot()
    if read:  # written now: the run that follows may be refused and then writes no file
        rewrite_failures(folder, ledger.read)
    if cut:
        tell(
            Notice(
                f"The last run ended with {counted(len(cut), 'request')} in flight. Each may have "
                "been billed, so those rows are now ambiguous (interrupted) and are not retried."
            )
        )
    return cut


def read_again(ledger: SqliteLedger) -> int:
    """Reads kept answers again that no release could read when they arrived.

    The rows of those that can be read now become ok. Returns their number. Sends nothing. May be
    called twice.
    """
    unread = ledger.read(lambda db: list(queries.unread(db)))
    read = [one for kept in unread if (one := _read(kept))]
    if read:
        ledger.read_again(read)
    return len(read)


def _read(kept: Unread) -> Unread | None:
    """Returns `kept` with a readable body, None if no reading of its body is an answer."""
    for body in readings(kept.body):
        if classify(Reply(0.0, 0.0, kept.http_status, {}, body)).verdict is Verdict.OK:
            return replace(kept, body=body)
    return None
