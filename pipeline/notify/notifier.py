"""Reports the end of a run to the addresses and files under `notify:`, and to hosted CI.

Reports of the end are sent after all outcomes are saved and the folder is free. A notification that
fails does not change the exit code, and delays the end of the run by at most `timeout_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.clock import SystemClock
from pipeline.core.errors import Locked, PipelineError
from pipeline.core.events import Listener, Notice
from pipeline.core.model import Summary
from pipeline.core.wording import json_line
from pipeline.job.access import RunKey
from pipeline.job.job import Job
from pipeline.ledger.ledger import open_ledger
from pipeline.notify.endpoint import Endpoint, own_textfile, told_endpoints
from pipeline.notify.metrics import markdown, prometheus
from pipeline.notify.posting import post
from pipeline.notify.telemetry import find_telemetry
from pipeline.status.event_log import EventLog
from pipeline.status.exit_codes import needs_person
from pipeline.status.summary import as_json, for_person, summarize_error
from pipeline.system.files import replacing, write_json

if TYPE_CHECKING:
    from pipeline.notify.otlp import Telemetry

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
# A user who interrupted the run twice does not want to wait for a monitor.
_HURRIED_S = 1.0


@contextlib.asynccontextmanager
async def notifying(
    job: Job, listeners: tuple[Listener, ...], key: RunKey
) -> AsyncIterator[Notifier]:
    """Notifies how the run inside the block ended, from `Notifier.summary` or from its exception.

    `key` is the run's key, which no address may contain. A run that found its folder in use sends
    nothing, because the run that has the folder will.

    Raises:
        Refused: when an address in the spec cannot be used, or OpenTelemetry is not installed.
    """
    notifier = find_notifier(job, listeners, None if job.sandbox else key.in_use())
    try:
        yield notifier
    except Locked:
        raise
    except PipelineError as error:
        await notifier.end(summarize_error(job, error), str(error))
        raise
    except Exception as error:
        bug = PipelineError(f"The runner stopped because of a bug ({type(error).__name__}).")
        await notifier.end(summarize_error(job, bug), str(bug))
        raise
    finally:
        if notifier.telemetry is not None:
            notifier.telemetry.close()
    if notifier.summary is not None:
        await notifier.end(notifier.summary)
        notifier.keep_failures()


@dataclass(slots=True)
class Notifier:
    """The notifications of one run, and the addresses and files that get them."""

    job: Job
    listeners: tuple[Listener, ...]
    step_summary: Path | None
    timeout_s: float = 0.0
    healthcheck: Endpoint | None = None
    webhook: Endpoint | None = None
    textfile: Path | None = None
    telemetry: Telemetry | None = None
    summary: Summary | None = None
    _start: asyncio.Task[str | None] | None = None
    _failures: dict[str, str] = field(default_factory=dict)

    @property
    def heard_by(self) -> tuple[Listener, ...]:
        """The listeners of the run's events."""
        return self.listeners if self.telemetry is None else (*self.listeners, self.telemetry)

    def start(self, base_url: str | None) -> None:
        """Reports that the run has its folder, and returns at once.

        `base_url` is where the run sends its requests, None for a rehearsal.
        """
        if self.telemetry is not None and base_url is not None:
            self.telemetry.start(base_url)
        if self.healthcheck is not None:
            ping = post(self.healthcheck.below("start"), b"", _TEXT, self.timeout_s)
            self._start = asyncio.create_task(ping)

    def hurry(self) -> None:
        """Shortens the time limits, because the user waits for the end."""
        self.timeout_s = min(self.timeout_s, _HURRIED_S)

    async def end(self, summary: Summary, error: str | None = None) -> None:
        """Sends all notifications at the same time. `error` is set if the run raised."""
        self._write_files(summary, error)
        await asyncio.gather(
            self._ping(summary, error), self._call(summary, error), self._export(summary)
        )
        for whom, why in self._failures.items():
            self._say(f"The runner could not notify {whom}: {why}. The run itself is not affected.")

    def keep_failures(self) -> None:
        """Adds the failed notifications to the summary and to summary.json.

        Changes nothing if another run has begun in the folder since, or if the disk fails.
        """
        if not self._failures or self.summary is None:
            return
        summary = self.summary = replace(self.summary, failed_notifications=self._failures)
        folder = self.job.folder
        with (
            contextlib.suppress(PipelineError),
            folder.locked(),
            open_ledger(folder.ledger, SystemClock(), trace=folder.trace) as ledger,
        ):
            ledger.amend_summary(
                summary.run_id, lambda: write_json(folder.summary, as_json(summary))
            )

    async def _ping(self, summary: Summary, error: str | None) -> None:
        if self.healthcheck is None:
            return
        from pipeline.status.summary_lines import summary_lines

        if self._start is not None:  # the ping of the end must not overtake that of the start
            await asyncio.wait({self._start}, timeout=self.timeout_s / 2)
            self._start.cancel()
        code = summary.exit_code if needs_person(summary) else 0
        lines = [
            *summary_lines(for_person(self.job, summary)),
            f"Exit code: {summary.exit_code}",
            *([error or ""]),
        ]
        body = "\n".join(lines).encode(errors="replace")
        left_s = self.timeout_s / (1 if self._start is None else 2)
        why = await post(self.healthcheck.below(str(code)), body, _TEXT, left_s)
        self._note(f"healthcheck {self.healthcheck.shown}", why)

    async def _call(self, summary: Summary, error: str | None) -> None:
        if self.webhook is None:
            return
        told = as_json(summary) | ({"error": error} if error else {})
        body = json_line(told).encode()
        why = await post(self.webhook, body, "application/json", self.timeout_s)
        self._note(f"webhook {self.webhook.shown}", why)

    async def _export(self, summary: Summary) -> None:
        if self.telemetry is not None:
            person = needs_person(summary)
            for whom, why in await self.telemetry.end(summary, person, self.timeout_s):
                self._note(whom, why)

    def _write_files(self, summary: Summary, error: str | None) -> None:
        try:
            if self.textfile is not None:
                with replacing(self.textfile) as file:
                    os.fchmod(file.fileno(), 0o644)  # despite the umask: the collector reads it
                    file.write(prometheus(summary, time.time()).encode())
        except OSError as problem:
            self._note(f"textfile {self.textfile}", problem.strerror or "not written")
        try:
            if self.step_summary is not None:
                with self.step_summary.open("a", encoding="utf-8", errors="replace") as file:
                    file.write(markdown(summary, error))
        except OSError as problem:
            self._note(STEP_SUMMARY, problem.strerror or "not written")

    def _note(self, whom: str, why: str | None) -> None:
        if why is not None:
            self._failures[whom] = why

    def _say(self, message: str) -> None:
        for listener in self.listeners:
            with contextlib.suppress(Exception):  # of a caller: the run itself is already saved
                listener(Notice(message, also_quiet=True))
        run_id = self.summary.run_id if self.summary else ""
        # The run has closed its log. A user who misses a ping finds the reason there.
        with contextlib.suppress(PipelineError):
            if self.job.folder.log.exists():
                with EventLog(self.job.folder.log, SystemClock(), run_id) as log:
                    log(Notice(message))


def find_notifier(
    job: Job,
    listeners: tuple[Listener, ...] = (),
    key: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Notifier:
    """Returns the notifier of `job`. A rehearsal notifies only hosted CI, because a monitor would
    take it for the real run that it waits for.

    Raises:
        Refused: when an address or the textfile in the spec cannot be used, or OpenTelemetry is not
            installed.
    """
    step_summary = Path(environment[STEP_SUMMARY]) if environment.get(STEP_SUMMARY) else None
    spec = job.spec
    if spec is None or spec.notify is None or job.sandbox:
        return Notifier(job, listeners, step_summary)
    healthcheck, webhook = told_endpoints(spec, key, environment)
    return Notifier(
        job,
        listeners,
        step_summary,
        spec.notify.timeout_s,
        healthcheck=healthcheck,
        webhook=webhook,
        textfile=own_textfile(spec),
        telemetry=find_telemetry(spec, environment),
    )


_TEXT = "text/plain; charset=utf-8"
