"""A summary for monitors: as gauges, in Prometheus' text format, and as Markdown for hosted CI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.model import ROW_COUNTS, Summary
from pipeline.core.wording import few_codes, one_line

PROMETHEUS_START = "# HELP pipeline_"
"""How each text of `prometheus` begins."""

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~>&<$@:])")


@dataclass(frozen=True, slots=True)
class Gauge:
    """One number of a job, with a sample for each set of labels. `unit` is a UCUM unit: s, {row},
    {request}."""

    name: str
    about: str
    unit: str
    samples: tuple[tuple[Mapping[str, str], float], ...]


def gauges(summary: Summary, ended_at: float) -> tuple[Gauge, ...]:
    """Returns the numbers of a summary as gauges. `ended_at` is in seconds since 1970."""
    rows = tuple(({"state": state}, getattr(summary, state)) for state in ROW_COUNTS)
    codes = tuple(({"code": code}, rows) for code, rows in few_codes(summary.by_code).items())
    paid = tuple(({"bound": bound}, getattr(summary, f"paid_{bound}")) for bound in _BOUNDS)
    stopped = (({"code": summary.stopped}, 1),) if summary.stopped else ()
    return (
        Gauge("rows", "Rows of the sheet, by status.", "{row}", rows),
        Gauge("unfinished_rows", "Rows that are not ok, by error code.", "{row}", codes),
        Gauge(
            "paid_requests",
            "Requests that were billed (min) or may have been (max).",
            "{request}",
            paid,
        ),
        _last("requests", "Requests that the last run sent.", "{request}", summary.requests),
        _last(
            "rate_limited_requests",
            "Requests of the last run that got a 429.",
            "{request}",
            summary.rate_limited,
        ),
        _last("duration", "How long the last run was sending.", "s", summary.duration_s),
        _last("end_timestamp", "When the last run ended.", "s", round(ended_at, 3)),
        _last("exit_code", "Exit code of the last run.", "", summary.exit_code),
        Gauge("last_run.stopped", "Why the last run stopped early.", "", stopped),
    )


def prometheus(summary: Summary, ended_at: float) -> str:
    """Returns gauges for node-exporter's textfile collector, with a label `job`, times in seconds.

    Names and units follow https://prometheus.io/docs/practices/naming/.
    """
    found = gauges(summary, ended_at)
    return "".join(_metric(gauge, {"job": summary.job}) for gauge in found)


def markdown(summary: Summary, error: str | None = None) -> str:
    """Returns a heading and a table, a few kilobytes. Texts of a server are escaped, not markup."""
    cells = {state: getattr(summary, state) for state in ("rows", *ROW_COUNTS)}
    paid = str(summary.paid_max)
    if summary.paid_min != summary.paid_max:
        paid = f"{summary.paid_min} to {summary.paid_max}"
    cells |= {"paid": paid, "requests": summary.requests, "exit code": summary.exit_code}
    if summary.stopped:
        cells["stopped"] = _plain(summary.stopped)
    lines = [
        f"### {_plain(summary.job or 'pipeline')}",
        "",
        f"| {' | '.join(cells)} |",
        f"|{' --- |' * len(cells)}",
        f"| {' | '.join(map(str, cells.values()))} |",
    ]
    if summary.by_code:
        lines += ["", "| error code | rows |", "| --- | --- |"]
        codes = few_codes(summary.by_code).items()
        lines += [f"| {_plain(code)} | {rows} |" for code, rows in codes]
    if error:
        lines += ["", _plain(error, 500)]
    return "\n".join([*lines, "", ""])


_BOUNDS = ("min", "max")


def _last(name: str, about: str, unit: str, value: float) -> Gauge:
    return Gauge(f"last_run.{name}", about, unit, (({}, value),))


def _metric(gauge: Gauge, common: Mapping[str, str]) -> str:
    suffix = "_seconds" if gauge.unit == "s" else ""
    name = f"pipeline_{gauge.name.replace('.', '_')}{suffix}"
    lines = [f"# HELP {name} {gauge.about}", f"# TYPE {name} gauge"]
    for labels, value in gauge.samples:
        told = ",".join(f'{key}="{_label(text)}"' for key, text in {**common, **labels}.items())
        lines.append(f"{name}{{{told}}} {value}")
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _plain(text: str, most: int = 80) -> str:
    """Returns `text` in one line, escaped so that Markdown shows it unchanged."""
    return _MARKDOWN.sub(r"\\\1", one_line(text, most))
