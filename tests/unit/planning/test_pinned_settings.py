"""The settings that a run folder is tied to."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.core.clock import SystemClock
from pipeline.core.errors import Refused
from pipeline.core.model import Row
from pipeline.inputs.mapping import Variables
from pipeline.job.spec import JobSpec
from pipeline.ledger import matching, queries
from pipeline.ledger.ledger import open_ledger
from pipeline.planning.pinned_settings import pins_text, read_pins


def test_a_folder_of_the_first_release_belongs_to_its_host_with_any_path(tmp_path):
    """That release did not store a path."""
    spec = JobSpec(tmp_path / "a.yaml", "a", "wf", tmp_path / "a.csv", tmp_path / "runs")
    variables = Variables("wf", ())
    with open_ledger(tmp_path / "ledger.sqlite", SystemClock()) as ledger:
        for host in ("api.example", "api.example/one"):
            ledger.read(matching.begin)
            ledger.begin_run("run", "s", 1, 0, pins=pins_text({"host": host, "workflow": "wf"}))
            row = Row(1, b"k" * 16, b"k" * 16, 0, b"{}")
            asyncio.run(ledger.intend(row))
            ledger.recover()
            if host == "api.example":
                ledger.set_meta(queries.BEGAN_WITH_SCHEMA_1, "yes")
                read_pins(ledger.read, spec, variables, "api.example/one")
                with pytest.raises(Refused, match=r"belongs to api\.example"):
                    read_pins(ledger.read, spec, variables, "other.example/one")
        with pytest.raises(Refused, match=r"belongs to api\.example/one"):
            read_pins(ledger.read, spec, variables, "api.example/two")
