"""The progress of a run: a bar on a terminal or in a notebook, elsewhere one plain line every 30
seconds."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from pipeline.commands.bar_words import Word
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
from pipeline.core.model import State, StopCode, Stopped, Sure
from pipeline.core.wording import counted, printable

if TYPE_CHECKING:
    from pipeline.commands.bar import Bar, MakeBar

LINE_EVERY_S = 30.0
_WAIT_SHOWN_S = 2.0
_PACE_TRUE_SLOTS = 2.0  # a wait for the next slot is shorter, and a pause after a denial longer
_SETTLED = (State.OK, State.FAILED, State.AMBIGUOUS)


class ProgressBar:
    """Listens to one run and draws its progress on `stream`. Call `close` when the run is over.

    With `widget`, the bar is made by it. `reworded` is called with each line before it is printed.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        widget: MakeBar | None = None,
        reworded: Callable[[str], str] = str,
    ) -> None:
        # sys.stderr is None if the caller closed it.
        self._stream: TextIO = stream or sys.stderr or io.StringIO()
        self._bar: Bar | None = None
        self._widget = widget
        self._reworded = reworded
        self._counts: Counter[State] = Counter()
        self._rows = 0
        self._next_line = 0.0
        self._pace: list[Word] = []
        self._over = False

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
                self.say(f"Waiting: {event.reason}. Next try in {wait_s:.0f} s.")
            case Notice():
                self.say(event.message)
            case ConcurrencyBinds():
                self.say(
                    f"{counted(event.in_flight, 'request')} in flight, which is the most that "
                    "--concurrency allows. That limits the pace now, not the rate limit. To go "
                    "faster, raise --concurrency (at most `ulimit -n`)."
                )
            case PaceEnded():
                self._pace_ended(event)
            case Stopping():
                self.say(f"Stopping: {why(event.stopped)} {_still(event)}")

    def close(self) -> None:
        """Leaves the bar on the screen with the last counts, and ends its line."""
        if self._bar is not None:
            self._over = True
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()

    def _start(self, event: RunStarted) -> None:
        self._counts = Counter(event.kept)
        self._rows = event.to_send + self._done()
        if event.to_send and (self._widget or self._stream.isatty()):
            from pipeline.commands.bar import FittingBar  # a night needs no tqdm

            make = self._widget or FittingBar
            self._bar = make(self._words, total=self._rows, initial=self._done(), file=self._stream)
        else:
            self.say(f"{event.to_send} of {event.rows} rows to send.")

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
            self.say(f"The run used {event.used:.0%} of the rate limit ({limit}). {denied}")
        elif event.rate_limited:
            self.say(denied)

    def _paced(self, event: Paced) -> None:
        limit = _limit(event.limit, event.window_s)
        wait_s = (event.next_at_s or 0.0) - time.monotonic()
        self._pace = [Word(f"{event.in_flight} in flight", 2)]
        # While each request is denied, the pause is the pace.
        if wait_s < max(_WAIT_SHOWN_S, _PACE_TRUE_SLOTS / event.per_s):
            self._pace.append(Word(f"pace {_number(event.per_s)}/s", 5))
        if limit:
            self._pace.append(Word(f"limit {limit}{_how_sure(event.sure, event.used)}", 6))
        if wait_s >= _WAIT_SHOWN_S:
            self._pace.append(Word(f"next request in {wait_s:.0f} s", 3))
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.refresh()
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            words = ", ".join(word.text for word in (*self._troubled(), *self._pace))
            self.say(f"{self._done()} of {self._rows} rows done, {words}")

    def _words(self, left: str | None) -> list[Word]:
        """What stands after the count on a terminal. A narrow one has no room for the limit, then
        for the pace and the time that is left. The last to go are the requests in flight, which a
        user wants to know before pressing Ctrl-C, and the rows that are not ok."""
        if self._over and self._bar is not None:
            return [*self._troubled(), Word(self._bar.took(), 2)]
        return [*self._troubled(), *self._pace, *([Word(left, 4)] if left else [])]

    def _troubled(self) -> list[Word]:
        """How many rows are not ok."""
        failed, ambiguous = self._counts[State.FAILED], self._counts[State.AMBIGUOUS]
        more = [Word(f"{ambiguous} ambiguous", 1)] if ambiguous else []
        return [Word(f"{failed} failed", 0), *more]

    def _done(self) -> int:
        return sum(self._counts[state] for state in _SETTLED)

    def say(self, line: str) -> None:
        """Prints a line, above the bar if there is one."""
        line = printable(self._reworded(line))
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


def _number(per_s: float) -> str:
    return f"{per_s:.3g}" if per_s < 1000 else f"{per_s:.0f}"


def _how_sure(sure: Sure | None, used: float | None) -> str:
    if sure is Sure.MEASURED:
        return "" if used is None else f", {used:.0%} used"
    return f" ({sure})" if sure else ""


def _limit(limit: int | None, window_s: float | None) -> str:
    if not limit:
        return ""
    # Two digits, because it is an estimate.
    return f"{limit} per {float(f'{window_s:.2g}'):g} s" if window_s else str(limit)
