"""The words of the project as frozen values, and the seams between its rooms as Protocols.

A row's life is `MOVES`: its first attempt puts it from pending to sending, the outcome to ok,
failed or ambiguous, or back to pending where it was refused before any work, or failed with retries
left.
The attempt is the primary record: a row's state follows from its attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:  # --help needs none of it
    import numpy as np
    import numpy.typing as npt

SANDBOX_HOST = "sandbox"
"""The host of every rehearsal, whatever port it has."""

ENGINES = ("local", "ray")
"""Where requests can be sent from."""

MIN_RATE, MAX_RATE = 0.001, 1_000_000
"""Requests per second that can be asked for: from one in 17 minutes on."""

MAX_WAIT_S = 86_400
"""The most that a setting can let anybody wait for one answer or one look: a day."""

TEXT_RULES = 2
"""The newest rules by which a cell becomes text. A run folder keeps the rules that it began with,
as another text is another row, which would be paid for.

1: release 0.1. 2: fractions in workbooks have 15 significant digits, as Excel shows them.
"""


class State(StrEnum):
    """Where a row stands. The order is the one in which equal rows take what is held."""

    OK = "ok"
    SENDING = "sending"
    AMBIGUOUS = "ambiguous"
    FAILED = "failed"
    PENDING = "pending"


class Move(StrEnum):
    """What may happen to a row in the ledger."""

    INTEND = "intend"
    """A request for it is about to be sent."""
    WITHDRAW = "withdraw"
    """Provably no byte of that was."""
    CONCLUDE = "conclude"
    RECOVER = "recover"
    """The process that sent it is gone."""
    READ_AGAIN = "read_again"
    """A later release can read its answer."""
    SETTLE = "settle"
    """The user takes it as failed."""
    AGAIN = "again"
    """The user wants another answer."""


MOVES: Mapping[Move, tuple[frozenset[State], frozenset[State]]] = {
    move: (frozenset(before), frozenset(after))
    for move, before, after in (
        (Move.INTEND, {State.PENDING, State.FAILED, State.AMBIGUOUS}, {State.SENDING}),
        (Move.WITHDRAW, {State.SENDING}, {State.PENDING, State.FAILED, State.AMBIGUOUS}),
        (Move.CONCLUDE, {State.SENDING}, set(State) - {State.SENDING}),
        (Move.RECOVER, {State.SENDING}, {State.AMBIGUOUS}),
        (Move.READ_AGAIN, {State.AMBIGUOUS}, {State.OK}),
        (Move.SETTLE, {State.AMBIGUOUS}, {State.FAILED}),
        (Move.AGAIN, {State.OK}, {State.PENDING}),
    )
}
"""The states in which each move finds a row, and those in which it may leave it. The ledger refuses
every other: a second outcome for one attempt could make a paid row pending."""


class Verdict(StrEnum):
    """What one answer says of its attempt."""

    OK = "ok"
    FAILED = "failed"
    """The API itself says that the run failed, or that the request is wrong."""
    REFUSED = "refused"
    """Provably turned away before any work: may be sent again."""
    AMBIGUOUS = "ambiguous"
    """It may have been worked on and billed: never sent again unless the user says so."""


class ErrorCode(StrEnum):
    """The runner's own codes; codes that the server sends are kept as they come."""

    NOT_SENT = "not_sent"
    RATE_LIMITED = "rate_limited"
    UNAUTHORIZED = "unauthorized"
    INVALID_BILLING = "invalid_billing"
    WORKFLOW_NOT_FOUND = "workflow_not_found"
    INTERNAL_SERVER_ERROR = "internal_server_error"
    RUN_FAILED = "run_failed"
    GATEWAY = "gateway"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    BAD_RESPONSE = "bad_response"
    TOO_LARGE = "too_large"
    INTERRUPTED = "interrupted"
    TLS = "tls"
    REDIRECT = "redirect"


API_CODES = frozenset(
    {"spend_limit_reached", "missing_input", "request_blocked", "workflow_run_failed"}
)
"""Codes of the API that are not the runner's own too: those that its page and its answers name."""


class StopCode(StrEnum):
    """Why a run ended before its rows did (`stopped` in summary.json)."""

    UNAUTHORIZED = "unauthorized"
    INVALID_BILLING = "invalid_billing"
    WORKFLOW_NOT_FOUND = "workflow_not_found"
    MAX_PAID = "max_paid"
    TLS = "tls"
    REDIRECT = "redirect"
    ALIKE = "alike"
    AMBIGUOUS = "ambiguous"
    NOT_SENT = "not_sent"
    STORAGE = "storage"
    UNTIL = "until"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the sheet, ready to be sent.

    `number` counts data rows from 1, the header left out. `identity` (16 bytes) and `occurrence`
    (0 for the first of equal rows) together name the row in the ledger, wherever it stands in
    the sheet. `body` is the request's exact bytes, the same at every attempt.
    """

    number: int
    row_key: bytes
    identity: bytes
    occurrence: int
    body: bytes
    id: str | None = None


class Failure(StrEnum):
    """Why there is no whole answer. Only the first two prove that no byte was sent."""

    NOT_SENT = "not_sent"
    TLS = "tls"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    CUT = "cut"
    TOO_LARGE = "too_large"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Reply:
    """What came back from one request, before anybody judged it.

    `status` is None where no status line came; `failure` is None where the whole body came.
    `sent_at` and `answered_at` are seconds of the monotonic clock.
    """

    sent_at: float
    answered_at: float
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: Failure | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. `maybe_paid` is true of everything that may have been billed."""

    verdict: Verdict
    code: str | None = None
    message: str = ""
    http_status: int | None = None
    maybe_paid: bool = False
    retryable: bool = False
    """Failed, but the API's own words allow another try while retries are left."""
    stop: StopCode | None = None
    foreign: bool = False
    """An error that is not in the API's own JSON, such as a filter's page."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request for one row, durable before its first byte.

    `was`, `was_code` and `was_given_up` are how the row stood before it, for an attempt that is
    taken back unsent.
    """

    attempt_id: int
    row_id: int
    row: Row
    was: State
    was_code: str | None
    was_given_up: bool = False


class Held(NamedTuple):
    """What the ledger holds for a row of the sheet.

    `answered`: some version of it is ok. `given_up`: the user wants it failed and not sent.
    `maybe_paid`: its last attempt was or may have been billed. `settled`: it was ambiguous, and the
    user takes it as failed.
    """

    state: State
    code: str | None = None
    answered: bool = False
    given_up: bool = False
    maybe_paid: bool = False
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Alike:
    """Rows of the sheet of which the ledger holds the same: their numbers, and its own row of
    each."""

    held: Held
    numbers: npt.NDArray[np.int64]
    row_ids: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Citation:
    """A source that an answer names. Either part may be empty, never both."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Why the run ended early, in a code for scripts and a sentence for people."""

    code: StopCode
    message: str


@dataclass(frozen=True, slots=True)
class Sent:
    """What this run sent."""

    requests: int = 0
    rate_limited: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NextStep:
    """What goes on from where a job stands: a command of `words` that sends at most `rows` rows.

    `edit` is what a person has to edit before the command can help, `to_add` what a person has to
    add to it.
    """

    words: tuple[str, ...]
    rows: int
    edit: str | None = None
    to_add: str | None = None


ROW_COUNTS = ("ok", "failed", "ambiguous", "pending", "skipped")
"""The counts of a `Summary` that add up to its `rows`, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did and where the job stands; summary.json has the same fields but `next_step`.

    `resume_command` is the command of `next_step`; both are None where nothing can go on.
    """

    schema_version: int
    run_id: str
    job: str
    rows: int
    ok: int
    failed: int
    ambiguous: int
    pending: int
    skipped: int
    paid_min: int
    paid_max: int
    by_code: dict[str, int]
    stopped: str | None
    requests: int
    rate_limited: int
    duration_s: float
    results: str
    report: str | None
    failures: str
    resume_command: str | None
    exit_code: int
    failed_notifications: dict[str, str] = field(default_factory=dict)
    """Whom of `notify:` and hosted CI the run could not tell how it ended, each with the reason."""
    resume_needs: list[str] = field(default_factory=list)
    """Options that `resume_command` lacks: the last run had them, they decide where the key goes,
    and a command never takes them from a run folder."""
    next_step: NextStep | None = None


class Clock(Protocol):
    """Time, so that tests can own it."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


class Engine(Protocol):
    """Where requests are sent from.

    `lead_s` is how long before its time a request has to be handed over; `fits` how many may be in
    flight.
    """

    lead_s: float

    @property
    def fits(self) -> int: ...

    async def send(self, body: bytes, at: float) -> Reply:
        """One request, which leaves at `at` on the monotonic clock or as soon after that as it
        can, and one reply. Raises nothing but cancellation."""
        ...


class Throttle(Protocol):
    """The waiting between requests."""

    async def slot(self) -> None: ...

    def sent(self, lead_s: float) -> float: ...

    def landed(self, ticket: float, reply: Reply, outcome: Outcome) -> None: ...


class Ledger(Protocol):
    """The durable life of every attempt, as the executor sees it."""

    async def intend(self, row: Row) -> Attempt: ...

    async def conclude(
        self, attempt: Attempt, outcome: Outcome, reply: Reply, state: State
    ) -> None: ...

    async def withdraw(self, attempt: Attempt) -> None: ...


JsonObject = dict[str, Any]
