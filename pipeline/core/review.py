"""What people decide about answers, as values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Decision(StrEnum):
    """A person's decision about one answer."""

    APPROVED = "approved"
    EDITED = "edited"
    REJECTED = "rejected"
    RESET = "reset"
    """Undoes the decisions before it."""


REJECTED = str(Decision.REJECTED)
"""The word that `--again` takes for rejected answers."""

PROTECTED = (Decision.APPROVED, Decision.EDITED)
"""The decisions after which no run asks for another answer."""


@dataclass(frozen=True, slots=True)
class Review:
    """One decision to be stored. `digest` is that of the answer's text, `column` the column of
    `columns:` that it is about (None: the whole answer), and `text` that of an edit."""

    attempt_id: int
    digest: str
    decision: Decision
    column: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """All decisions about one answer, taken together.

    `edits` has the id of the review that edited the answer (under None) or a column. A rejection
    leaves the edits: they stand until a newer answer comes. `last` is the id of the last review.
    """

    digest: str
    judged: Decision | None = None
    edits: Mapping[str | None, int] = field(default_factory=dict)
    last: int = 0

    @property
    def decision(self) -> Decision | None:
        """The word for this answer: approved, edited or rejected. None after a reset."""
        if self.judged is Decision.REJECTED or not self.edits:
            return self.judged
        return Decision.EDITED

    @property
    def protected(self) -> bool:
        """Whether no run may ask for another answer."""
        return self.decision in PROTECTED

    @property
    def edit_id(self) -> str | None:
        """A durable name of the edits, for the jobs that read this one. None without an edit."""
        return ",".join(map(str, sorted(self.edits.values()))) or None

    def after(self, review_id: int, decision: Decision, column: str | None) -> Standing:
        """Returns the standing after one more decision."""
        known = replace(self, last=review_id)
        if decision is Decision.RESET and column is None:
            return replace(known, judged=None, edits={})
        if decision is Decision.RESET:
            return replace(known, edits={c: n for c, n in self.edits.items() if c != column})
        if decision is not Decision.EDITED:
            return replace(known, judged=decision)
        judged = None if self.judged is Decision.REJECTED else self.judged
        return replace(known, judged=judged, edits={**self.edits, column: review_id})
