"""Whatever a person does to the sheet, the spec and the process, the book is right."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import count

import pytest

from tests.conftest import Job
from tests.forks import forking
from tests.machine import Bench, attack


@pytest.fixture
def bench(start_sandbox, tmp_path) -> Iterator[Bench]:
    """Answers take 60 ms, so that a kill finds some on their way."""
    sandbox = start_sandbox(latency="60ms")
    environment = Job(tmp_path, tmp_path, tmp_path, sandbox.url).environment()
    with forking(tmp_path, environment) as forks:
        yield Bench(sandbox, forks, count())


def a_seed() -> int:
    """Another one each time; MACHINE_SEED repeats the examples of a run that failed."""
    return int(os.environ.get("MACHINE_SEED") or random.randrange(2**32))


def test_whatever_is_done_to_sheet_spec_and_process_the_book_is_right(bench):
    """A small budget of random examples."""
    attack(bench, 8, 6, a_seed())


@pytest.mark.long
def test_whatever_is_done_to_sheet_spec_and_process_the_book_is_right_at_length(bench):
    """Other examples every time."""
    attack(bench, 1000, 15, a_seed())
