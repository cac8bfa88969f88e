"""The terms of the project as frozen values, and the interfaces between its rooms as Protocols.

`MOVES` describes the life of a row. Its first attempt moves it from pending to sending. The outcome
moves it to ok, failed or ambiguous, or back to pending if the server refused the request before any
work, or if the attempt failed and retries are left. The attempt is the primary record: a row's
state follows from its attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:  # --help does not need numpy
    import numpy as np
    import numpy.typing as npt

SANDBOX_HOST = "sandbox"
"""The host of every rehearsal, on any port."""

ENGINES = ("local", "ray")
"""The places that requests can be sent from."""

MIN_RATE, MAX_RATE = 0.001, 1_000_000
"""The requests per second that a user can set. The lowest is one request in 17 minutes."""

MAX_WAIT_S = 86_400
"""The longest wait that a setting allows, for a response or between two refreshes: a day."""

TEXT_RULES = 4
"""The newest rules by which a cell becomes text.

A run folder keeps the rules that it began with, because a row with another text is another row and
would be paid for again. 1: release 0.1. 2: fractions in workbooks have 15 significant digits, as
Excel shows them. 3: in workbooks, the section of a number format that applies to the number decides
whether it is a date. East Asian and Thai dates are dates. Every kind of format with zeros before
the number keeps these zeros and the texts next to them. A whole number that ends in `.0` keeps
every digit. 4: a whole number in a float column of a Parquet file is refused if it is too long for
that type, because some of its digits may be wrong.
"""


class State(StrEnum):
    """The state of a row. Equal rows of a sheet get the ledger's rows in the order of these."""

    OK = "ok"
    SENDING = "sending"
    AMBIGUOUS = "ambiguous"
    FAILED = "failed"
    PENDING = "pending"


class Move(StrEnum):
    """A change of a row's state in the ledger."""

    INTEND = "intend"
    """The runner is about to send a request for the row."""
    WITHDRAW = "withdraw"
    """Provably, no byte of that request was sent."""
    CONCLUDE = "conclude"
    """The attempt has an outcome."""
    RECOVER = "recover"
    """The process that sent the row has ended without recording an outcome."""
    READ_AGAIN = "read_again"
    """A later release can read the row's answer."""
    SETTLE = "settle"
    """The user counts the ambiguous row as failed."""
    AGAIN = "again"
    """The user orders another answer."""
    KEEP = "keep"
    """A person approved or edited the answer, and that order was not carried out or failed."""


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
        (Move.KEEP, {State.PENDING, State.FAILED}, {State.OK}),
    )
}
"""For each move, the states before it and the states after it. The ledger refuses all others: a
second outcome for one attempt could make a paid row pending."""


class Verdict(StrEnum):
    """The result of one attempt, as its response shows it."""

    OK = "ok"
    FAILED = "failed"
    """The API itself says that the run failed, or that the request is wrong."""
    REFUSED = "refused"
    """The server provably did no work. The runner may retry the row."""
    AMBIGUOUS = "ambiguous"
    """The request may have been billed. It is never sent again unless the user says so."""


class ErrorCode(StrEnum):
    """The runner's own error codes. A code from the server is stored unchanged."""

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
"""Error codes that only the API uses, from its documentation and its responses."""


class StopCode(StrEnum):
    """Why a run stopped before all its rows were finished (`stopped` in summary.json)."""

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


class AnswerSource(NamedTuple):
    """The answer of another job that a request's text comes from: the id of that job's run folder,
    the ledger's row there, and its attempt, or the edit that a person made of it."""

    folder: str
    row: int
    attempt: int
    edit: str | None = None


class Row(NamedTuple):
    """One row of the sheet, ready to be sent.

    `number` counts data rows from 1, without the header. `identity` (16 bytes) and `occurrence`
    (0 for the first of equal rows) together name the row in the ledger, independent of its place in
    the sheet. `body` is the exact request in bytes, the same in every attempt.
    """

    # A run makes one of these, and of the other values of an attempt, for each row. A frozen
    # dataclass with seven fields takes 12,000 instructions to make, and this takes 4,000.

    number: int
    row_key: bytes
    identity: bytes
    occurrence: int
    body: bytes
    id: str | None = None
    source: AnswerSource | None = None


class Failure(StrEnum):
    """Why there is no complete response. Only the first two prove that no byte was sent."""

    NOT_SENT = "not_sent"
    TLS = "tls"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    CUT = "cut"
    TOO_LARGE = "too_large"
    INTERRUPTED = "interrupted"


@dataclass(slots=True, weakref_slot=True)
class Reply:
    """The response to one request, before it is classified. Nothing changes it once it is made.

    `status` is None if no status line came. `failure` is None if the whole body came. `sent_at` and
    `answered_at` are seconds on the monotonic clock.
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
    """How an attempt ended. `maybe_paid` is true for every attempt that may have been billed."""

    verdict: Verdict
    code: str | None = None
    message: str = ""
    http_status: int | None = None
    maybe_paid: bool = False
    retryable: bool = False
    """The attempt failed, and the API's response allows a retry while retries are left."""
    stop: StopCode | None = None
    foreign: bool = False
    """The error does not have the form of the API's JSON. It may be the page of a web filter."""


class Attempt(NamedTuple):
    """One request for one row, durable before its first byte is sent.

    `was`, `was_code` and `was_given_up` are the row's state before the attempt. The ledger restores
    them if the attempt is withdrawn unsent.
    """

    attempt_id: int
    row_id: int
    row: Row
    was: State
    was_code: str | None
    was_given_up: bool = False


class Held(NamedTuple):
    """The record of the ledger about a row of the sheet.

    `answered`: at least one version of the row is ok. `given_up`: the user wants the row failed and
    not sent. `maybe_paid`: the last attempt was or may have been billed. `settled`: the row was
    ambiguous, and the user counts it as failed. `reviewed`: a person approved or edited its answer,
    so it is not sent.
    """

    state: State
    code: str | None = None
    answered: bool = False
    given_up: bool = False
    maybe_paid: bool = False
    settled: bool = False
    reviewed: bool = False


@dataclass(frozen=True, slots=True)
class Alike:
    """Rows of the sheet with the same record in the ledger: their numbers in the sheet, and their
    row ids in the ledger, in the same order."""

    held: Held
    numbers: npt.NDArray[np.int64]
    row_ids: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Citation:
    """A source that an answer names. One of the two parts may be empty, but not both."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Why the run stopped early: a code for scripts and a sentence for people."""

    code: StopCode
    message: str


@dataclass(frozen=True, slots=True)
class Sent:
    """The requests of this run."""

    requests: int = 0
    rate_limited: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NextStep:
    """The command that continues a job. It has these `words` and sends at most `rows` rows.

    `edit` names what the user has to edit before the command can help. `to_add` names the options
    that the user has to add to it.
    """

    words: tuple[str, ...]
    rows: int
    edit: str | None = None
    to_add: str | None = None


ROW_COUNTS = ("ok", "failed", "ambiguous", "pending", "skipped")
"""The counts of a `Summary` that add up to its `rows`, in the order in which commands show them."""


class Sure(StrEnum):
    """Where a run has its rate limit's window from."""

    MEASURED = "measured"
    KEPT = "kept"
    """An earlier run measured it. This run's answers have not confirmed it yet."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The rate limit as a run believes it: `limit` requests per `window_s` seconds.

    `window_s` and `sure` are None until something is known of the window. `used` is the used share
    of the limit since the window was measured, None before.
    """

    limit: int
    window_s: float | None
    sure: Sure | None
    used: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a run and the state of its job. summary.json has all fields except `next_step`.

    `resume_command` is the command of `next_step`. Both are None if there is nothing to continue.
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
    """The targets of `notify:` and hosted CI that the run could not reach, each with the reason."""
    resume_needs: list[str] = field(default_factory=list)
    """Options of the last run that `resume_command` leaves out. They decide where the key is sent,
    and the runner never takes such an option from a run folder."""
    next_step: NextStep | None = None


class Clock(Protocol):
    """A source of time that tests can replace."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


class Engine(Protocol):
    """The place that requests are sent from.

    The caller hands a request over `lead_s` seconds before it has to be sent. `fits` is the number
    of requests that can be in flight.
    """

    lead_s: float

    @property
    def fits(self) -> int: ...

    async def send(self, body: bytes, at: float) -> Reply:
        """Sends one request, at `at` on the monotonic clock or as soon after that as possible, and
        returns its reply. Raises nothing except on cancellation."""
        ...


class Throttle(Protocol):
    """The pauses between requests."""

    async def slot(self) -> None: ...

    def sent(self, lead_s: float) -> float: ...

    def landed(self, ticket: float, reply: Reply, outcome: Outcome) -> None: ...


class Ledger(Protocol):
    """The durable record of every attempt, as the executor uses it."""

    async def intend(self, row: Row) -> Attempt: ...

    async def conclude(
        self, attempt: Attempt, outcome: Outcome, reply: Reply, state: State
    ) -> None: ...

    async def withdraw(self, attempt: Attempt) -> None: ...


JsonObject = dict[str, Any]
