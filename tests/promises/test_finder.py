"""What the page finds among the rows is what an export has, whatever happens to the index."""

from __future__ import annotations

import csv
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.core.errors import Refused
from pipeline.results.answer_index import read_segment
from pipeline.show.finder import Finder
from tests.conftest import Job
from tests.support.found import compare, found, same
from tests.support.servers import Server

COLUMNS = ["sku", "story", "note"]
NOTES = ["Straße", "STRASSE", "ab", "b", "İstanbul", "", "ünï", "a\nb", "<b>"]
SHEET = [
    [f"S{n}", f"story {n} #fault:blocked" if n % 9 == 4 else f"story {n}", NOTES[n % len(NOTES)]]
    for n in range(60)
]
SPEC = {
    "id": "sku",
    "variables": {"story": "story"},
    "skip_if_empty": ["note"],
    "columns": {"name": "$.name", "size": {"path": "$.size", "type": "integer"}},
}


def answered(body: dict) -> str:
    """Some answers are JSON, and every third is the same."""
    number = int(body["story"].split()[1])
    if number % 3 == 0:
        return "The same long answer for several rows, which nobody wants to read twice."
    return f'{{"name": "Dog {number}", "size": {number if number % 2 else repr("big")}}}'


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[Job]:
    place = tmp_path_factory.mktemp("found")
    job = Job(place, place / "job.yaml", place / "sheet.csv", "")
    with Server(answer=answered) as server:
        job.base_url = server.url
        job.write_spec(**SPEC)
        job.write_sheet(COLUMNS, SHEET)
        job.run("--limit", "20", expect=0)
        yield job
