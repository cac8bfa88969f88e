"""log.jsonl: one JSON line for whatever a person may ask about later."""

from __future__ import annotations

import contextlib
import math
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

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
from pipeline.core.model import Clock, JsonObject, Verdict
from pipeline.core.wording import json_line
from pipeline.system.files import open_appending, storing

_PACE_EVERY_S = 60.0


class EventLog:
    """Appends events to a file. Rows that are ok are in the results and not repeated here.

    A file that cannot be opened, and the first write that fails, raise StorageFailed; later
    writes are left out.
    """

    def __init__(self, path: Path, clock: Clock, run_id: str = "") -> None:
        with storing(path):
            self._file = open_appending(path)
        self._path = path
        self._clock = clock
        self._run_id = run_id
        self._broken = False
        self._pace: tuple[float, int | None, float | None] | None = None
        self._pace_due_at = -math.inf

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # what could not be written was said already
            self._file.close()

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._run_id = event.run_id
            self._write("run_started", rows=event.rows, to_send=event.to_send)
        elif isinstance(event, Stopping):
            self._write("stopping", in_flight=event.in_flight, **asdict(event.stopped))
        elif isinstance(event, Waiting):
            wait_s = max(event.until_s - self._clock.monotonic(), 0.0)
            self._write("waiting", reason=event.reason, next_in_s=round(wait_s, 3))
        elif isinstance(event, ConcurrencyBinds):
            self._write("concurrency_binds", in_flight=event.in_flight)
        elif isinstance(event, Paced):
            self._note_pace(event)
        elif isinstance(event, PaceEnded):
            self._write("pace_ended", **asdict(event))
        elif isinstance(event, Notice):
            self._write("notice", message=event.message)
        elif isinstance(event, AttemptEnded) and event.outcome.verdict is not Verdict.OK:
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
        """At most a line a minute, and only where something changed: it comes twice a second."""
        pace = (float(f"{event.per_s:.2g}"), event.limit, event.window_s)
        now = self._clock.monotonic()
        if pace != self._pace and now >= self._pace_due_at:
            self._pace, self._pace_due_at = pace, now + _PACE_EVERY_S
            per_s, limit, window_s = pace
            self._write("paced", per_s=per_s, limit=limit, window_s=window_s)

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
