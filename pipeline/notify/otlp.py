"""Exports a run to OpenTelemetry: one span, and metrics, by OTLP over HTTP.

Each run has its own providers. The global ones, and so the telemetry of a program that calls
`run_job`, stay unchanged. There is no span per request: a histogram shows the same as 20,000 spans,
backends bill by the span, and the ledger has every attempt. No text of a row, of a server or of an
error leaves this machine, and no key.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

import requests
from opentelemetry.context import Context, get_current
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Status, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pipeline.core.events import AttemptEnded, Event
from pipeline.core.model import ROW_COUNTS, Summary, Verdict
from pipeline.core.wording import few_codes
from pipeline.notify.endpoint import Collector
from pipeline.notify.metrics import gauges
from pipeline.notify.posting import in_time, late

Attributes = dict[str, str | int]

_SCOPE = "pipeline"
_FIELDS = (
    *("job", "run_id", "rows", *ROW_COUNTS),
    *("paid_min", "paid_max", "requests", "rate_limited", "exit_code"),
)
_LABELS = {"state": "pipeline.row.state", "code": "error.type", "bound": "pipeline.bound"}
_INTERVAL_MS = 60_000.0

# A server may invent a code for every row, and a backend stores a series for each code.
_OTHER = "_OTHER"

# The buckets of the HTTP conventions end at 10 s, and many answers of a workflow take longer.
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_LONG_BUCKETS_S = (15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 330)


class Telemetry:
    """A listener that exports the events of one run to collectors, each signal within `timeout_s`.

    The parent of the run's span is the span that is current when this is made, else TRACEPARENT of
    the environment.
    """

    def __init__(
        self,
        job: str,
        traces: Collector | None,
        metrics: Collector | None,
        timeout_s: float,
        environment: Mapping[str, str],
    ) -> None:
        self._timeout_s = timeout_s
        self._interval_s = _interval_s(environment)
        resource = _resource()
        self._span = _RunSpan(traces, resource, timeout_s, environment) if traces else None
        self._metrics = _RunMetrics(job, metrics, resource, timeout_s) if metrics else None
        self._live: asyncio.Task[None] | None = None

    def start(self, base_url: str) -> None:
        """Starts the export of metrics at an interval. `base_url` is where requests go.

        A failed export is not reported, because the next one contains everything again.
        """
        if self._metrics is not None:
            self._metrics.server = _server(base_url)
            self._live = asyncio.create_task(self._export_at_intervals(self._metrics))

    def close(self) -> None:
        """Stops the exports at an interval. May be called twice."""
        if self._live is not None:
            self._live.cancel()

    def __call__(self, event: Event) -> None:
        if isinstance(event, AttemptEnded) and self._metrics is not None:
            with contextlib.suppress(Exception):  # of the SDK: a listener that raises ends a run
                self._metrics.attempt_ended(event)

    async def end(
        self, summary: Summary, needs_person: bool, timeout_s: float
    ) -> list[tuple[str, str]]:
        """Exports the end of the run. Returns (collector, reason) for each failed signal."""
        self.close()
        summary, ended_ns = _few_codes(summary), time.time_ns()
        work: list[tuple[_RunSpan | _RunMetrics, Callable[[], str | None]]] = []
        if (span := self._span) is not None:
            work.append((span, lambda: span.end(summary, needs_person, ended_ns)))
        if (metrics := self._metrics) is not None:
            work.append((metrics, lambda: metrics.end(summary, ended_ns / 1e9)))
        said = await asyncio.gather(*(in_time(tell, timeout_s) for _, tell in work))
        return [
            (part.collector.shown, part.session.why or why)
            for (part, _), why in zip(work, said, strict=True)
            if why
        ]

    async def _export_at_intervals(self, metrics: _RunMetrics) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await in_time(metrics.export, self._timeout_s)


class _RunSpan:
    """The span of a run. It begins when this is made."""

    def __init__(
        self,
        collector: Collector,
        resource: Resource,
        timeout_s: float,
        environment: Mapping[str, str],
    ) -> None:
        self.collector = collector
        self._began_ns = time.time_ns()
        self._parent = _parent(environment)
        self.session = _Session(timeout_s)
        exporter = OTLPSpanExporter(collector.url, timeout=timeout_s, session=self.session)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(SimpleSpanProcessor(exporter))

    def end(self, summary: Summary, needs_person: bool, ended_ns: int) -> str | None:
        """Exports the span. Returns None, or why it was not accepted."""
        try:
            span = self._provider.get_tracer(_SCOPE).start_span(
                f"run {summary.job}", context=self._parent, start_time=self._began_ns
            )
            span.set_attributes(_attributes(summary))
            if needs_person:
                code = summary.exit_code
                span.set_attribute("error.type", summary.stopped or f"exit_{code}")
                span.set_status(Status(StatusCode.ERROR, f"exit code {code}"))
            span.end(ended_ns)
            self._provider.shutdown()
        except Exception as error:  # of the SDK: the run itself is already saved
            return type(error).__name__
        return self.session.why


class _RunMetrics:
    """The metrics of a run. Each export contains all of them (unless the environment prefers
    deltas), so a failed export loses nothing."""

    def __init__(
        self, job: str, collector: Collector, resource: Resource, timeout_s: float
    ) -> None:
        self.collector = collector
        self.server: Attributes = {}
        self._job = job
        self._one_at_a_time = threading.Lock()
        self.session = _Session(timeout_s)
        self._exporter = OTLPMetricExporter(collector.url, timeout=timeout_s, session=self.session)
        self._reader = InMemoryMetricReader(
            preferred_temporality=self._exporter._preferred_temporality,  # as the SDK's readers do
            preferred_aggregation=self._exporter._preferred_aggregation,
        )
        self._provider = MeterProvider([self._reader], resource, shutdown_on_exit=False)
        self._meter = self._provider.get_meter(_SCOPE)
        self._durations = self._meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=(*_BUCKETS_S, *_LONG_BUCKETS_S),
        )

    def attempt_ended(self, event: AttemptEnded) -> None:
        told = {"pipeline.job": self._job, **self.server, **_answer(event)}
        self._durations.record(event.latency_s, told)

    def export(self) -> str | None:
        """Exports all metrics so far. Returns None, or why they were not accepted."""
        try:
            with self._one_at_a_time:
                self.session.why = None
                found = self._reader.get_metrics_data()
                if found is not None:
                    self._exporter.export(found)
                return self.session.why
        except Exception as error:  # of the SDK: the run continues
            return type(error).__name__

    def end(self, summary: Summary, ended_at: float) -> str | None:
        """Exports all metrics and the end of the run. Returns None, or why it was not accepted."""
        try:
            self._set_gauges(summary, ended_at)
            why = self.export()
            self._exporter.shutdown()
            self._provider.shutdown()
        except Exception as error:  # of the SDK: the run itself is already saved
            return type(error).__name__
        return why

    def _set_gauges(self, summary: Summary, ended_at: float) -> None:
        for gauge in gauges(summary, ended_at):
            instrument = self._meter.create_gauge(f"pipeline.{gauge.name}", gauge.unit, gauge.about)
            for labels, value in gauge.samples:
                told = {_LABELS[key]: text for key, text in labels.items()}
                instrument.set(value, {"pipeline.job": self._job, **told})


class _Session(requests.Session):
    """A session that notes in `why` the reason for which its last request was not accepted.

    The exporters only log it, with the whole address. When the time is over they may still wait for
    their next try, so this reason is shown instead of "no response". A redirect is not followed and
    counts as a failure.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self.why: str | None = None
        self._timeout_s = timeout_s

    def request(self, *args, **options):  # type: ignore[no-untyped-def]
        try:
            response = super().request(*args, **(options | {"allow_redirects": False}))
        except requests.Timeout:
            self.why = late(self._timeout_s)
            raise
        except Exception as error:
            self.why = type(error).__name__
            raise
        taken = 200 <= response.status_code < 300
        self.why = None if taken else f"HTTP {response.status_code}"
        return response


def _resource() -> Resource:
    """Returns the resource that sends. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES count
    first; otherwise the service is named `pipeline`."""
    told = Resource.create()
    known: dict[str, str] = {}
    if str(told.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        known = {SERVICE_NAME: "pipeline"}
    return told.merge(Resource({**known}))


def _parent(environment: Mapping[str, str]) -> Context:
    current = get_current()
    if get_current_span(current).get_span_context().is_valid:
        return current
    carrier = {name.lower(): environment.get(name, "") for name in ("TRACEPARENT", "TRACESTATE")}
    return TraceContextTextMapPropagator().extract(carrier, context=current)


def _interval_s(environment: Mapping[str, str]) -> float:
    try:
        interval_s = float(environment.get("OTEL_METRIC_EXPORT_INTERVAL") or _INTERVAL_MS) / 1000
    except ValueError:
        return _INTERVAL_MS / 1000
    return interval_s if interval_s > 0 else _INTERVAL_MS / 1000


def _server(base_url: str) -> Attributes:
    parts = urlsplit(base_url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    return {"server.address": parts.hostname or "", "server.port": port}


def _answer(event: AttemptEnded) -> Attributes:
    """Returns the attributes of one request, by the conventions for HTTP clients."""
    outcome, status = event.outcome, event.outcome.http_status
    told: Attributes = {"http.request.method": "POST"}
    if status is not None:
        told["http.response.status_code"] = status
    if status is not None and status >= 400:
        told["error.type"] = str(status)
    elif status is None or outcome.verdict is Verdict.AMBIGUOUS:
        told["error.type"] = outcome.code or _OTHER
    return told


def _attributes(summary: Summary) -> Attributes:
    """Returns the fields of summary.json under their names, except for paths and commands."""
    told: Attributes = {f"pipeline.{name}": getattr(summary, name) for name in _FIELDS}
    told |= {f"pipeline.by_code.{code}": rows for code, rows in summary.by_code.items()}
    if summary.stopped:
        told["pipeline.stopped"] = summary.stopped
    return told


def _few_codes(summary: Summary) -> Summary:
    """Returns `summary` with a limited number of codes."""
    return replace(summary, by_code=few_codes(summary.by_code, _OTHER))
