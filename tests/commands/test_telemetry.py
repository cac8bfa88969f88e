"""What a run exports to an OpenTelemetry collector. Real servers on loopback receive the OTLP."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from pipeline.notify.endpoint import Collector
from pipeline.notify.otlp import Telemetry
from tests.conftest import KEY, TOP, closed_port, ended
from tests.support.servers import Answer, Monitor, Server
from tests.unit.status.test_summary import summary

DOCS = TOP / "docs" / "opentelemetry.md"
ASKED = {"opentelemetry": True}
ROWS = [["Amsterdam"], ["Berlin"], ["#fault:blocked Cairo"], ["#fault:html-502 Delhi"]]


def environment(collector: Monitor | str, **more: str) -> dict[str, str]:
    url = collector if isinstance(collector, str) else collector.url
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url} | more


def plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def spans(collector: Monitor) -> list[tuple[Any, dict[str, Any]]]:
    """Returns (span, attributes of the resource) in the order in which the spans arrived."""
    requests = [
        ExportTraceServiceRequest.FromString(body)
        for _, path, _, body in collector.calls
        if path == "/v1/traces"
    ]
    return [
        (span, plain(resource.resource.attributes))
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def metrics(collector: Monitor) -> dict[str, list[tuple[Any, dict[str, Any]]]]:
    """Returns the data points of the last export, as (point, its attributes) by metric."""
    body = [body for _, path, _, body in collector.calls if path == "/v1/metrics"][-1]
    return {
        metric.name: [
            (point, plain(point.attributes))
            for point in getattr(metric, metric.WhichOneof("data")).data_points
        ]
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_a_run_is_one_span_with_the_numbers_of_its_summary(sandbox, make_job, monitor):
    """Its status is an error, because a person is needed. The environment names the resource."""
    collector = monitor()
    job = make_job(sandbox.url, rows=ROWS, notify=ASKED)
    env = environment(
        collector,
        OTEL_SERVICE_NAME="nights",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=home",
        OTEL_EXPORTER_OTLP_HEADERS="x-tenant=7",
        TRACEPARENT=f"00-{'a' * 32}-{'b' * 16}-01",
    )
    before_ns = time.time_ns()
    summary = job.run(expect=5, env=env)
    [(span, resource)] = spans(collector)
    told = plain(span.attributes)
    for name in ("rows", "ok", "failed", "ambiguous", "paid_min", "paid_max", "requests", "run_id"):
        assert told[f"pipeline.{name}"] == summary[name], name
    assert told["pipeline.by_code.request_blocked"] == told["pipeline.by_code.gateway"] == 1
    assert (told["pipeline.exit_code"], told["error.type"]) == (5, "exit_5")
    assert (span.name, span.status.code) == ("run job", Status.STATUS_CODE_ERROR)
    assert before_ns < span.start_time_unix_nano < span.end_time_unix_nano < time.time_ns()
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("a" * 32, "b" * 16)
    assert resource["service.name"] == "nights"
    assert resource["deployment.environment.name"] == "home"
    headers = [headers for _, path, headers, _ in collector.calls if path.startswith("/v1/")]
    assert [one["x-tenant"] for one in headers] == ["7", "7"]
    assert summary["paid_min"] == sum(sandbox.billed().values())


def test_the_metrics_agree_with_what_the_sandbox_answered_and_billed(
    start_sandbox, make_job, monitor
):
    """Requests by status as the sandbox counted them, with the 429s. Rows by state and code."""
    collector, sandbox = monitor(), start_sandbox(limit=5, window="1s")
    rows = [*ROWS, *([f"city {n}"] for n in range(20))]
    job = make_job(sandbox.url, rows=rows, notify=ASKED)
    summary = job.run(expect=5, env=environment(collector))
    found = metrics(collector)
    durations = found["http.client.request.duration"]
    by_status: Counter[str] = Counter()
    for point, told in durations:
        by_status[str(told["http.response.status_code"])] += point.count
        assert told["http.request.method"] == "POST"
        assert (told["server.address"], told["server.port"]) == ("127.0.0.1", sandbox.port)
        assert told["pipeline.job"] == "job"
        assert max(point.explicit_bounds) >= 300
        bad = int(told["http.response.status_code"]) >= 400
        assert told.get("error.type") == (str(told["http.response.status_code"]) if bad else None)
    assert by_status == sandbox.statuses()
    assert by_status["429"] == summary["rate_limited"] > 0
    assert sum(by_status.values()) == summary["requests"]
    states = {told["pipeline.row.state"]: point.as_int for point, told in found["pipeline.rows"]}
    assert states == {"ok": 22, "failed": 1, "ambiguous": 1, "pending": 0, "skipped": 0}
    codes = {told["error.type"]: point.as_int for point, told in found["pipeline.unfinished_rows"]}
    assert codes == {"request_blocked": 1, "gateway": 1}
    paid = {told["pipeline.bound"]: point.as_int for point, told in found["pipeline.paid_requests"]}
    assert paid["min"] <= sum(sandbox.billed().values()) <= paid["max"]
    assert [point.as_int for point, _ in found["pipeline.last_run.exit_code"]] == [5]


def test_every_exported_name_is_documented(sandbox, make_job, monitor):
    """The names of `pipeline.last_run` by their last part."""
    collector = monitor()
    job = make_job(sandbox.url, rows=ROWS, notify=ASKED)
    job.run(expect=5, env=environment(collector))
    found = metrics(collector)
    points = [told for points in found.values() for _, told in points]
    [(span, _)] = spans(collector)
    names = {*found, *plain(span.attributes), *(name for told in points for name in told)}
    documented = set(re.findall(r"`([a-z0-9_.]+)(?:\.CODE)?`", DOCS.read_text(encoding="utf-8")))
    for name in names:
        by_code = re.sub(r"^(pipeline\.by_code)\..*", r"\1", name)
        known = {by_code, name.removeprefix("pipeline.last_run")}
        assert known & documented, name


def test_neither_the_key_nor_any_text_of_a_row_reaches_the_collector(sandbox, make_job, monitor):
    """Nor does any path of this machine."""
    collector = monitor()
    job = make_job(sandbox.url, rows=ROWS, notify=ASKED)
    job.run(expect=5, env=environment(collector))
    told = b"".join(body for _, _, _, body in collector.calls)
    for secret in (KEY, "Amsterdam", "Cairo", "Delhi", "wf_story", str(job.folder)):
        assert secret.encode() not in told, secret
    assert "authorization" not in str([headers for _, _, headers, _ in collector.calls]).lower()


def test_the_span_of_a_good_night_is_not_an_error_and_that_of_a_refused_one_is(
    sandbox, make_job, monitor
):
    """A refused run never began. Nothing was measured, and the span says so."""
    collector = monitor()
    job = make_job(sandbox.url, rows=[["a"]], notify=ASKED)
    job.run(env=environment(collector))
    [(well, resource)] = spans(collector)
    assert well.status.code == Status.STATUS_CODE_UNSET
    assert resource["service.name"] == "pipeline"
    job.write_sheet(["story"], [[""], ["a"]])
    assert job.call("run", env=environment(collector)).returncode == 2
    _, (refused, _) = spans(collector)
    assert refused.status.code == Status.STATUS_CODE_ERROR
    assert plain(refused.attributes)["pipeline.exit_code"] == 2
    assert "http.client.request.duration" not in metrics(collector)


def test_metrics_are_exported_during_the_run(start_sandbox, make_job, monitor):
    """At the interval of the standard variable. The span is exported at the end."""
    collector, slow = monitor(), start_sandbox(latency="100ms")
    job = make_job(slow.url, rows=[[f"{n}"] for n in range(400)], notify=ASKED, concurrency=1)
    env = job.environment() | environment(collector, OTEL_METRIC_EXPORT_INTERVAL="100")
    process = subprocess.Popen(job.command("run"), env=env, stderr=subprocess.DEVNULL)
    with ended(process):
        while len(collector.calls) < 3:
            assert process.poll() is None
            time.sleep(0.02)
        assert spans(collector) == []
        process.terminate()
        assert process.wait(30) == 143
    [(span, _)] = spans(collector)
    assert plain(span.attributes)["pipeline.stopped"] == "interrupted"


def test_a_collector_that_hangs_fails_redirects_or_is_away_changes_only_the_messages(
    sandbox, make_job, monitor, hanging
):
    """The same exit code, the same words as for other monitors, and no line from the exporters."""
    elsewhere = monitor()
    addresses = {
        hanging: "no response within 1 s",
        monitor(status=500).url: "HTTP 500",
        monitor(307, f"{elsewhere.url}/x").url: "HTTP 307",
        f"http://127.0.0.1:{closed_port()}": "ConnectionError",
    }
    for n, (url, why) in enumerate(addresses.items()):
        notify = ASKED | {"timeout_s": 1}
        job = make_job(sandbox.url, rows=[["a"]], notify=notify, output=f"runs/{n}")
        done = job.call("run", "--json", "--yes", env=environment(f"{url}/s3cret"))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["ok"] == 1
        for signal in ("traces", "metrics"):
            line = (
                f"The runner could not notify opentelemetry ({signal}) http://127.0.0.1/…: "
                f"{why}. The run itself is not affected."
            )
            assert line in done.stderr
            assert line in (job.folder / f"runs/{n}/log.jsonl").read_text(encoding="utf-8")
        assert "s3cret" not in done.stderr
        assert "export" not in done.stderr.replace("pipeline export", "")
    assert elsewhere.calls == []
    assert set(sandbox.billed().values()) == {len(addresses)}


def test_the_reason_of_the_last_try_is_shown_even_if_the_time_ends_before_the_next_try():
    """The exporters wait about a second before they try again."""
    url = f"http://127.0.0.1:{closed_port()}"

    async def end() -> list[tuple[str, str]]:
        telemetry = Telemetry("a", Collector("x", url), Collector("y", url), 30, {})
        return await telemetry.end(summary(ok=1), False, 0.5)

    assert asyncio.run(end()) == [("x", "ConnectionError"), ("y", "ConnectionError")]


def test_a_collector_that_hangs_takes_its_timeout_once(sandbox, make_job, hanging):
    """Both signals together, also at the interval. The process does not wait at its end either."""
    job = make_job(sandbox.url, rows=[["a"]], notify=ASKED | {"timeout_s": 5})
    began = time.monotonic()
    job.run("--output", str(job.folder / "without"), env={"OTEL_SDK_DISABLED": "true"})
    plain_s = time.monotonic() - began
    began = time.monotonic()
    job.run(env=environment(hanging, OTEL_METRIC_EXPORT_INTERVAL="50"))
    assert time.monotonic() - began < plain_s + 5 + 4  # twice would be 10


def test_a_rehearsal_and_a_signal_that_is_turned_off_export_nothing(sandbox, make_job, monitor):
    """The standard variables turn a signal off."""
    collector = monitor()
    job = make_job(sandbox.url, rows=[["a"]], notify=ASKED)
    assert job.call("run", "--sandbox", env=environment(collector)).returncode == 0
    job.run(env=environment(collector, OTEL_SDK_DISABLED="true"))
    assert collector.calls == []
    job.run(env=environment(collector, OTEL_METRICS_EXPORTER="none"))
    assert collector.paths == ["/v1/traces"]
    own = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{collector.url}/mine"}
    job.run(env=own | {"OTEL_TRACES_EXPORTER": "none"})
    assert collector.paths == ["/v1/traces", "/mine"]


BAD = [
    ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"),
    ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is grpc"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT is not an"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"}, "not an http:// or https:// address"),
]


@pytest.mark.parametrize(("env", "words"), BAD)
def test_an_unusable_setting_of_opentelemetry_is_refused_before_anything_is_sent(
    sandbox, make_job, env, words
):
    """By `check` too. The message has the line."""
    job = make_job(sandbox.url, rows=[["a"]], notify=ASKED)
    for verb in ("check", "run"):
        done = job.call(verb, env=env)
        assert done.returncode == 2
        assert "job.yaml line 4: `opentelemetry`" in done.stderr
        assert words in done.stderr
        assert done.stderr.rstrip().endswith("Nothing was sent.")
    assert sandbox.received() == 0


def test_without_the_extra_a_job_that_asks_for_it_is_refused_and_others_run(sandbox, make_job):
    """`check` and `run` print one sentence with the command that installs it. The packages are
    hidden, as if the extra were not installed."""
    job = make_job(sandbox.url, rows=[["a"]], notify=ASKED)
    without = (
        "import sys; sys.modules['opentelemetry'] = None;"
        "from pipeline.cli import main; sys.argv[0] = 'pipeline'; main()"
    )
    for verb in ("check", "run"):
        done = job.shell([sys.executable, "-c", without, verb, str(job.spec)])
        assert done.returncode == 2
        assert "line 4: `opentelemetry` needs packages that are not installed" in done.stderr
        assert "pip install 'paidrows[otel]'" in done.stderr
        assert "Traceback" not in done.stderr
    assert sandbox.received() == 0
    rehearsal = job.shell([sys.executable, "-c", without, "run", str(job.spec), "--sandbox"])
    assert rehearsal.returncode == 0, rehearsal.stderr
    job.write_spec()
    done = job.shell([sys.executable, "-c", without, "run", str(job.spec)])
    assert done.returncode == 0, done.stderr


def test_a_run_without_opentelemetry_imports_none_of_its_packages(sandbox, make_job):
    """Nor the HTTP client that only the exporters need."""
    job = make_job(sandbox.url, rows=[["a"]])
    code = (
        "import sys, pipeline; pipeline.run_job(sys.argv[1]);"
        "print([name for name in ('opentelemetry', 'requests') if name in sys.modules])"
    )
    done = job.shell([sys.executable, "-c", code, str(job.spec)])
    assert done.stdout.strip() == "[]", done.stderr


HOST = """
import asyncio, sys, logging
from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import pipeline

def globals_now():
    return trace.get_tracer_provider(), type(metrics.get_meter_provider()).__name__

kept = InMemorySpanExporter()
if sys.argv[2] == "own":
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
before = globals_now()
with trace.get_tracer("host").start_as_current_span("host") as span:
    pipeline.run_job(sys.argv[1])
    context = span.get_span_context()
assert globals_now() == before, before
assert logging.getLogger("opentelemetry").handlers == []
print([one.name for one in kept.get_finished_spans()], f"{context.span_id:016x}")
"""


def test_a_host_keeps_its_own_providers_and_its_span_is_the_parent(sandbox, make_job, monitor):
    """The run's span goes only to the run's collector. Without a provider there is no parent, and
    the run sets no provider."""
    collector = monitor()
    job = make_job(sandbox.url, rows=[["a"]], notify=ASKED)
    command = [sys.executable, "-c", HOST, str(job.spec)]
    done = job.shell([*command, "own"], env=environment(collector))
    assert done.returncode == 0, done.stderr
    names, span_id = done.stdout.rsplit(maxsplit=1)
    assert names == "['host']"
    [(span, _)] = spans(collector)
    assert span.parent_span_id.hex() == span_id
    done = job.shell([*command, "none"], env=environment(collector))
    assert done.returncode == 0, done.stderr
    assert spans(collector)[1][0].parent_span_id == b""


def test_a_server_that_invents_codes_exports_no_texts_and_no_endless_series(make_job, monitor):
    """A text that is not a name is not exported. Twenty names are, and all rows are counted."""

    def echo(body: bytes) -> Answer:
        number = int(json.loads(body)["story"].split()[-1])
        code = "The secret text of a row" if number < 3 else f"code_{number}"
        return 400, {}, json.dumps({"success": False, "error": "no", "code": code}).encode()

    collector = monitor()
    with Server(echo) as server:
        job = make_job(server.url, rows=[[f"row {n}"] for n in range(40)], notify=ASKED)
        summary = job.run(expect=3, env=environment(collector))
    assert len(summary["by_code"]) == 38
    assert all(b"secret" not in body for _, _, _, body in collector.calls)
    [(span, _)] = spans(collector)
    told = {k: v for k, v in plain(span.attributes).items() if k.startswith("pipeline.by_code.")}
    assert len(told) <= 21
    assert sum(told.values()) == 40
    points = metrics(collector)["pipeline.unfinished_rows"]
    assert sum(point.as_int for point, _ in points) == 40
