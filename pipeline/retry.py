"""What follows from an outcome: again after t seconds, settled, or the end of the run. Pure.

Refusals and failures have separate counters: a storm of 429s must not use up a row's retries.
Time is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.model import ErrorCode, Outcome, State, StopCode, Stopped, Verdict

# Each ambiguous answer may be a bill for nothing: ten are enough to look at, and few enough to pay.
AMBIGUOUS_IN_A_ROW = 10
# A wrong variable fails every row; a sheet whose first ten rows are blocked by chance is rare.
ALIKE_AT_FIRST = 10
# A deployment is over within minutes. Who mistyped an address should not wait for that long.
AWAY_S = 300.0
AWAY_S_NEVER_ANSWERED = 30.0
# A probe that has not failed to connect for this long did reach the API: its connect timeout is
# over, and its answer may take minutes.
PROBE_TRUSTED_AFTER_S = 31.0
# No jitter: one dispatcher sends one probe, and what goes again waits for its slot of the pace.
_BACK_OFF_MIN_S, _BACK_OFF_MAX_S = 1.0, 60.0
_RETRY_MIN_S, _RETRY_MAX_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Decision:
    """`state` is what the row is now; `again_after_s` is None where it is settled for this run."""

    state: State
    again_after_s: float | None = None


def decide(outcome: Outcome, failures_before: int, retries: int) -> Decision:
    """What becomes of a row whose attempt ended with `outcome`.

    `failures_before` counts the failed attempts of this row in this run, refusals left out.
    """
    if outcome.verdict is Verdict.OK:
        return Decision(State.OK)
    if outcome.verdict is Verdict.AMBIGUOUS:
        return Decision(State.AMBIGUOUS)
    if outcome.verdict is Verdict.REFUSED:
        return Decision(State.PENDING, None if outcome.stop else 0.0)
    if outcome.retryable and failures_before < retries:
        return Decision(State.PENDING, min(_RETRY_MIN_S * 2.0**failures_before, _RETRY_MAX_S))
    return Decision(State.FAILED)


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
        """A request goes out. While the API is away it is the probe."""
        if self.away:
            self._probe_since = now

    def not_sent(self, now: float, sent_at: float) -> None:
        """An attempt sent at `sent_at` provably never left."""
        self._probe_since = None
        if self._away_since is None:
            self._away_since = now
            self._wait_s = _BACK_OFF_MIN_S
        elif sent_at < self._next_at:
            return  # left before the pause began: it says nothing new
        else:
            self._wait_s = min(self._wait_s * 2, _BACK_OFF_MAX_S)
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
class Breakers:
    """Patterns of outcomes that end a run before they cost more.

    Ten ambiguous outcomes in a row; and, in a folder without any ok row, the first ten rows that
    all fail with one code. After a run that the first of these stopped, `probing` lets one row at
    a time through until one has an answer that can be read.
    """

    any_ok: bool
    probing: bool = False
    _ambiguous: int = 0
    _first_codes: list[str] = field(default_factory=list)

    def see(self, outcome: Outcome, state: State) -> Stopped | None:
        """Takes in one outcome; the reason to stop, if there is one now."""
        if outcome.verdict is Verdict.OK:
            self.any_ok = True
        if outcome.verdict in (Verdict.OK, Verdict.FAILED):
            self.probing = False
        if outcome.verdict is not Verdict.AMBIGUOUS:
            self._ambiguous = 0
        elif outcome.code != ErrorCode.INTERRUPTED:
            self._ambiguous += 1
        if self.probing and self._ambiguous:
            return Stopped(
                StopCode.AMBIGUOUS,
                "The last run was stopped by answers that were lost or unreadable, and so was the "
                f"one row that was sent to try ({outcome.code}). It may have been paid.",
            )
        if self._ambiguous >= AMBIGUOUS_IN_A_ROW:
            return Stopped(
                StopCode.AMBIGUOUS,
                f"{AMBIGUOUS_IN_A_ROW} answers in a row were lost or unreadable "
                f"(the last: {outcome.code}). Each may have been paid.",
            )
        return self._alike(outcome, state)

    def _alike(self, outcome: Outcome, state: State) -> Stopped | None:
        if self.any_ok or len(self._first_codes) >= ALIKE_AT_FIRST or state is not State.FAILED:
            return None
        self._first_codes.append(outcome.code or "")
        if len(self._first_codes) == ALIKE_AT_FIRST and len(set(self._first_codes)) == 1:
            return Stopped(
                StopCode.ALIKE,
                f"The first {ALIKE_AT_FIRST} rows all failed alike "
                f"({outcome.code}: {outcome.message}).",
            )
        return None
