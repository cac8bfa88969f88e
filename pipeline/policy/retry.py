"""What follows from an outcome: again after t seconds, finished, or the end of the run. Pure.

Refusals and failures have separate counters: a storm of 429s must not use up a row's retries.
Time is passed in.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.core.model import ErrorCode, Outcome, State, StopCode, Stopped, Verdict

# Each ambiguous answer may be a bill for nothing: ten are enough to look at, and few enough to pay.
AMBIGUOUS_IN_A_ROW = 10
# A wrong variable fails every row; a sheet whose first ten rows are blocked by chance is rare.
ALIKE_AT_FIRST = 10
# A filter in front of the API gives every row the same page: one marked 1,474 rows failed in 7 s.
FOREIGN_IN_A_ROW = 10
# More than are in flight, in little memory; and how far a row may be stretched by refusals.
_SENT_KEPT, _SENT_LOOKED_AT = 10_000, 100
# A deployment is over within minutes. Who mistyped an address should not wait for that long.
AWAY_S = 300.0
AWAY_S_NEVER_ANSWERED = 30.0
# A probe that has not failed to connect for this long did reach the API: its connect timeout is
# over, and its answer may take minutes.
PROBE_TRUSTED_AFTER_S = 31.0
# No jitter: one dispatcher sends one probe, and what goes again waits for its slot of the pace.
_BACK_OFF_MIN_S, _BACK_OFF_MAX_S = 1.0, 60.0
_RETRY_MIN_S, _RETRY_MAX_S = 1.0, 60.0
# A lone refusal costs a row nothing, as 429s hit any row. From then on the row waits 0.25 s, twice
# as long each time, up to a minute. Its requests are due after 0, 0, 0.25, 0.75, ... 31.75 and
# 63.75 s: nine in the first minute, fewer in each later one. The pace cannot give this bound: it
# slows the run down, and a row that is refused while others are let through does not slow the run.
_REFUSED_MIN_S, _REFUSED_MAX_S = 0.25, 60.0
MOST_PER_MINUTE = 9
"""The most requests that are sent for one row within a minute, whatever the server answers."""


@dataclass(frozen=True, slots=True)
class Decision:
    """`state` is what the row is now; `again_after_s` is None where it is finished for this run."""

    state: State
    again_after_s: float | None = None


def decide(
    outcome: Outcome, failures_before: int, retries: int, refusals_before: int = 0
) -> Decision:
    """What becomes of a row whose attempt ended with `outcome`.

    `failures_before` and `refusals_before` count the earlier attempts of this row in this run that
    failed and that were refused. Only failures use up retries; both lengthen the row's pause.
    """
    if outcome.verdict is Verdict.OK:
        return Decision(State.OK)
    if outcome.verdict is Verdict.AMBIGUOUS:
        return Decision(State.AMBIGUOUS)
    pause_s = _pause_s(failures_before + refusals_before)
    if outcome.verdict is Verdict.REFUSED:
        return Decision(State.PENDING, None if outcome.stop else pause_s)
    if outcome.retryable and failures_before < retries:
        retry_s = _doubled(_RETRY_MIN_S, failures_before, _RETRY_MAX_S)
        return Decision(State.PENDING, max(retry_s, pause_s))
    return Decision(State.FAILED)


def _pause_s(attempts_before: int) -> float:
    if not attempts_before:
        return 0.0
    return _doubled(_REFUSED_MIN_S, attempts_before - 1, _REFUSED_MAX_S)


def _doubled(first_s: float, times: int, most_s: float) -> float:
    return min(first_s * 2.0 ** min(times, 60), most_s)  # a thousand retries overflow a float


@dataclass(slots=True)
class BackOff:
    """The pause of the whole run while the API cannot be reached.

    From the first attempt that provably never left until an answer of any kind to a request that
    was sent since, one request at a time is let through, 1 s to 60 s apart. Older answers say
    nothing: a server that shuts down gives hundreds of them while it takes no new connection.
    """

    ever_answered: bool = False
    _away_since: float | None = None
    _wait_s: float = _BACK_OFF_MIN_S
    _next_at: float = 0.0
    _probe_since: float | None = None

    @property
    def away(self) -> bool:
        return self._away_since is not None

    def next_at(self) -> float:
        """When the next probe may go; meaningful while `away`."""
        return self._next_at

    def shut_until(self, now: float) -> float | None:
        """When to look again while no request may go; None where one may now.

        A probe that is believed to have arrived ends the pause.
        """
        if self._away_since is None:
            return None
        if self._probe_since is None:
            return self._next_at if now < self._next_at else None
        trusted_at = self._probe_since + PROBE_TRUSTED_AFTER_S
        if now < trusted_at:
            return trusted_at
        self.answered(self._probe_since)
        return None

    def handed_out(self, now: float) -> None:
        """A request goes out. While the API is away it is the probe, unless it was let through just
        before that was known: its failure says nothing of a probe, so nothing may wait for it."""
        if self.away and now >= self._next_at:
            self._probe_since = now

    def not_sent(self, now: float, sent_at: float) -> None:
        """An attempt sent at `sent_at` provably never left."""
        if self._away_since is None:
            self._away_since = now
            self._wait_s = _BACK_OFF_MIN_S
        elif sent_at < self._next_at - self._wait_s / 2:
            # It left before the pause began: it says nothing new, least of all about the probe.
            # Half of the pause, because the clock of a worker elsewhere is only nearly ours.
            return
        else:
            self._wait_s = min(self._wait_s * 2, _BACK_OFF_MAX_S)
        self._probe_since = None
        self._next_at = now + self._wait_s

    def answered(self, sent_at: float) -> bool:
        """The API answered a request sent at `sent_at`, whatever it said. Whether it is there."""
        self.ever_answered = True
        if self._away_since is not None and sent_at < self._away_since:
            return False
        self._away_since = self._probe_since = None
        return True

    def given_up(self, now: float) -> bool:
        """Whether the API was away for so long that the run ends (exit 75)."""
        if self._away_since is None:
            return False
        most = AWAY_S if self.ever_answered else AWAY_S_NEVER_ANSWERED
        return now - self._away_since >= most


@dataclass(slots=True)
class _InARow:
    """Counts outcomes of one kind in a row, in the order in which they come and in that in which
    their requests were sent.

    The second order shows an outage whose errors come at once, while requests from before it are
    still being answered: among 200 answers a second the errors are never in a row. The first shows
    it where errors come late. An answer of the API breaks a row in both orders; a request that is
    not answered yet breaks it in the second.
    """

    _came: Counter[str] = field(default_factory=Counter)
    _sent: dict[int, str] = field(default_factory=dict)

    def api_answered(self) -> None:
        self._came.clear()

    def see(self, kind: str, nth: int | None) -> int:
        """One more of `kind`, of the `nth` request sent; how many are in a row now."""
        self._came[kind] += 1
        if nth is None:
            return self._came[kind]
        self.pass_over(nth, kind)
        in_order = self._along(kind, nth, 1) + self._along(kind, nth, -1) - 1
        return max(self._came[kind], in_order)

    def pass_over(self, nth: int, kind: str = "") -> None:
        """The outcome of the `nth` request breaks no row and belongs to none."""
        self._sent[nth] = kind
        if len(self._sent) > _SENT_KEPT:
            del self._sent[next(iter(self._sent))]

    def _along(self, kind: str, nth: int, step: int) -> int:
        """How many of `kind` are in a row from the `nth` request on, as far as it matters."""
        count = 0
        for one in range(nth, nth + step * _SENT_LOOKED_AT, step):
            if one not in self._sent:
                break
            count += self._sent[one] == kind
        return count


@dataclass(slots=True)
class Breakers:
    """Patterns of outcomes that end a run before they cost more.

    * Ten ambiguous outcomes in a row. After such a run, `probing` lets one row at a time through
      until the API has answered one.
    * In a folder without any ok row, the first ten rows that all fail with one code.
    * Ten errors in a row with one status that are not in the API's own JSON. Such pages differ in
      their request ids, so they count as equal by their code, which is made of the status.

    "In a row" means that the API answered none in between: with an ok row, or an error in its own
    JSON. Other outcomes in between, such as refusals, say nothing about that.
    """

    any_ok: bool
    probing: bool = False
    _first_codes: list[str] = field(default_factory=list)
    _in_a_row: _InARow = field(default_factory=_InARow)

    def see(self, outcome: Outcome, state: State, nth: int | None = None) -> Stopped | None:
        """Takes in one outcome, of the `nth` request sent; the reason to stop, if there is one."""
        if outcome.verdict is Verdict.OK:
            self.any_ok = True
        lost = outcome.verdict is Verdict.AMBIGUOUS and outcome.code != ErrorCode.INTERRUPTED
        if lost or outcome.foreign:
            if stopped := self._repeated(outcome, lost, nth):
                return stopped
        elif outcome.verdict in (Verdict.OK, Verdict.FAILED):
            self.probing = False
            self._in_a_row.api_answered()
        elif nth is not None:
            self._in_a_row.pass_over(nth)
        return self._alike(outcome, state)

    def _repeated(self, outcome: Outcome, lost: bool, nth: int | None) -> Stopped | None:
        kind = "lost" if lost else f"failed with {outcome.code}"
        count = self._in_a_row.see(kind, nth)
        if lost and self.probing:
            return Stopped(
                StopCode.AMBIGUOUS,
                "The last run stopped because answers were lost or unreadable. This run first "
                f"tried one row, and its answer was too ({outcome.code}). It may have been billed.",
            )
        if lost and count >= AMBIGUOUS_IN_A_ROW:
            return Stopped(
                StopCode.AMBIGUOUS,
                f"{AMBIGUOUS_IN_A_ROW} answers in a row were lost or unreadable "
                f"(the last one: {outcome.code}). Each may have been billed.",
            )
        if outcome.foreign and count >= FOREIGN_IN_A_ROW:
            return Stopped(
                StopCode.ALIKE,
                f"{FOREIGN_IN_A_ROW} rows in a row failed with the same error, which does not come "
                f"from the API ({outcome.code}: {outcome.message}). A filter or a proxy answered "
                "in its place, or the address is wrong. `run` does not send these rows again.",
            )
        return None

    def _alike(self, outcome: Outcome, state: State) -> Stopped | None:
        if self.any_ok or len(self._first_codes) >= ALIKE_AT_FIRST or state is not State.FAILED:
            return None
        self._first_codes.append(outcome.code or "")
        if len(self._first_codes) == ALIKE_AT_FIRST and len(set(self._first_codes)) == 1:
            return Stopped(
                StopCode.ALIKE,
                f"The first {ALIKE_AT_FIRST} rows all failed with the same error "
                f"({outcome.code}: {outcome.message}).",
            )
        return None
