"""Runs the recipes of docs/recipes.md unchanged, in the tools that they are for.

`make test-recipes` installs these tools below `.recipes/`. Without them the tests are skipped. Only
the path of the job file is replaced.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TOP, Job, SandboxProcess, free_port

PRINTED = "/srv/jobs/products.yaml"


def tool(name: str) -> Path:
    """Returns the folder of a tool's commands. Skips the test if the tool is not installed."""
    folder = TOP / ".recipes" / name / "bin"
    if not (folder / "pipeline").exists():
        pytest.skip(f"{name} is not installed: `make test-recipes` does it")
    return folder


def snippets() -> list[str]:
    text = (TOP / "docs" / "recipes.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def recipe(name: str, job: Job) -> str:
    """Returns the function and the wrapper that imports `name`, as one file, unchanged."""
    _, night, *wrappers = snippets()
    [wrapper] = [text for text in wrappers if f"from {name}" in text]
    assert wrapper.count(PRINTED) == 1
    return f"{night}\n\n{wrapper}".replace(PRINTED, str(job.spec))


def wait_for(found: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        value = found()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds} s")


def worker_of(job: Job) -> int:
    """Returns the process that has the run folder's lock."""
    lock = job.output / "lock"

    def holder() -> int | None:
        for entry in Path("/proc").iterdir():
            try:
                if any(os.readlink(fd) == str(lock) for fd in (entry / "fd").iterdir()):
                    return int(entry.name)
            except OSError:
                continue
        return None

    return int(wait_for(holder, "a worker in the run folder"))


def kill_in_flight(sandbox: SandboxProcess, job: Job) -> None:
    """Kills the worker once some rows are billed and others are in flight."""
    wait_for(lambda: sum(sandbox.billed().values()) >= 6, "the first bills")
    os.kill(worker_of(job), signal.SIGKILL)


class Service:
    """A command of a scheduler, with all processes that it starts. Its output goes to a file."""

    def __init__(self, command: list[str], env: dict[str, str], output: Path) -> None:
        self.output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                command, env=env, stdout=file, stderr=file, start_new_session=True
            )

    def said(self, text: str) -> bool:
        return text in self.output.read_text(encoding="utf-8", errors="replace")

    def end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def start(command: list[str], env: dict[str, str]) -> Service:
        started.append(Service(command, env, tmp_path / f"service-{len(started)}.log"))
        return started[-1]

    yield start
    for service in reversed(started):
        service.end()


def stories(number: int) -> list[list[str]]:
    return [[f"story {n}"] for n in range(number)]


def shown(job: Job) -> tuple[int, int, int]:
    """Returns (ok, ambiguous, exit code of the last run), as the job reports them."""
    summary = json.loads((job.output / "summary.json").read_text(encoding="utf-8"))
    return summary["ok"], summary["ambiguous"], summary["exit_code"]


# -- Airflow ------------------------------------------------------------------------------


class Airflow:
    """A scheduler, its API and a worker, with the recipe as the only DAG."""

    def __init__(self, folder: Path, bin_folder: Path, job: Job, start: Callable[..., Service]):
        self.home = folder
        self._airflow = str(bin_folder / "airflow")
        (folder / "dags").mkdir(parents=True)
        (folder / "dags" / "products.py").write_text(recipe("airflow", job), encoding="utf-8")
        port = free_port()
        settings = {
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "1",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
        }
        self._env = job.environment(**settings)
        start([self._airflow, "standalone"], self._env)
        wait_for(lambda: "products" in self._ask("dags", "list"), "the DAG")

    def night(self, run_id: str) -> None:
        self._ask("dags", "trigger", "products", "--run-id", run_id)

    def ended(self, run_id: str) -> tuple[str, int]:
        """Waits for the end, and returns (state, number of tries)."""

        def state() -> str | None:
            *_, last = self._ask("dags", "list-runs", "products", "-o", "json").splitlines()
            [found] = [run["state"] for run in json.loads(last) if run["run_id"] == run_id]
            return found if found in ("success", "failed") else None

        found = wait_for(state, f"the end of {run_id}")
        logs = self.home / "logs" / "dag_id=products" / f"run_id={run_id}" / "task_id=send"
        return found, len(list(logs.glob("attempt=*.log")))

    def _ask(self, *words: str) -> str:
        done = subprocess.run(
            [self._airflow, *words], env=self._env, capture_output=True, text=True, check=False
        )
        return done.stdout


def test_airflow_resumes_a_night_whose_worker_died_and_pays_nothing_twice(
    start_sandbox, make_job, start_service, tmp_path
):
    """The second try sends the rest, finds the rows in flight ambiguous, and fails: a third try
    would not help. Nights that end well, or with a failed row, are tried once."""
    bin_folder = tool("airflow")
    sandbox = start_sandbox(latency="1s")
    job = make_job(sandbox.url, rows=stories(3), concurrency=3)
    airflow = Airflow(tmp_path / "airflow", bin_folder, job, start_service)

    airflow.night("well")
    assert airflow.ended("well") == ("success", 1)
    job.write_sheet(["story"], [*stories(3), ["#fault:blocked"]])
    airflow.night("failed")
    assert airflow.ended("failed") == ("failed", 1)

    job.write_sheet(["story"], stories(40))
    airflow.night("killed")
    kill_in_flight(sandbox, job)
    assert airflow.ended("killed") == ("failed", 2)
    ok, ambiguous, exit_code = shown(job)
    assert (ok + ambiguous, exit_code) == (40, 5)
    assert 1 <= ambiguous <= 3
    assert Counter(entry["received"] for entry in sandbox.bills()) == {1: 41}


# -- Prefect ------------------------------------------------------------------------------


class Prefect:
    """A server, and a process that serves the recipe's flow."""

    def __init__(
        self,
        folder: Path,
        bin_folder: Path,
        job: Job,
        start: Callable[..., Service],
        text: str,
    ):
        folder.mkdir()
        self._prefect = str(bin_folder / "prefect")
        port = free_port()
        self._api = f"http://127.0.0.1:{port}/api"
        self._env = job.environment(
            PREFECT_HOME=str(folder),
            PREFECT_API_URL=self._api,
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_FLOWS_DEFAULT_RETRIES="2",
            DO_NOT_TRACK="1",
        )
        command = [self._prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        start(command, self._env)
        wait_for(self._up, "the server")
        flow = folder / "products.py"
        flow.write_text(text, encoding="utf-8")
        serving = start([str(bin_folder / "python"), str(flow)], self._env)
        wait_for(lambda: serving.said("is being served"), "the flow")

    def night(self) -> str:
        """Starts a run and returns its id."""
        before = {run["id"] for run in self._runs()}
        subprocess.run(
            [self._prefect, "deployment", "run", "products/nightly"],
            env=self._env,
            capture_output=True,
            check=True,
        )
        [new] = [run["id"] for run in self._runs() if run["id"] not in before]
        return str(new)

    def ended(self, run_id: str) -> tuple[str, int]:
        """Waits for the end, and returns (state, number of tries)."""

        def state() -> tuple[str, int] | None:
            [run] = [run for run in self._runs() if run["id"] == run_id]
            over = run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")
            return (run["state_type"], run["run_count"]) if over else None

        return wait_for(state, "the end of the flow run")

    def _up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._api}/health", timeout=5):
                return True
        except OSError:
            return False

    def _runs(self) -> list[dict[str, Any]]:
        kind = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self._api}/flow_runs/filter", b"{}", kind)
        with urllib.request.urlopen(request, timeout=30) as answer:
            runs = json.loads(answer.read())
        return [run for run in runs if not run["auto_scheduled"]]


def test_prefect_continues_the_night_after_its_process_died_and_pays_nothing_twice(
    start_sandbox, make_job, start_service, tmp_path
):
    """Prefect itself tries no row again, although its settings ask for two more tries."""
    bin_folder = tool("prefect")
    sandbox = start_sandbox(latency="1s")
    job = make_job(sandbox.url, rows=stories(3), concurrency=3)
    text = recipe("prefect", job)
    prefect = Prefect(tmp_path / "prefect", bin_folder, job, start_service, text)

    assert prefect.ended(prefect.night()) == ("COMPLETED", 1)
    job.write_sheet(["story"], [*stories(3), ["#fault:blocked"]])
    assert prefect.ended(prefect.night()) == ("FAILED", 1)

    job.write_sheet(["story"], stories(40))
    killed = prefect.night()
    kill_in_flight(sandbox, job)
    assert prefect.ended(killed) == ("CRASHED", 1)
    assert prefect.ended(prefect.night()) == ("FAILED", 1)
    ok, ambiguous, exit_code = shown(job)
    assert (ok + ambiguous, exit_code) == (40, 5)
    assert 1 <= ambiguous <= 3
    assert prefect.ended(prefect.night()) == ("FAILED", 1)
    assert Counter(entry["received"] for entry in sandbox.bills()) == {1: 41}


def test_a_flow_with_retries_pays_nothing_twice_and_hides_no_ambiguous_row(
    start_sandbox, make_job, start_service, tmp_path
):
    """It tries three times where the recipe says once. The API still gets one request per row."""
    bin_folder = tool("prefect")
    sandbox = start_sandbox()
    job = make_job(sandbox.url, rows=[*stories(3), ["#fault:html-502"]])
    text = recipe("prefect", job).replace("retries=0", "retries=2")
    prefect = Prefect(tmp_path / "prefect", bin_folder, job, start_service, text)
    assert prefect.ended(prefect.night()) == ("FAILED", 3)
    assert shown(job)[:2] == (3, 1)
    assert Counter(entry["received"] for entry in sandbox.bills()) == {1: 4}


# -- a notebook ---------------------------------------------------------------------------

EXECUTE = """
import asyncio, json, sys, urllib.request
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

cell = nbformat.v4.new_code_cell(sys.stdin.read())
notebook = nbformat.v4.new_notebook(cells=[cell])
client = NotebookClient(notebook, timeout=120)

async def interrupted(url):
    while True:
        await asyncio.sleep(0.1)
        with urllib.request.urlopen(url) as answer:
            bills = json.loads(answer.read())["bills"]
        if sum(entry["billed"] for entry in bills) >= 3:
            return await client.km.interrupt_kernel()

async def main():
    stopper = asyncio.create_task(interrupted(sys.argv[1])) if sys.argv[1:] else None
    try:
        await client.async_execute()
    except CellExecutionError as error:
        print(error.ename)
    if stopper:
        await stopper

asyncio.run(main())
for output in cell.outputs:
    print(output.get("text", ""), end="")
"""


def execute_cell(job: Job, *words: str, code: str | None = None) -> str:
    """Runs the recipe's cell with a kernel in the folder above `jobs`, or the cell `code`, and
    returns its output."""
    python = str(tool("notebook") / "python")
    if code is None:
        job.spec.rename(job.folder / "products.yaml")
    done = subprocess.run(
        [python, "-c", EXECUTE, *words],
        cwd=job.folder.parent,
        env=job.environment(),
        input=code or snippets()[0],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_cell_runs_in_a_kernel(sandbox, make_job):
    """Its top-level `await` works, and so does the limit."""
    job = make_job(sandbox.url, rows=stories(25), rate=500)
    assert execute_cell(job) == "20 0 20\n"
    assert set(sandbox.billed().values()) == {1}
    assert sum(sandbox.billed().values()) == 20


def test_interrupting_the_cell_makes_the_rows_in_flight_ambiguous(start_sandbox, make_job):
    """Only those: each row was received once, and all received answers are kept."""
    sandbox = start_sandbox(latency="500ms")
    job = make_job(sandbox.url, rows=stories(20), concurrency=2)
    assert execute_cell(job, f"{sandbox.url}/_sandbox/bills") in (
        "CancelledError\n",
        "KeyboardInterrupt\n",
    )
    job.spec = job.folder / "products.yaml"
    done = job.call("run", "--rate", "5000")
    assert done.returncode == 5, done.stderr
    summary = job.status()
    assert 1 <= summary["ambiguous"] <= 2
    assert summary["ok"] + summary["ambiguous"] == 20
    assert {entry["received"] for entry in sandbox.bills()} == {1}


def test_the_notebook_of_dataframes_runs_in_a_kernel_with_the_widget_of_tqdm(make_job):
    """Each of its calls shows one, except for the one without progress."""
    python = str(tool("notebook") / "python")
    job = make_job("http://127.0.0.1:9")
    (job.folder / "data").symlink_to(TOP / "data")
    done = subprocess.run(
        [python, "-c", EXECUTE_ALL, str(TOP / "docs" / "dataframes.ipynb")],
        cwd=job.folder,
        env=job.environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("widget-view") == 2
    assert "described: 20 rows: 20 ok." in done.stdout
    assert done.stdout.split()[-2:] == ["0", "requests"]  # a kernel may send them one by one


EXECUTE_ALL = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=120).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        print(output.get("text") or output.get("data"))
"""

FRAME = """
import pandas as pd
import pipeline

frame = pd.DataFrame({"story": [f"story {n}" for n in range(20)]})
pipeline.run_frame(frame, workflow="wf_story", output="runs/frame", concurrency=2)
"""


def test_interrupting_the_cell_of_a_frame_waits_for_the_rows_in_flight(start_sandbox, make_job):
    """No row is ambiguous, and no later cell runs."""
    sandbox = start_sandbox(latency="500ms")
    job = make_job(sandbox.url)
    printed = execute_cell(job, f"{sandbox.url}/_sandbox/bills", code=FRAME)
    assert printed.startswith("KeyboardInterrupt\n")
    assert "Interrupted. The answers so far are saved. The same call continues" in printed
    spec = job.folder.parent / "runs" / "frame"
    summary = Job(job.folder, spec, job.sheet, sandbox.url).status()
    assert (summary["ambiguous"], summary["ok"]) == (0, sum(sandbox.billed().values()))
    assert 3 <= summary["ok"] < 20
