"""What happens during a run, as frozen values. The executor emits them and never prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.core.model import Outcome, Row, State, Stopped, Summary


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The plan is made: of `rows` rows, `to_send` follow. `kept` is where the others stand."""

    run_id: str
    rows: int
    to_send: int
    kept: Counter[State]


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An outcome is durable. `state` is what the row is now; `latency_s` how long the answer, or
    giving up on it, took. `again_after_s` is in how many seconds the row goes again by itself, None
    if it does not."""

    row: Row
    outcome: Outcome
    state: State
    in_flight: int
    latency_s: float = 0.0
    again_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing is sent until something changes; `until_s` is on the monotonic clock."""

    reason: str
    until_s: float


@dataclass(frozen=True, slots=True)
class Stopping:
    """No more rows are sent; answers to `in_flight` requests are still waited for, at most
    `wait_s`, which is None where nothing was sent yet."""

    stopped: Stopped
    in_flight: int
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Paced:
    """The pace of the moment, about twice a second. `limit` and `window_s` are None until known.

    `next_at_s`, on the monotonic clock, is when the next request may go, if one is waited for.
    """

    per_s: float
    limit: int | None
    window_s: float | None
    in_flight: int
    next_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person should know, in a sentence. `also_quiet`: even under `--quiet`."""

    message: str
    also_quiet: bool = False


@dataclass(frozen=True, slots=True)
class ConcurrencyBinds:
    """The most requests in flight, not the limit, hold the run back; said once per run."""

    in_flight: int


@dataclass(frozen=True, slots=True)
class PaceEnded:
    """What was learned of the limit. `used` is the part of it that was used, None if not known."""

    limit: int | None
    window_s: float | None
    used: float | None
    requests: int
    rate_limited: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event of `events_of`: all is saved."""

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
