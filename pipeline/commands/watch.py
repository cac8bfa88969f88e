"""`pipeline status --watch`: repeats the status while another process runs the job."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from typing import TYPE_CHECKING

from pipeline.commands.console import is_terminal, tell
from pipeline.core.wording import counted, printable

if TYPE_CHECKING:
    from pipeline.job.job import Job
    from pipeline.status.summary import Status

_LINE_EVERY_S = 30.0


def watch(job: Job, every_s: float) -> Status:
    """Shows the status of `job` every `every_s` seconds until the run ends, or Ctrl-C. Returns the
    last status read.

    On a terminal each status replaces the one before. Elsewhere one line is printed when something
    changed, at most every 30 s. Only reads the run folder.

    Raises:
        Refused: before the first run.
        StorageFailed: when the ledger cannot be read.
    """
    from pipeline.status.summary import read_status

    screen = _Screen(job.sandbox)
    status = read_status(job)
    with contextlib.suppress(KeyboardInterrupt):
        while status.in_use:
            screen.show(status)
            time.sleep(every_s)
            status = read_status(job)
    screen.clear()
    return status


class _Screen:
    """Shows one status after the other: drawn in place on a terminal, elsewhere as lines."""

    def __init__(self, rehearsal: bool) -> None:
        self._rehearsal = rehearsal
        self._terminal = is_terminal(sys.stderr)
        self._drawn = 0
        self._last = ""
        self._next_line = 0.0

    def show(self, status: Status) -> None:
        if self._terminal:
            from pipeline.status.summary_lines import last_run_line, rate_limit_lines, summary_lines

            now = last_run_line(status.last_run, status.in_use, status.in_flight)
            lines = summary_lines(status.summary, rehearsal=self._rehearsal)
            lines += [*rate_limit_lines(status.rate_limit), now]
            self._draw([*lines, "Press Ctrl-C to stop watching. The run continues."])
            return
        line = _line(status)
        if line != self._last and time.monotonic() >= self._next_line:
            self._last, self._next_line = line, time.monotonic() + _LINE_EVERY_S
            tell(line)

    def clear(self) -> None:
        """Removes the status that is drawn, so that the final output takes its place."""
        if self._drawn:
            self._draw([])

    def _draw(self, lines: list[str]) -> None:
        # A line that the terminal wraps would count as two, and the next status start too low.
        width = shutil.get_terminal_size().columns
        up = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(up + "".join(f"{printable(line)[: width - 1]}\n" for line in lines))
            sys.stderr.flush()
        self._drawn = len(lines)


def _line(status: Status) -> str:
    """The status as one line."""
    summary = status.summary
    done = summary.ok + summary.failed + summary.skipped
    line = f"{summary.job}: {done} of {counted(summary.rows, 'row')} done, {summary.failed} failed"
    line += f", {summary.ambiguous} ambiguous" if summary.ambiguous else ""
    return f"{line}, {status.in_flight} in flight, {summary.pending - status.in_flight} pending"
