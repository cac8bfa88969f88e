"""What a person sees of a run: a bar on a terminal, else one plain line every 30 seconds."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections import Counter
from typing import Any, TextIO

from tqdm import tqdm

from pipeline.events import AttemptEnded, Event, Notice, Paced, RunStarted, Stopping, Waiting
from pipeline.model import State
from pipeline.wording import printable

LINE_EVERY_S = 30.0
_SETTLED = (State.OK, State.FAILED, State.AMBIGUOUS)


class Progress:
    """Listens to one run and draws it on `stream`; `close` when the run is over."""

    def __init__(self, stream: TextIO | None = None) -> None:
        # sys.stderr is None where the caller closed it.
        self._stream: TextIO = stream or sys.stderr or io.StringIO()
        self._bar: tqdm[Any] | None = None
        self._counts: Counter[State] = Counter()
        self._rows = 0
        self._next_line = 0.0
        self._pace = ""

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._start(event)
        elif isinstance(event, AttemptEnded):
            self._ended(event)
        elif isinstance(event, Paced):
            self._paced(event)
        elif isinstance(event, Waiting):
            wait_s = max(event.until_s - time.monotonic(), 0)
            self._say(f"Waiting: {event.reason}; next try in {wait_s:.0f} s.")
        elif isinstance(event, Notice):
            self._say(event.message)
        elif isinstance(event, Stopping):
            answers = f"{event.in_flight} answers are still on their way; waiting for them."
            self._say(
                f"Stopping: {event.stopped.message} "
                + (answers if event.in_flight else "Nothing is in flight.")
            )

    def close(self) -> None:
        """Leaves the bar as it is and ends its line."""
        if self._bar is not None:
            self._bar.close()

    def _start(self, event: RunStarted) -> None:
        self._counts = Counter(event.kept)
        self._rows = event.to_send + self._done()
        if event.to_send and self._stream.isatty():
            self._bar = tqdm(
                total=self._rows,
                initial=self._done(),
                unit=" rows",
                file=self._stream,
                dynamic_ncols=True,
                smoothing=0.1,
            )
        else:
            self._say(f"{event.to_send} of {event.rows} rows to send.")

    def _ended(self, event: AttemptEnded) -> None:
        if event.state not in _SETTLED:
            return
        self._counts[event.state] += 1
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.update()

    def _paced(self, event: Paced) -> None:
        limit = f" of {event.limit}" if event.limit else ""
        window = f" per {event.window_s:g} s" if event.limit and event.window_s else ""
        self._pace = f"pace {event.per_s:.3g}/s{limit}{window}, {event.in_flight} in flight"
        text = f"{self._counts[State.FAILED]} failed, "
        if self._counts[State.AMBIGUOUS]:
            text += f"{self._counts[State.AMBIGUOUS]} ambiguous, "
        if self._bar is not None:
            self._bar.set_postfix_str(text + self._pace, refresh=False)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            self._say(f"{self._done()} of {self._rows} rows done, {text}{self._pace}")

    def _done(self) -> int:
        return sum(self._counts[state] for state in _SETTLED)

    def _say(self, line: str) -> None:
        line = printable(line)
        # A terminal that was closed, or a pipe that nobody reads, is no reason to end a paid run.
        with contextlib.suppress(OSError, ValueError):
            if self._bar is not None:
                self._bar.write(line, file=self._stream)
            else:
                print(line, file=self._stream, flush=True)
