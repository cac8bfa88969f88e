"""Tools for agents: what they can pay for, write and see. Bills are those of the server."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from pipeline.job.run_folder import RunFolder
from tests.conftest import Job, SandboxProcess
from tests.support.browser import eventually

ROWS = [[f"story {n}"] for n in range(8)]
READING = {"list_jobs", "check", "status", "report", "show"}


class Agent:
    """A client of `pipeline mcp` for the folder of a job."""

    def __init__(self, job: Job, *options: str) -> None:
        words = ["-m", "pipeline", "mcp", str(job.folder), *options]
        self._server = StdioServerParameters(
            command=sys.executable, args=words, env=job.environment()
        )

    def tools(self) -> dict[str, Any]:
        async def listed() -> dict[str, Any]:
            async with Client(self._server) as client:
                return {tool.name: tool for tool in (await client.list_tools()).tools}

        return asyncio.run(listed())

    def call(self, tool: str, /, **given: object) -> tuple[bool, Any]:
        """Returns whether the tool was refused, and its object or its words."""

        async def called() -> tuple[bool, Any]:
            async with Client(self._server) as client:
                found = await client.call_tool(tool, given)
                text = found.content[0].text if found.content else ""
                return bool(found.is_error), text if found.is_error else found.structured_content

        return asyncio.run(called())

    def at_once(self, tool: str, given: dict[str, Any], *, times: int) -> list[tuple[bool, Any]]:
        """Calls a tool many times without waiting. Returns for each what `call` does."""

        async def called() -> list[tuple[bool, Any]]:
            async with Client(self._server) as client:
                calls = [client.call_tool(tool, given) for _ in range(times)]
                return [(bool(one.is_error), one.content) for one in await asyncio.gather(*calls)]

        return asyncio.run(called())

    def done(self, tool: str, /, **given: object) -> dict[str, Any]:
        refused, found = self.call(tool, **given)
        assert not refused, found
        return found


@pytest.fixture
def job(make_job, sandbox: SandboxProcess) -> Job:
    return make_job(sandbox.url, rows=ROWS)


def test_tools_that_pay_or_write_exist_only_if_the_person_says_so(job: Job, tmp_path: Path):
    assert set(Agent(job).tools()) == READING
    paying = Agent(job, "--allow-run", "--max-paid-per-run", "5").tools()
    assert set(paying) == READING | {"run", "resume"}
    assert set(Agent(job, "--export-to", str(tmp_path)).tools()) == READING | {"export"}
    words = json.dumps({name: tool.input_schema for name, tool in paying.items()})
    for word in ("again", "ambiguous", "accept", "settle", "review", "yes", "key", "max_paid"):
        assert word not in words
    for options in (["--allow-run"], ["--max-paid-per-run", "5"]):
        done = job.shell([sys.executable, "-m", "pipeline", "mcp", *options])
        assert done.returncode == 2


def test_a_run_needs_a_plan_and_pays_no_more_than_the_person_allowed(job: Job, sandbox):
    agent = Agent(job, "--allow-run", "--max-paid-per-run", "5")
    plan = agent.done("check", job="job.yaml")
    assert plan["paid_at_most"] == 8
    refused, words = agent.call("run", job="job.yaml", plan=plan["plan"])
    assert refused
    assert "the person allowed 5" in words
    plan = agent.done("check", job="job.yaml", limit=5)
    for token, limit in (("plan1-0", 5), (plan["plan"], 8), (plan["plan"], None), ("", 5)):
        assert agent.call("run", job="job.yaml", plan=token, limit=limit)[0]
    assert sandbox.received() == 0
    started = agent.done("run", job="job.yaml", plan=plan["plan"], limit=5)
    assert started["paid_at_most"] == 5
    eventually(lambda: not RunFolder(job.output).in_use)
    assert agent.call("run", job="job.yaml", plan=plan["plan"], limit=5)[0]
    assert sum(sandbox.billed().values()) == 5
    assert agent.done("status", job="job.yaml")["ok"] == 5


def test_the_limits_of_the_job_file_stay(job: Job, sandbox):
    job.write_spec(variables={"story": "story"}, max_paid=2)
    agent = Agent(job, "--allow-run", "--max-paid-per-run", "100")
    plan = agent.done("check", job="job.yaml")
    assert plan["paid_at_most"] == 2
    agent.done("run", job="job.yaml", plan=plan["plan"])
    eventually(lambda: sum(sandbox.billed().values()) == 2 and not RunFolder(job.output).in_use)


def test_what_may_be_paid_twice_needs_a_person(make_job, sandbox):
    """Ambiguous rows, and the same rows in another run folder."""
    job = make_job(sandbox.url, rows=[["a #fault:cut-body"], ["b"]], concurrency=1)
    job.call("run")
    agent = Agent(job, "--allow-run", "--max-paid-per-run", "100")
    plan = agent.done("check", job="job.yaml", command="resume")
    assert plan["to_send"] == 0
    assert agent.call("check", job="job.yaml", command="settle")[0]
    job.write_spec(name="other", variables={"story": "story"})
    plan = agent.done("check", job="job.yaml")
    refused, words = agent.call("run", job="job.yaml", plan=plan["plan"])
    assert refused
    assert "A person has to decide" in words
    assert sandbox.received() == 2


def test_rows_and_groups_are_plain_json_without_the_key(job: Job):
    job.call("run", "--limit", "3")
    agent = Agent(job)
    rows = agent.done("show", job="job.yaml", limit=2)["rows"]
    assert [row["row"] for row in rows] == [1, 2]
    assert "groups" in agent.done("report", job="job.yaml")
    [listed] = agent.done("list_jobs")["jobs"]
    assert (listed["job"], listed["summary"]["ok"]) == ("job.yaml", 3)
    for name in READING - {"list_jobs"}:
        assert "sk_sandbox" not in json.dumps(agent.done(name, job="job.yaml"))


@pytest.mark.parametrize("name", ["../secret.yaml", "/etc/passwd", "none.yaml", ""])
def test_a_path_outside_the_folder_is_refused(job: Job, name: str):
    (job.folder.parent / "secret.yaml").write_text("name: secret\nworkflow: wf\ninput: x.csv\n")
    refused, words = Agent(job).call("check", job=name)
    assert refused
    assert "Traceback" not in words
    assert "workflow" not in words


def test_an_export_is_a_new_file_in_the_named_folder(job: Job, tmp_path: Path):
    job.run()
    agent = Agent(job, "--export-to", str(tmp_path / "out"))
    made = agent.done("export", job="job.yaml", name="done.csv")
    assert Path(made["exported"]).parent == tmp_path / "out"
    before = (tmp_path / "out" / "done.csv").read_bytes()
    for name in ("done.csv", "../done.csv", "/tmp/done.csv", ".done.csv", "a/b.csv", ""):
        assert agent.call("export", job="job.yaml", name=name)[0], name
    assert (tmp_path / "out" / "done.csv").read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["done.csv"]


def test_without_the_extra_the_command_names_it(tmp_path: Path):
    code = "import sys; sys.modules['mcp'] = None; from pipeline.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "mcp"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert "paidrows[mcp]" in done.stderr


def test_a_negative_limit_chooses_nothing(job: Job):
    """It would count from the end, so an agent would see another plan than it asked for."""
    for command in ("run", "resume"):
        refused, words = Agent(job).call("check", job="job.yaml", command=command, limit=-1)
        assert refused
        assert "must not be negative" in words


def test_finished_rows_that_a_changed_job_file_would_pay_again_need_a_person(job: Job, sandbox):
    """A plan token alone would allow them: on the page a person sees their number first."""
    job.run()
    job.write_spec(variables={"story": "story"}, constants={"tone": "warm"})
    agent = Agent(job, "--allow-run", "--max-paid-per-run", "100")
    plan = agent.done("check", job="job.yaml")
    refused, words = agent.call("run", job="job.yaml", plan=plan["plan"])
    eventually(lambda: not RunFolder(job.output).in_use)
    assert sum(sandbox.billed().values()) == 8
    assert refused
    assert "A person has to decide" in words


def test_failed_rows_that_may_have_been_paid_need_a_person(make_job, sandbox):
    """A server may bill a run that failed. Rows that failed without a bill can be sent again."""
    rows = [["a #fault:success-false"], ["b #fault:json-500"], ["c"]]
    job = make_job(sandbox.url, rows=rows, variables={"story": "story"}, retries=0)
    job.call("run")
    before = sandbox.billed()
    agent = Agent(job, "--allow-run", "--max-paid-per-run", "100")
    plan = agent.done("check", job="job.yaml", command="resume")
    refused, words = agent.call("resume", job="job.yaml", plan=plan["plan"])
    eventually(lambda: not RunFolder(job.output).in_use)
    assert sandbox.billed() == before
    assert refused
    assert plan["failed_maybe_paid"] == [1]
    assert "may have been paid already: row 1" in words
    given = {"job": "job.yaml", "only": "internal_server_error"}
    plan = agent.done("check", command="resume", **given)
    agent.done("resume", plan=plan["plan"], **given)
    eventually(lambda: not RunFolder(job.output).in_use)
    assert sandbox.received() == 4
    assert sandbox.billed() == before


def test_twenty_calls_with_one_plan_start_one_run(job: Job, sandbox):
    """Each of the other calls is refused, although a run has begun in the folder."""
    agent = Agent(job, "--allow-run", "--max-paid-per-run", "5")
    given = {"job": "job.yaml", "limit": 5, "plan": ""}
    given["plan"] = agent.done("check", job="job.yaml", limit=5)["plan"]
    found = agent.at_once("run", given, times=20)
    eventually(lambda: not RunFolder(job.output).in_use)
    assert sum(sandbox.billed().values()) == 5
    assert [refused for refused, _ in found].count(False) == 1


def test_exports_at_once_under_one_name_make_one_file(job: Job, tmp_path: Path):
    job.run()
    agent = Agent(job, "--export-to", str(tmp_path / "out"))
    found = agent.at_once("export", {"job": "job.yaml", "name": "done.xlsx"}, times=10)
    assert [refused for refused, _ in found].count(False) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["done.xlsx"]


@pytest.mark.parametrize("name", ["a" * 300 + ".csv", "a\nb.csv", "done.zip"])
def test_a_name_that_an_export_cannot_have_is_refused_with_its_reason(job: Job, tmp_path, name):
    job.run()
    agent = Agent(job, "--export-to", str(tmp_path / "out"))
    refused, words = agent.call("export", job="job.yaml", name=name)
    assert refused
    assert words.endswith((" is not a plain file name.", "Nothing was written."))
    assert not [*tmp_path.glob("out/*")]


def test_a_folder_for_exports_that_cannot_be_made_is_named(job: Job, tmp_path: Path):
    (tmp_path / "out").write_text("a file")
    refused, words = Agent(job, "--export-to", str(tmp_path / "out")).call(
        "export", job="job.yaml", name="done.csv"
    )
    assert refused
    assert "out" in words
    assert "Nothing was written." in words


@pytest.mark.parametrize("given", [{"rows": "1"}, {"limt": 1}, {"max_paid": 1}])
def test_an_argument_that_a_tool_does_not_have_is_refused(job: Job, sandbox, given):
    """If it was ignored, a run of one row would be a run of all rows."""
    agent = Agent(job, "--allow-run", "--max-paid-per-run", "100")
    plan = agent.done("check", job="job.yaml")["plan"]
    for tool, more in (("check", {}), ("run", {"plan": plan})):
        refused, words = agent.call(tool, job="job.yaml", **more, **given)
        eventually(lambda: not RunFolder(job.output).in_use)
        assert sandbox.received() == 0
        assert refused
        assert f"`{next(iter(given))}`" in words


@pytest.mark.parametrize("row", ["a", "a #fault:result-5mb"])
def test_an_export_leaves_the_long_texts_of_an_earlier_workbook(make_job, sandbox, tmp_path, row):
    """Those are in a folder next to it, which a new workbook of the same name would renew."""
    job = make_job(sandbox.url, rows=[[row]])
    job.run()
    kept = tmp_path / "out" / "done.files" / "row-2-result.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("paid")
    refused, words = Agent(job, "--export-to", str(tmp_path / "out")).call(
        "export", job="job.yaml", name="done.xlsx"
    )
    assert kept.exists()
    assert kept.read_text() == "paid"
    assert (refused, "done.files: this folder exists" in words) == (True, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["done.files"]


def test_a_run_is_for_a_job_file_because_a_run_folder_may_be_an_old_copy(job: Job, sandbox):
    """The copy does not know which rows were paid for since, or has a job file elsewhere."""
    job.call("run", "--limit", "2")
    copy = shutil.copytree(job.output, job.folder / "backup")
    job.run()
    agent = Agent(job, "--allow-run", "--max-paid-per-run", "100")
    plan = agent.done("check", job=copy.name)
    refused, words = agent.call("run", job=copy.name, plan=plan["plan"])
    eventually(lambda: not RunFolder(copy).in_use)
    assert set(sandbox.billed().values()) == {1}
    assert refused
    assert "a job file" in words
