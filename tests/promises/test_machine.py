"""The book is right whatever a person does to the sheet, the job file and the process."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from itertools import count

import pytest

from tests.conftest import Job
from tests.support.forks import forking
from tests.support.machine import Bench, Step, attack, measure, replay

# A thousand examples take half an hour on one core; MACHINE_EXAMPLES asks for as many.
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES") or 400)
PARTS = 4


@pytest.fixture
def bench(start_sandbox, tmp_path) -> Iterator[Bench]:
    """Answers take 60 ms, so that a kill finds some requests in flight."""
    sandbox = start_sandbox(latency="60ms")
    environment = Job(tmp_path, tmp_path, tmp_path, sandbox.url).environment()
    with forking(tmp_path, environment) as forks:
        shared = Bench(sandbox, forks, count())
        measure(shared)
        yield shared


# Examples from random attacks, by the rule that they test.
FOUND: dict[str, list[Step]] = {
    "ten rows that fail alike end a run with 4, as the first of a wrong job do": [
        ("begin", {"rows": ["blocked #fault:blocked"] * 8}),
        ("duplicate", {"place": 0}),
        ("duplicate", {"place": 0}),
        ("run", {"limit": None}),
        ("resume", {"more": [], "ambiguous": False}),
    ],
    "a reviewed row is not paid again because settings changed, even if the user accepts that": [
        ("begin", {"rows": ["story 0", "not-json #fault:not-json", "story 0"]}),
        ("run", {"limit": None}),
        ("review", {"place": 0, "what": "--edit"}),
        ("change_the_constant", {"accepted": True, "tone": "dry"}),
    ],
}


def a_seed() -> int:
    """Another seed each time. MACHINE_SEED repeats the examples of a failed run."""
    return int(os.environ.get("MACHINE_SEED") or random.randrange(2**32))


@pytest.mark.parametrize("name", FOUND)
def test_examples_that_failed_before_have_the_right_book(bench, name):
    """With the steps as the attack printed them."""
    replay(bench, FOUND[name])


def test_after_any_change_of_sheet_job_file_and_process_the_book_is_right(bench):
    """A bounded number of other examples each time. `make soak` does more."""
    bench.until = time.monotonic() + 30
    attack(bench, 12, 8, a_seed())


@pytest.mark.long(first=True)
@pytest.mark.parametrize("part", range(PARTS))
def test_after_any_change_of_sheet_job_file_and_process_the_book_is_right_at_length(bench, part):
    """In parts, so that they can run in parallel."""
    attack(bench, EXAMPLES // PARTS, 15, a_seed() + part)
