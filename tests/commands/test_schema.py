"""What the commands print with `--json` fits the schemas that `pipeline schema` prints."""

from __future__ import annotations

import json

import jsonschema
import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.commands.schemas import COMMANDS, schema_of_output
from pipeline.job.schema import job_schema
from tests.conftest import Job, SandboxProcess

ROWS = [["A1", "a"], ["A2", "b #fault:blocked"], ["A3", "c #fault:cut-body"], ["A4", "d"]]
COLUMNS = {"title": "$.title", "n": {"path": "$.n", "type": "integer"}}


def printed(job: Job, *words: str) -> list[dict]:
    """The objects that a command printed, each of which has to fit."""
    done = job.call(words[0], *words[1:], "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found, done.stderr
    validator = jsonschema.Draft202012Validator(schema_of_output(words[0]))
    for one in found:
        errors = [error.message for error in validator.iter_errors(one)]
        assert errors == [], (words, one)
    return found


@pytest.fixture
def job(make_job, sandbox: SandboxProcess) -> Job:
    job = make_job(sandbox.url, ["id", "story"], ROWS, concurrency=1)
    job.write_spec(id="id", variables={"story": "story"}, columns=COLUMNS)
    return job


def test_what_every_command_prints_fits_its_schema(job: Job):
    """With rows of every state, and after errors."""
    folder = job.folder
    done, reviews = f"{folder}/done.csv", f"{folder}/reviews.xlsx"
    printed(job, "status")  # refused before the first run
    printed(job, "check")
    printed(job, "run", "--limit", "3")
    printed(job, "check")
    for words in (
        ("status",),
        ("report",),
        ("show",),
        ("show", "--versions"),
        ("review", "--rows", "1", "--approve"),
        ("review",),
        ("run",),
        ("run", "--again", "4", "--yes"),
        ("show", "--versions"),
        ("resume", "--only", "blocked"),
        ("resume", "--only", "blocked", "--rows", "99"),
        ("settle", "--rows", "3"),
        ("export", "--to", done, "--review", reviews, "--citations", f"{folder}/cited.csv"),
        ("review", "--from", reviews),
        ("export", "--versions", f"{folder}/versions.csv"),
        ("history",),
        ("verify",),
        ("schedule", "--at", "02:00", "--as", "cron"),
        ("status",),
        ("report",),
    ):
        printed(job, *words)


def test_what_a_command_prints_about_a_broken_job_fits_too(job: Job):
    job.run("--limit", "1")
    job.spec.write_text("name: job\n")
    for command in set(COMMANDS) - {"init"}:
        more = {"schedule": ["--at", "02:00"], "export": ["--to", "x.csv"]}.get(command, [])
        [found] = printed(job, command, *more)
        assert found["error"]


def test_every_command_with_json_has_a_schema():
    having = {
        name
        for name, command in cli.commands.items()
        if any("--json" in parameter.opts for parameter in command.params)
    }
    assert having == set(COMMANDS)


@pytest.mark.parametrize("what", ["job", *COMMANDS])
def test_each_schema_is_printed_and_is_one(what: str):
    found = json.loads(CliRunner().invoke(cli, ["schema", what]).stdout)
    jsonschema.Draft202012Validator.check_schema(found)
    assert found == (job_schema() if what == "job" else schema_of_output(what))


def test_another_schema_is_refused_with_the_nearest_name():
    done = CliRunner().invoke(cli, ["schema", "reprot"])
    assert done.exit_code == 2
    assert 'Did you mean "report"?' in done.stderr
