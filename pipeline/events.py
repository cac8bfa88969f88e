"""What happens during a run, as frozen values. The executor emits them and never prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.model import Outcome, Row, State, Stopped


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The plan is made: of `rows` rows, `to_send` follow. `kept` is where the others stand."""

    run_id: str
    rows: int
    to_send: int
    kept: Counter[State]


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An outcome is durable. `state` is what the row is now."""

    row: Row
    outcome: Outcome
    state: State
    in_flight: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing is sent until something changes; `until_s` is on the monotonic clock."""

    reason: str
    until_s: float


@dataclass(frozen=True, slots=True)
class Stopping:
    """No more rows are sent; answers to `in_flight` requests are still waited for."""

    stopped: Stopped
    in_flight: int


@dataclass(frozen=True, slots=True)
class Paced:
    """The pace of the moment, about twice a second. `limit` and `window_s` are None until known."""

    per_s: float
    limit: int | None
    window_s: float | None
    in_flight: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person should know, in a sentence."""

    message: str


Event = RunStarted | AttemptEnded | Waiting | Paced | Stopping | Notice
Listener = Callable[[Event], None]
