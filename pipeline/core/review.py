"""What people decide about answers, as values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


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


NO_EDITS: Mapping[str | None, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Standing:
    """All decisions about one answer, taken together.

    `edits` has the id of the review that edited the answer (under None) or a column. A rejection
    leaves the edits: they stand until a newer answer comes. `last` is the id of the last review.
    """

    digest: str
    judged: Decision | None = None
    edits: Mapping[str | None, int] = field(default_factory=lambda: NO_EDITS)
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
        judged, edits = self.judged, self.edits
        if decision is Decision.EDITED:
            judged = None if judged is Decision.REJECTED else judged
            edits = {**edits, column: review_id}
        elif decision is not Decision.RESET:
            judged = decision
        elif column is None:
            judged, edits = None, NO_EDITS
        else:
            edits = {name: number for name, number in edits.items() if name != column}
        return Standing(self.digest, judged, edits, review_id)
