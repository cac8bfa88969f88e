"""Plan tokens: `run` carries out exactly the plan that `check` showed, or nothing.

A token is a digest of everything that decides which rows a run sends and pays for: the run folder,
the last attempt and the last decision in its ledger, the last review, the pins, the selection, the
questions that the user would be asked, each row to send, and the most requests that may be paid. A
user who passes it to a run agrees to exactly that.
"""

from __future__ import annotations

import json
from dataclasses import fields
from hashlib import blake2b

import numpy as np

from pipeline.inputs.identity import KEY_BYTES
from pipeline.inputs.snapshot import Snapshot
from pipeline.job.job import Job
from pipeline.ledger import queries
from pipeline.ledger.reader import Read
from pipeline.planning.plan import Plan
from pipeline.planning.prepared import Prepared
from pipeline.planning.selection import Selection
from pipeline.system.paths import resolved

_PREFIX = "plan1-"


def plan_token(
    job: Job, prepared: Prepared, selection: Selection, questions: list[str], read: Read
) -> str:
    """Returns the token of a plan, as text without spaces.

    The token changes as soon as a row was sent or settled in the folder, or the sheet, the spec or
    the selection changed.
    """
    _, paid_max = read(queries.paid)
    budget = job.to_run().budget(paid_max)
    attempt, decision = read(queries.last_change)
    folder = read(queries.meta(queries.FOLDER_ID))
    if not (attempt or decision):  # the first run makes the id of an empty folder
        folder = str(resolved(job.folder.path))
    facts = {
        "folder": folder,
        "attempt": attempt,
        "decision": decision,
        "review": prepared.reviews.last,
        "pins": prepared.pins.text,
        "selection": _selection(selection),
        "questions": questions,
        "repaid": prepared.repaid.row_ids,
        "paid_at_most": prepared.plan.paid_at_most(budget),
        "rows": _rows(prepared.snapshot, prepared.plan),
    }
    text = json.dumps(facts, sort_keys=True).encode()
    return _PREFIX + blake2b(text, digest_size=16).hexdigest()


def _selection(selection: Selection) -> dict[str, str]:
    """Returns the same texts for the same selection. Sets have no order, so they are sorted."""
    values = {field.name: getattr(selection, field.name) for field in fields(selection)}
    return {
        name: repr(sorted(value) if isinstance(value, frozenset) else value)
        for name, value in values.items()
    }


def _rows(snapshot: Snapshot, plan: Plan) -> str:
    """Returns a digest of the rows to send: the identity and occurrence of each, in the order of
    the sheet."""
    sent = plan.send[snapshot.numbers - 1]
    identities = np.frombuffer(snapshot.identities, dtype=f"V{KEY_BYTES}")[sent]
    digest = blake2b(identities.tobytes(), digest_size=16)
    digest.update(snapshot.occurrences[sent].tobytes())
    return digest.hexdigest()
