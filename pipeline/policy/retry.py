"""Decides what follows an outcome: retry after a delay, finish the row, or stop the run.

No IO; the caller passes the time in. Refusals and failures have separate counters: a storm of 429s
must not use up a row's retries.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.core.model import ErrorCode, Outcome, State, StopCode, Stopped, Verdict

# Each ambiguous row may be paid for nothing. Ten are enough to see the pattern, and cheap enough.
AMBIGUOUS_IN_A_ROW = 10
# A wrong variable makes every row fail. A sheet whose first ten rows fail by chance is rare.
ALIKE_AT_FIRST = 10
# A filter in front of the API sends the same page for every row: one made 1,474 rows fail in 7 s.
FOREIGN_IN_A_ROW = 10
# `_SENT_KEPT` is more than can be in flight and needs little memory. `_SENT_LOOKED_AT` is how many
# requests, with refusals among them, are searched for outcomes in a row.
_SENT_KEPT, _SENT_LOOKED_AT = 10_000, 100
# A deployment is over within minutes. A user who mistyped an address should not wait that long.
AWAY_S = 300.0
AWAY_S_NEVER_ANSWERED = 30.0
# A probe that has not failed for this long has reached the API, because its connect timeout is
# over. Its answer may still take minutes.
PROBE_TRUSTED_AFTER_S = 31.0
# No jitter: one dispatcher sends one probe at a time, and each retry waits for a slot of the pace.
_BACK_OFF_MIN_S, _BACK_OFF_MAX_S = 1.0, 60.0
_RETRY_MIN_S, _RETRY_MAX_S = 1.0, 60.0
# After its first refusal a row does not wait, because a 429 can hit any row. Then it waits 0.25 s,
# and twice as long each time, up to a minute. Its requests are due after 0, 0, 0.25, 0.75, ...
# 31.75 and 63.75 s: nine in the first minute, fewer in each later one. The pace cannot give this
# bound: a single row that is refused again and again hardly slows down the run.
_REFUSED_MIN_S, _REFUSED_MAX_S = 0.25, 60.0
MOST_PER_MINUTE = 9
"""The most requests for one row within a minute, whatever the server returns."""


class Decision(NamedTuple):
    """The new state of a row. `again_after_s` is the delay before it is sent again, None if this
    run does not send it again."""

    state: State
    again_after_s: float | None = None


def decide(
    outcome: Outcome, failures_before: int, retries: int, refusals_before: int = 0
) -> Decision:
    """Decides about a row whose attempt ended with `outcome`.

    `failures_before` and `refusals_before` count the earlier attempts of this row in this run that
    failed and that were refused. Only failures use up retries. Both lengthen the row's pause.
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
    return min(first_s * 2.0 ** min(times, 60), most_s)  # 2 ** 1024 overflows a float


@dataclass(slots=True)
class BackOff:
    """The pause of the whole run while the API cannot be reached.

    It begins with the first request that was provably not sent. From then on one request at a time
    may go, 1 s to 60 s apart. It ends when a request sent since has reached the server: with any
    outcome that proves a connection (also a timeout or a lost answer), or when the request has not
    failed for 31 s. Older requests prove nothing: a server that shuts down responds to hundreds of
    them while it accepts no new connection.
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
        """Returns when the next probe may go. Only meaningful while `away`."""
        return self._next_at

    def shut_until(self, now: float) -> float | None:
        """Returns when to ask again if no request may go now, or None if one may.

        Ends the pause if the probe counts as arrived (see `PROBE_TRUSTED_AFTER_S`).
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
        """Notes that a request goes out. While the API is away, this is the probe.

        The exception is a request that was let through just before the pause began. Its failure
        says nothing about a probe, so no request may wait for its outcome.
        """
        if self.away and now >= self._next_at:
            self._probe_since = now

    def not_sent(self, now: float, sent_at: float) -> None:
        """Notes that the request of `sent_at` was provably not sent."""
        if self._away_since is None:
            self._away_since = now
            self._wait_s = _BACK_OFF_MIN_S
        elif sent_at < self._next_at - self._wait_s / 2:
            # It left before the pause began, so it says nothing new, and nothing about the probe.
            # Half of the pause is the tolerance, because a worker's clock may differ from ours.
            return
        else:
            self._wait_s = min(self._wait_s * 2, _BACK_OFF_MAX_S)
        self._probe_since = None
        self._next_at = now + self._wait_s

    def answered(self, sent_at: float) -> bool:
        """Notes that the request of `sent_at` reached the server, also if its answer was lost.
        Returns whether the API is reachable now."""
        self.ever_answered = True
        if self._away_since is not None and sent_at < self._away_since:
            return False
        self._away_since = self._probe_since = None
        return True

    def given_up(self, now: float) -> bool:
        """Whether the API has been away so long that the run ends (exit 75)."""
        if self._away_since is None:
            return False
        most = AWAY_S if self.ever_answered else AWAY_S_NEVER_ANSWERED
        return now - self._away_since >= most


@dataclass(slots=True)
class _InARow:
    """Counts outcomes of one kind in a row, by the order of arrival and by the order of sending.

    An outage whose errors arrive at once shows in the order of sending: earlier requests are still
    being answered, and among 200 answers a second the errors never arrive in a row. If the errors
    arrive late, the order of arrival shows it. A response of the API ends the sequence in both
    orders. A request without a response ends it in the order of sending.
    """

    _came: Counter[str] = field(default_factory=Counter)
    _sent: dict[int, str] = field(default_factory=dict)

    def api_answered(self) -> None:
        self._came.clear()

    def see(self, kind: str, nth: int | None) -> int:
        """Adds the outcome of the `nth` request sent. Returns how many of `kind` are now in a
        row."""
        self._came[kind] += 1
        if nth is None:
            return self._came[kind]
        self.pass_over(nth, kind)
        in_order = self._along(kind, nth, 1) + self._along(kind, nth, -1) - 1
        return max(self._came[kind], in_order)

    def pass_over(self, nth: int, kind: str = "") -> None:
        """Notes the outcome of the `nth` request. It ends no sequence, and counts only in those of
        `kind`."""
        self._sent[nth] = kind
        if len(self._sent) > _SENT_KEPT:
            del self._sent[next(iter(self._sent))]

    def _along(self, kind: str, nth: int, step: int) -> int:
        """Counts `kind` in a row from the `nth` request on, over at most `_SENT_LOOKED_AT`
        requests."""
        count = 0
        for one in range(nth, nth + step * _SENT_LOOKED_AT, step):
            if one not in self._sent:
                break
            count += self._sent[one] == kind
        return count


@dataclass(slots=True)
class Breakers:
    """Patterns of outcomes that stop a run before they cost more.

    * Ten ambiguous outcomes in a row, without interrupted ones. In the next run, `probing` lets one
      row at a time through until the API has responded to one. If its answer is lost too, the run
      stops.
    * In a folder without any ok row: the first ten failed rows all have the same code.
    * Ten errors in a row with the same status and without the API's own JSON. Such pages differ in
      their request ids, so their codes are compared, which are made of the status.

    "In a row" means that the API itself responded to no request in between, with an answer or with
    an error in its own JSON. Other outcomes in between, such as refusals, do not matter.
    """

    any_ok: bool
    probing: bool = False
    _first_codes: list[str] = field(default_factory=list)
    _in_a_row: _InARow = field(default_factory=_InARow)

    def see(self, outcome: Outcome, state: State, nth: int | None = None) -> Stopped | None:
        """Notes the outcome of the `nth` request sent. Returns the reason to stop, or None."""
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
