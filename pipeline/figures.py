"""A summary for whoever watches: Prometheus' text format, and Markdown for hosted CI."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.model import Summary

_STATES = ("ok", "failed", "ambiguous", "pending", "skipped")
_CODES_SHOWN = 20
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~>&<$@:])")


def prometheus(summary: Summary, ended_at: float) -> str:
    """For node-exporter's textfile collector: gauges with a label `job`, times in seconds.

    Names and units as in https://prometheus.io/docs/practices/naming/.
    """
    job = f'job="{_label(summary.job)}"'
    rows = [(f'{job},state="{state}"', getattr(summary, state)) for state in _STATES]
    codes = [(f'{job},code="{_label(code)}"', n) for code, n in summary.by_code.items()]
    paid = [(f'{job},bound="{bound}"', getattr(summary, f"paid_{bound}")) for bound in _BOUNDS]
    stopped = [(f'{job},code="{summary.stopped}"', 1)] if summary.stopped else []
    return "".join(
        (
            _metric("rows", "Rows of the sheet by where they stand.", rows),
            _metric("unfinished_rows", "Rows that are not ok, by error code.", codes),
            _metric("paid_requests", "Requests that were (min) or may have been billed.", paid),
            _last("requests", "Requests that the last run sent.", job, summary.requests),
            _last("rate_limited_requests", "Of those, 429s.", job, summary.rate_limited),
            _last("duration_seconds", "How long it sent.", job, summary.duration_s),
            _last("end_timestamp_seconds", "When it ended.", job, round(ended_at, 3)),
            _last("exit_code", "Its exit code.", job, summary.exit_code),
            _metric("last_run_stopped", "Why it ended before its rows did.", stopped),
        )
    )


def markdown(summary: Summary, error: str | None = None) -> str:
    """A heading and a table of a few kilobytes; what a server said is text in it, not markup."""
    cells = {state: getattr(summary, state) for state in ("rows", *_STATES)}
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
        codes = list(summary.by_code.items())
        lines += [f"| {_plain(code)} | {rows} |" for code, rows in codes[:_CODES_SHOWN]]
    if error:
        lines += ["", _plain(error, 500)]
    return "\n".join([*lines, "", ""])


_BOUNDS = ("min", "max")


def _last(name: str, about: str, labels: str, value: float) -> str:
    return _metric(f"last_run_{name}", about, [(labels, value)])


def _metric(name: str, about: str, samples: Iterable[tuple[str, float]]) -> str:
    lines = [f"# HELP pipeline_{name} {about}", f"# TYPE pipeline_{name} gauge"]
    lines += [f"pipeline_{name}{{{labels}}} {value}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _plain(text: str, most: int = 80) -> str:
    """`text` in one line that Markdown shows as it is."""
    line = " ".join(text.split())
    line = line if len(line) <= most else line[: most - 1] + "…"
    return _MARKDOWN.sub(r"\\\1", line)
