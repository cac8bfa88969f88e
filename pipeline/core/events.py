"""The events of a run, as frozen values. The executor emits them and never prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.core.model import Outcome, Row, State, Stopped, Summary, Sure


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The plan is ready: the run sends `to_send` of `rows`. `kept` counts the others by state."""

    run_id: str
    rows: int
    to_send: int
    kept: Counter[State]


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt ended, and its outcome is durable.

    `state` is the row's new state. `latency_s` is the time until the response came or the runner
    gave up on it. `again_after_s` is the number of seconds until the runner retries the row, None
    if it does not.
    """

    row: Row
    outcome: Outcome
    state: State
    in_flight: int
    latency_s: float = 0.0
    again_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The run sends nothing until `until_s`, on the monotonic clock, for the given reason."""

    reason: str
    until_s: float


@dataclass(frozen=True, slots=True)
class Stopping:
    """The run sends no more rows. It still waits for `in_flight` responses, for at most `wait_s`
    seconds, which is None if it has sent nothing yet."""

    stopped: Stopped
    in_flight: int
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Paced:
    """The current pace, about twice a second. `limit` and `window_s` are None until they are known.

    `next_at_s` is the time of the next request on the monotonic clock, None if no request waits.
    `sure` says where the window comes from. `used` is the share of the limit that was used since
    the window was measured.
    """

    per_s: float
    limit: int | None
    window_s: float | None
    in_flight: int
    next_at_s: float | None = None
    sure: Sure | None = None
    used: float | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence that the user should read. `also_quiet` shows it even with `--quiet`."""

    message: str
    also_quiet: bool = False


@dataclass(frozen=True, slots=True)
class ConcurrencyBinds:
    """`concurrency`, not the rate limit, slows the run down. Emitted once per run at most."""

    in_flight: int


@dataclass(frozen=True, slots=True)
class PaceEnded:
    """The rate limit as the run learned it. `used` is the used share of it, None if not known.
    `sure` says where the window comes from."""

    limit: int | None
    window_s: float | None
    used: float | None
    requests: int
    rate_limited: int
    sure: Sure | None = None


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event of `events_of`: everything is saved."""

    summary: Summary


Event = (
    RunStarted
    | AttemptEnded
    | Waiting
    | Paced
    | ConcurrencyBinds
    | PaceEnded
    | Stopping
    | Notice
    | RunEnded
)
Listener = Callable[[Event], None]
