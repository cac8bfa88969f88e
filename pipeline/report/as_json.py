"""A report as one JSON object."""

from __future__ import annotations

from dataclasses import asdict

from pipeline.core.model import JsonObject
from pipeline.report.groups import as_json as groups_json
from pipeline.report.overview import Report
from pipeline.status.summary import as_json


def report_json(found: Report) -> JsonObject:
    """The JSON object of `report`, without the earlier stages."""
    return as_json(found.summary) | {
        "in_use": found.in_use,
        "in_flight": found.in_flight,
        "groups": groups_json(found.groups),
        "marked": [asdict(mark) for mark in found.marked],
        "reviews": found.reviews,
        "rate_limit": asdict(found.rate_limit) if found.rate_limit else None,
    }
