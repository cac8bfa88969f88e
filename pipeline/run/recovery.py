"""The folder is brought to rest, whatever ended the last run in it. Nothing is sent for that."""

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
    """Settles what a run that was killed left, and reads answers that no release could before.

    `workflow` is what the spec names now. Returns the ledger's ids of the rows that were on their
    way: they are ambiguous from here on. May be called twice.

    Raises:
        StorageFailed: when the disk refuses, or what it holds is damaged.
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
    # What was left unsealed was asked of the workflow that it was for.
    sealer = Sealer(ledger, folder.results, pinned_workflow(ledger.read) or workflow)
    sealer.recover()
    sealer.seal_all()
    current = ledger.read(queries.meta(queries.SNAPSHOT))
    if current and find_snapshot((folder.new_snapshot,), current):
        folder.adopt_snapshot()
    if read:  # the run that follows may be refused, and write none
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
    """Reads the answers that were kept because no release could read them. How many are read now.

    Their rows are ok from here on. Sends nothing; may be called twice.
    """
    unread = ledger.read(lambda db: list(queries.unread(db)))
    read = [one for kept in unread if (one := _read(kept))]
    if read:
        ledger.read_again(read)
    return len(read)


def _read(kept: Unread) -> Unread | None:
    """`kept` with the body that can be read; None where none can."""
    for body in readings(kept.body):
        if classify(Reply(0.0, 0.0, kept.http_status, {}, body)).verdict is Verdict.OK:
            return replace(kept, body=body)
    return None
