"""log.jsonl: one JSON line for each event that a person may ask about later."""

from __future__ import annotations

import contextlib
import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import StorageFailed
from pipeline.core.events import (
    AttemptEnded,
    ConcurrencyBinds,
    Event,
    Notice,
    Paced,
    PaceEnded,
    RunStarted,
    Stopping,
    Waiting,
)
from pipeline.core.model import Clock, JsonObject, RateLimit, Sure, Verdict
from pipeline.core.wording import json_line
from pipeline.system.files import open_appending, storing
from pipeline.system.opening import as_object, last_lines

_PACE_EVERY_S, _MEASURED_AFTER_S = 60.0, 10.0


class EventLog:
    """Appends events to a file. Leaves out rows that are ok, because they are in the results.

    Raises StorageFailed if the file cannot be opened, and at the first write that fails. Skips all
    writes after that.
    """

    def __init__(self, path: Path, clock: Clock, run_id: str = "") -> None:
        with storing(path):
            self._file = open_appending(path)
        self._path = path
        self._clock = clock
        self._run_id = run_id
        self._broken = False
        self._pace: tuple[object, ...] | None = None
        self._pace_due_at = -math.inf
        self._measured_due_at: float | None = None

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a failed write was reported already
            self._file.close()

    def __call__(self, event: Event) -> None:
        match event:
            case AttemptEnded():  # first, because there is one for each request
                if event.outcome.verdict is not Verdict.OK:
                    self._note_attempt(event)
            case RunStarted():
                self._run_id = event.run_id
                self._write("run_started", rows=event.rows, to_send=event.to_send)
            case Stopping():
                self._write("stopping", in_flight=event.in_flight, **asdict(event.stopped))
            case Waiting():
                wait_s = max(event.until_s - self._clock.monotonic(), 0.0)
                self._write("waiting", reason=event.reason, next_in_s=round(wait_s, 3))
            case ConcurrencyBinds():
                self._write("concurrency_binds", in_flight=event.in_flight)
            case Paced():
                self._note_pace(event)
            case PaceEnded():
                self._write("pace_ended", **asdict(event))
            case Notice():
                self._write("notice", message=event.message)

    def _note_attempt(self, event: AttemptEnded) -> None:
        outcome = event.outcome
        self._write(
            "attempt_ended",
            row=event.row.number,
            state=event.state,
            verdict=outcome.verdict,
            code=outcome.code,
            http_status=outcome.http_status,
            message=outcome.message,
            again_after_s=event.again_after_s,
        )

    def _note_pace(self, event: Paced) -> None:
        """Writes a line if the pace changed, at most once a minute: events come twice a second.

        And one soon after the run measured the limit for the first time, because `status` reads it
        from here. Not at once: the first windows are off.
        """
        pace = (float(f"{event.per_s:.2g}"), event.limit, event.window_s, event.sure)
        now = self._clock.monotonic()
        measured = event.sure is Sure.MEASURED
        if measured and self._measured_due_at is None:
            self._measured_due_at = now + _MEASURED_AFTER_S
        first = measured and now >= (self._measured_due_at or 0.0)
        if pace != self._pace and (first or now >= self._pace_due_at):
            if measured:
                self._measured_due_at = math.inf
            self._pace, self._pace_due_at = pace, now + _PACE_EVERY_S
            names = ("per_s", "limit", "window_s", "sure")
            used = None if event.used is None else round(event.used, 3)
            self._write("paced", **dict(zip(names, pace, strict=True)), used=used)

    def _write(self, kind: str, **facts: object) -> None:
        at = datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="milliseconds")
        line: JsonObject = {"at": at, "run_id": self._run_id, "event": kind, **facts}
        if self._broken:
            return
        try:
            with storing(self._path):
                self._file.write(json_line(line) + "\n")
                self._file.flush()
        except StorageFailed:
            self._broken = True
            raise


# Searched for before a line is parsed, because most lines are failed attempts.
_PACE_ENDED = b'"event": "pace_ended"'
_PACED = b'"event": "paced"'
# A line a minute has the pace, and the last one counts. A thousand failed rows fit in between.
_LOG_END_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class LearnedLimit:
    """The rate limit that a run measured: `limit` requests per `window_s` seconds."""

    limit: int
    window_s: float

    @property
    def per_s(self) -> float:
        return self.limit / self.window_s


class EndedPace(NamedTuple):
    """The rate limit that a run had measured when it ended, and the share of it that it used."""

    limit: LearnedLimit | None = None
    used: float | None = None


def ended_paces(log: Path, most_bytes: int) -> dict[str, EndedPace]:
    """The ended paces by run id, from the last `most_bytes` of log.jsonl.

    The log has no checksums, so no count comes from it. If it is lost, only charts and shown values
    are missing.
    """
    paces = {}
    for line in last_lines(log, most_bytes):
        if _PACE_ENDED in line:
            with contextlib.suppress(ValueError, TypeError, KeyError):  # cut off by a power cut
                said = as_object(line)
                if said["event"] == "pace_ended":
                    paces[str(said["run_id"])] = EndedPace(_limit(said), _used(said))
    return paces


def believed_limit(log: Path, run_id: str) -> RateLimit | None:
    """The rate limit as the run `run_id` believed it last. None if the end of the log has none."""
    found = None
    for line in last_lines(log, _LOG_END_BYTES):
        if _PACED in line or _PACE_ENDED in line:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                said = as_object(line)
                if said["event"] in ("paced", "pace_ended") and said["run_id"] == run_id:
                    found = _believed(said) or found
    return found


def _believed(said: JsonObject) -> RateLimit | None:
    limit, sure = said.get("limit"), said.get("sure")
    if not isinstance(limit, int) or limit <= 0:
        return None
    known = _limit(said)
    if known is None or sure not in set(Sure):
        return RateLimit(limit, None, None, None)
    return RateLimit(limit, known.window_s, Sure(str(sure)), _used(said))


def _limit(said: JsonObject) -> LearnedLimit | None:
    with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError):
        limit = LearnedLimit(int(said["limit"]), float(said["window_s"]))
        if limit.limit > 0 and 0 < limit.window_s < math.inf:
            return limit
    return None


def _used(said: JsonObject) -> float | None:
    with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError):
        if math.isfinite(share := float(said["used"])):
            return share
    return None
