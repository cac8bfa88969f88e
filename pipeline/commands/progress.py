"""The progress of a run: a bar on a terminal, elsewhere one plain line every 30 seconds."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections import Counter
from typing import Any, TextIO

from tqdm import tqdm

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
from pipeline.core.model import State, StopCode, Stopped
from pipeline.core.wording import counted, printable

LINE_EVERY_S = 30.0
_WAIT_SHOWN_S = 2.0
_SETTLED = (State.OK, State.FAILED, State.AMBIGUOUS)


class ProgressBar:
    """Listens to one run and draws its progress on `stream`. Call `close` when the run is over."""

    def __init__(self, stream: TextIO | None = None) -> None:
        # sys.stderr is None if the caller closed it.
        self._stream: TextIO = stream or sys.stderr or io.StringIO()
        self._bar: tqdm[Any] | None = None
        self._counts: Counter[State] = Counter()
        self._rows = 0
        self._next_line = 0.0
        self._pace = ""

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._start(event)
            case AttemptEnded():
                self._ended(event)
            case Paced():
                self._paced(event)
            case Waiting():
                wait_s = max(event.until_s - time.monotonic(), 0)
                self._say(f"Waiting: {event.reason}. Next try in {wait_s:.0f} s.")
            case Notice():
                self._say(event.message)
            case ConcurrencyBinds():
                self._say(
                    f"{counted(event.in_flight, 'request')} in flight, which is the most that "
                    "--concurrency allows. That limits the pace now, not the rate limit. To go "
                    "faster, raise --concurrency (at most `ulimit -n`)."
                )
            case PaceEnded():
                self._pace_ended(event)
            case Stopping():
                self._say(f"Stopping: {why(event.stopped)} {_still(event)}")

    def close(self) -> None:
        """Leaves the bar on the screen with the last counts, and ends its line."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.set_postfix_str(self._troubled())
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

    def _pace_ended(self, event: PaceEnded) -> None:
        denied = f"{event.rate_limited} of {event.requests} requests were answered with 429."
        if event.used is not None:
            limit = _limit(event.limit, event.window_s)
            self._say(f"The run used {event.used:.0%} of the rate limit ({limit}). {denied}")
        elif event.rate_limited:
            self._say(denied)

    def _paced(self, event: Paced) -> None:
        limit = _limit(event.limit, event.window_s)
        # What a user needs before pressing Ctrl-C comes first: a narrow terminal cuts the rest.
        self._pace = f"{event.in_flight} in flight, "
        self._pace += f"pace {event.per_s:.3g}/s{limit and f' of {limit}'}"
        wait_s = (event.next_at_s or 0.0) - time.monotonic()
        if wait_s >= _WAIT_SHOWN_S:
            self._pace += f", next request in {wait_s:.0f} s"
        text = f"{self._troubled()}, "
        if self._bar is not None:
            self._bar.set_postfix_str(text + self._pace, refresh=False)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            self._say(f"{self._done()} of {self._rows} rows done, {text}{self._pace}")

    def _troubled(self) -> str:
        """How many rows are not ok."""
        ambiguous = self._counts[State.AMBIGUOUS]
        more = f", {ambiguous} ambiguous" if ambiguous else ""
        return f"{self._counts[State.FAILED]} failed{more}"

    def _done(self) -> int:
        return sum(self._counts[state] for state in _SETTLED)

    def _say(self, line: str) -> None:
        line = printable(line)
        # A closed terminal, or a pipe without a reader, must not end a paid run.
        with contextlib.suppress(OSError, ValueError):
            if self._bar is not None:
                self._bar.write(line, file=self._stream)
            else:
                print(line, file=self._stream, flush=True)


_HINTS = {
    StopCode.UNAUTHORIZED: "Check the key (AITUTOR_API_KEY or --key-file).",
    StopCode.INVALID_BILLING: "Top up the account.",
    StopCode.WORKFLOW_NOT_FOUND: "Check `workflow:` in the job file. Is the workflow published?",
    StopCode.NOT_SENT: "Check the network, --base-url and AITUTOR_BASE_URL.",
    StopCode.REDIRECT: "Check --base-url and AITUTOR_BASE_URL.",
    StopCode.TLS: "Check --base-url. A certificate of your proxy goes into SSL_CERT_FILE.",
}


def why(stopped: Stopped) -> str:
    """Why a run ended early and what to do, in sentences."""
    message = stopped.message.rstrip()
    sentence = message if message.endswith((".", "!", "?")) else f"{message}."
    return f"{sentence} {_HINTS[stopped.code]}" if stopped.code in _HINTS else sentence


def _still(event: Stopping) -> str:
    """How many requests the run still waits for, and how long: their answers may be paid."""
    if not event.in_flight:
        return "Nothing is in flight."
    most = "" if event.wait_s is None else f", at most {event.wait_s:.4g} s"
    line = f"Waiting for {counted(event.in_flight, 'request')} in flight{most}."
    if event.stopped.code is StopCode.INTERRUPTED:
        line += " Interrupt again to leave now: those rows are then ambiguous."
    return line


def _limit(limit: int | None, window_s: float | None) -> str:
    if not limit:
        return ""
    # Two digits, because it is an estimate.
    return f"{limit} per {float(f'{window_s:.2g}'):g} s" if window_s else str(limit)
