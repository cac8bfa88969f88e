"""Checks the reviews of a run folder."""

from __future__ import annotations

from pipeline.core.errors import PipelineError, Refused
from pipeline.job.run_folder import RunFolder
from pipeline.ledger import queries
from pipeline.ledger.reader import Read
from pipeline.ledger.reviews import read_reviews
from pipeline.verify.findings import Findings

_RESTORE = (
    "Restore the file from a copy that was made after the last run. Until then no command that "
    "sends or exports works"
)


def check_reviews(folder: RunFolder, read: Read, findings: Findings) -> None:
    """Compares each review with its checksum, and the file with the run folder and its runs."""
    name = folder.reviews.name
    try:
        reviews = read_reviews(folder, read)
        reviews.texts(n for one in reviews.standing.values() for n in one.edits.values())
    except Refused:
        findings.add(name, "a newer release wrote it", "Upgrade the runner")
        return
    except PipelineError as error:
        findings.add(name, str(error), _RESTORE)
        return
    for _ in reviews.standing.keys() - read(queries.current_answers(reviews.standing)).keys():
        findings.add(name, "a review is of an answer that the ledger does not have", _RESTORE)
