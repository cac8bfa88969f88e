"""The files that `pipeline schedule` prints work unchanged: units, a crontab, a workflow."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipeline
from tests.conftest import KEY, Job, SandboxProcess

PIPELINE = [sys.executable, "-m", "pipeline"]
SYSTEMD = shutil.which("systemd-analyze")
ODD = 'it\'s 100% $HOME "odd"'


def printed(
    job: Job, kind: str, *options: str, env: dict[str, str] | None = None
) -> dict[str, str]:
    """Returns the files that the command prints, by name."""
    done = job.call("schedule", "--as", kind, "--json", *options, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["files"]


def key_file(job: Job) -> Path:
    path = job.folder / "a key.txt"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def odd_job(sandbox: SandboxProcess, make_job) -> Job:
    """A job with spaces, quotes, `%` and `$` in its path."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    folder = job.folder.with_name(ODD)
    job.folder.rename(folder)
    return Job(folder, folder / "job.yaml", folder / "sheet.csv", sandbox.url)


def directive(unit: str, name: str) -> str:
    [value] = re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)
    return value


@pytest.mark.skipif(SYSTEMD is None, reason="no systemd-analyze")
@pytest.mark.parametrize("until", [(), ("--until", "06:00")])
def test_systemd_accepts_the_printed_units_unchanged(odd_job, tmp_path, until):
    """It knows every line, finds the command, and understands the time."""
    units = printed(odd_job, "systemd", "--at", "02:05", *until)
    for name, text in units.items():
        (tmp_path / name).write_text(text)
    names = [str(tmp_path / name) for name in units]
    done = subprocess.run([SYSTEMD, "verify", *names], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    calendar = directive(units["pipeline-job.timer"], "OnCalendar")
    done = subprocess.run([SYSTEMD, "calendar", calendar], capture_output=True, text=True)
    assert (done.returncode, "02:05:00" in done.stdout) == (0, True), done.stderr


def test_the_service_runs_this_job_and_waits_for_paid_answers(sandbox, odd_job, tmp_path):
    """With systemd's credential, it sends every row once. A stop may take longer than the drain."""
    odd_job.write_spec(deadline_s=100)
    service = printed(odd_job, "systemd", "--at", "02:00")["pipeline-job.service"]
    text = directive(service, "ExecStart").replace("%%", "%").replace("$$", "$")
    (tmp_path / "aitutor-api-key").write_text(KEY)
    done = subprocess.run(
        shlex.split(text),
        cwd=directive(service, "WorkingDirectory").replace("%%", "%"),
        env={"CREDENTIALS_DIRECTORY": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(sandbox.billed().values()) == [1, 1]
    assert int(directive(service, "TimeoutStopSec")) > 100
    assert directive(service, "Restart") == "no"
    assert directive(service, "SuccessExitStatus") == "143"
    assert directive(service, "LoadCredential").startswith("aitutor-api-key:/")
    assert KEY not in service


def test_a_missed_night_is_run_later_unless_it_would_last_all_day(odd_job):
    """After a start in the morning, `--until` would mean a time on the next day."""
    units = printed(odd_job, "systemd", "--at", "02:00")
    assert directive(units["pipeline-job.timer"], "Persistent") == "true"
    units = printed(odd_job, "systemd", "--at", "02:00", "--until", "06:00")
    assert directive(units["pipeline-job.timer"], "Persistent") == "false"
    service = units["pipeline-job.service"]
    assert "--until 06:00" in directive(service, "ExecStart")
    assert directive(service, "SuccessExitStatus") == "75 143"


def as_cron_does(table: str, *, home: bool) -> subprocess.CompletedProcess[str]:
    """Runs the line of a crontab with cron's shell, environment and rule for `%`."""
    lines = [line for line in table.splitlines() if line and not line.startswith("#")]
    env = dict(line.split("=", 1) for line in lines[:-1])
    *when, command = lines[-1].split(" ", 5)
    assert when == ["5", "2", "*", "*", "*"]
    assert not re.search(r"(?<!\\)%", command)
    env |= {"LOGNAME": "x", "HOME": "/"} if home else {}
    words = ["env", "-i", *[f"{name}={value}" for name, value in env.items()]]
    return subprocess.run(
        [*words, env["SHELL"], "-c", command.replace(r"\%", "%")],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_cron_line_works_in_the_environment_of_cron(odd_job):
    """It is silent if all is well, prints if a row failed, and pays for each row once."""
    options = (
        "--at",
        "02:05",
        "--key-file",
        str(key_file(odd_job)),
        "--base-url",
        odd_job.base_url,
    )
    table = printed(odd_job, "cron", *options)["crontab"]
    done = as_cron_does(table, home=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    odd_job.write_sheet(["story"], [["a"], ["b"], ["#fault:blocked"]])
    done = as_cron_does(table, home=False)
    assert (done.returncode, "1 failed" in done.stderr) == (3, True)
    done = as_cron_does(table, home=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert odd_job.status()["paid_max"] == 2
    assert KEY not in table


REFUSED = [
    (("--as", "cron", "--at", "02:00"), "--key-file"),
    (("--at", "2 am"), "like 06:00"),
    (("--at", "02:00", "--until", "2:00"), "the night has no length"),
    (("--at", "02:00:30"), "a start time has no seconds"),
    (("--as", "github", "--at", "02:00"), "no git repository"),
    ((), "--at 02:00"),
    (("--as", "cron", "--at", "02:00", "--key-file", "/k", "--write", "."), "crontab -e"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_an_impossible_schedule_is_refused(make_job, options, words):
    """The command ends with 2 and prints nothing on stdout, which may go to a file."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    done = job.call("schedule", *options)
    assert (done.returncode, words in done.stderr, done.stdout) == (2, True, ""), done.stderr


def test_warnings_about_the_nights_are_printed_apart_from_the_files(make_job, tmp_path):
    """On stderr, or under `warnings`: a missing file for the key, and rehearsals."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    there, gone = str(key_file(job)), str(tmp_path / "no-such-key")
    for options, words in (
        (("--key-file", there), ""),
        (("--key-file", gone), f"{gone}: this file does not exist yet"),
        (("--as", "cron", "--key-file", gone), f"{gone}: this file does not exist yet"),
        (("--sandbox",), "rehearsals (--sandbox)"),
    ):
        done = job.call("schedule", "--at", "02:00", *options)
        assert done.returncode == 0
        assert words in done.stderr
        assert bool(done.stderr) == bool(words)
        assert "Careful" not in done.stdout
        told = job.call("schedule", "--at", "02:00", "--json", *options)
        assert len(json.loads(told.stdout)["warnings"]) == bool(words)
    (job.folder / ".git").mkdir()
    (job.folder / WHEEL).touch()
    done = job.call("schedule", "--at", "02:00", "--as", "github", "--key-file", there)
    assert "the secret AITUTOR_API_KEY" in done.stderr


# -- the variables of the user's environment that a night needs ----------------------------------

HERE = {
    "PIPELINE_NOTIFY_HOOK": "s3cret-of-here",
    "UUID": "s3cret-of-here",
    "PIPELINE_NOTIFY_VARIABLES": "OTHER, UUID",
    "HTTPS_PROXY": "http://me:s3cret-of-here@127.0.0.1:9",
}
"""The environment in which the user calls `pipeline schedule`."""
FILLED_IN = "PIPELINE_NOTIFY_HOOK='hook&x'\nUUID='12-34'\n"
HEARD = ["/12-34/0", "/12-34/start", "/hook&x"]


@pytest.fixture
def watched(sandbox: SandboxProcess, make_job, monitor) -> tuple[Job, Any]:
    """A job that notifies two addresses of this machine, each with a variable, and the monitor."""
    heard = monitor()
    notify = {"healthcheck": f"{heard.url}/${{UUID}}"}
    notify["webhook"] = f"{heard.url}/${{PIPELINE_NOTIFY_HOOK}}"
    return make_job(sandbox.url, rows=[["a"]], notify=notify), heard


def fill_in(text: str, path: Path) -> None:
    """Runs the command in a comment that creates the file of variables, here as `path`."""
    [command] = re.findall(r"^# +(?:sudo )?(install .*\.env'?)  ", text, re.MULTILINE)
    words = [str(path) if word.endswith(".env") else word for word in shlex.split(command)]
    subprocess.run(words, input=FILLED_IN, text=True, check=True)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_service_names_the_variables_of_notify_and_a_night_notifies(watched, tmp_path):
    """The values are in a file that only root reads, and permissions are in the unit."""
    job, heard = watched
    units = printed(job, "systemd", "--at", "02:00", env=HERE)
    service = units["pipeline-job.service"]
    assert "s3cret" not in service
    assert "needs: UUID, PIPELINE_NOTIFY_HOOK." in service
    assert "HTTPS_PROXY" in service
    assert directive(service, "EnvironmentFile") == "-/etc/pipeline/job.env"
    fill_in(service, tmp_path / "job.env")
    lines = [*shlex.split(directive(service, "Environment")), *shlex.split(FILLED_IN)]
    (tmp_path / "aitutor-api-key").write_text(KEY)
    done = subprocess.run(
        shlex.split(directive(service, "ExecStart")),
        env=dict(line.split("=", 1) for line in lines) | {"CREDENTIALS_DIRECTORY": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(heard.paths) == HEARD
    if SYSTEMD is not None:
        for name, text in units.items():
            (tmp_path / name).write_text(text)
        done = subprocess.run(
            [SYSTEMD, "verify", *[str(tmp_path / name) for name in units]],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_cron_line_reads_the_variables_of_notify_from_a_private_file(watched, sandbox):
    """Without the file, a night sends nothing and prints which variable is missing."""
    job, heard = watched
    odd = job.folder / "it's 100%"
    odd.mkdir()
    key = shutil.copy(key_file(job), odd / "key")
    options = ("--at", "02:05", "--key-file", str(key))
    done = job.call("schedule", "--as", "cron", *options, env=HERE)
    file = odd / "job.env"
    assert f"{file}: this file does not exist yet. Until it sets UUID, PIPELINE" in done.stderr
    table = done.stdout
    assert "s3cret" not in table
    done = as_cron_does(table, home=True)
    assert (done.returncode, "variable UUID is not set" in done.stderr) == (2, True), done.stderr
    assert (sandbox.received(), heard.paths) == (0, [])
    fill_in(table, file)
    assert job.call("schedule", "--as", "cron", *options, env=HERE).stderr == ""
    done = as_cron_does(table, home=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(heard.paths) == HEARD


def test_the_workflow_passes_on_the_variables_of_notify_as_secrets(watched, tmp_path):
    """The head lists them. It leaves out the proxy, which only this machine needs."""
    job, heard = watched
    hosted = Hosted(job, tmp_path, env=HERE)
    assert "secrets: AITUTOR_API_KEY, UUID, PIPELINE_NOTIFY_HOOK\n" in hosted.text
    assert "HTTPS_PROXY" not in hosted.text
    assert "s3cret" not in hosted.text
    assert hosted.night(first=True) == ["How it ended 1"]
    hosted.secrets |= {"UUID": "12-34", "PIPELINE_NOTIFY_HOOK": "hook&x"}
    assert hosted.night() == []
    assert sorted(heard.paths) == HEARD


def test_a_job_file_alone_cannot_give_its_nights_a_permission(watched):
    """As in a run: the environment allows other variables and addresses of this machine."""
    job, _ = watched
    for env, words in (
        ({}, "does not allow UUID"),
        (HERE | {"PIPELINE_NOTIFY_LOCAL": ""}, "PIPELINE_NOTIFY_LOCAL=1"),
    ):
        done = job.call("schedule", "--at", "02:00", env=env)
        assert (done.returncode, words in done.stderr, done.stdout) == (2, True, ""), done.stderr
        assert "s3cret" not in done.stderr


def test_a_rehearsal_and_a_job_without_addresses_need_no_variables(watched):
    """A rehearsal notifies nobody."""
    job, _ = watched
    own = {"HTTPS_PROXY": "", "SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}
    for options in (("--sandbox",), ()):
        [service, _] = printed(job, "systemd", "--at", "02:00", *options, env=own).values()
        assert "Environment" not in service
        job.write_spec()


def test_the_variables_of_opentelemetry_are_named_if_the_job_file_asks_for_it(make_job):
    """Those that are set, without their values."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    env = {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=s3cret"}
    for asked in (False, True):
        job.write_spec(notify={"opentelemetry": asked})
        [service, _] = printed(job, "systemd", "--at", "02:00", env=env).values()
        assert ("OTEL_EXPORTER_OTLP_HEADERS" in service) == asked
        assert "s3cret" not in service


# -- files that are written, and compared later ---------------------------------------------------


def installed(job: Job, folder: Path, *options: str) -> list[str]:
    """Writes the files of the nights. Returns the options that check them."""
    done = job.call("schedule", "--at", "02:00", "--write", str(folder), *options)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    files = sorted(path for path in folder.rglob("pipeline-job.*"))
    assert [f"Wrote {path}." in done.stderr for path in files] == [True] * len(files)
    return [word for path in files for word in ("--check", str(path))]


def test_the_units_are_written_as_they_are_printed_and_no_file_is_replaced(odd_job, tmp_path):
    """If one of the two is there, the other is not written either."""
    units = tmp_path / "units"
    installed(odd_job, units)
    texts = printed(odd_job, "systemd", "--at", "02:00")
    assert {path.name: path.read_text() for path in units.iterdir()} == texts
    (units / "pipeline-job.service").unlink()
    (units / "pipeline-job.timer").write_text("mine")
    done = odd_job.call("schedule", "--at", "02:00", "--write", str(units))
    assert (done.returncode, "already exists" in done.stderr) == (2, True)
    assert {path.name: path.read_text() for path in units.iterdir()} == {
        "pipeline-job.timer": "mine"
    }


def test_a_check_of_installed_files_names_the_line_that_the_job_file_needs_now(odd_job, tmp_path):
    """What the user added does not count, and another file name does not either."""
    options = installed(
        odd_job, tmp_path / "units", "--until", "06:00", "--base-url", "http://[::1]:9"
    )
    service = Path(options[1])
    service.write_text(service.read_text().replace("[Service]", "OnFailure=mail@%n\n[Service]"))
    options[1] = str(service.rename(service.with_name("mine.service")))
    done = odd_job.call("schedule", *options)
    assert (done.returncode, "2 files checked" in done.stderr) == (0, True), done.stderr
    odd_job.write_spec(deadline_s=1000)
    done = odd_job.call("schedule", *options)
    assert (done.returncode, "`TimeoutStopSec=1060`" in done.stderr) == (2, True), done.stderr
    [again] = re.findall(r"Print it again: pipeline (schedule .*)", done.stderr)
    done = odd_job.shell([*PIPELINE, *shlex.split(again)])
    assert "TimeoutStopSec=1060" in done.stdout
    assert "--until 06:00" in directive(done.stdout, "ExecStart")


@pytest.mark.parametrize(
    "command", ["", '"JOB', "JOB --help", "JOB --at 02:00 --no-such", "a\0", "JOB", "-- JOB"]
)
def test_a_file_that_names_no_command_for_the_job_does_not_pass_a_check(make_job, command):
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    file = job.folder / "mine.service"
    line = command.replace("JOB", str(job.spec))
    file.write_text(f"# Printed by: pipeline schedule {line}\n", encoding="utf-8")
    done = job.call("schedule", "--check", str(file))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(job.spec) in done.stderr or "Give the time of day" in done.stderr


@pytest.mark.parametrize("kind", ["cron", "github"])
def test_a_crontab_with_other_lines_and_a_workflow_can_be_checked_too(make_job, tmp_path, kind):
    """The workflow names the job file from the top of its repository."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    (job.folder / ".git").mkdir()
    (job.folder / WHEEL).write_bytes(b"one")
    options = ("--at", "02:05", "--key-file", str(key_file(job)))
    [text] = printed(job, kind, *options).values()
    file = tmp_path / "installed.yml"
    file.write_text(f"5 5 * * * true\n{text}" if kind == "cron" else text)
    done = job.call("schedule", "--check", str(file))
    assert done.returncode == 0, done.stderr
    if kind == "cron":
        file.write_text(file.read_text().replace("\n5 2", "\n5 3"))
    else:
        (job.folder / WHEEL).write_bytes(b"two")
    done = job.call("schedule", "--check", str(file))
    assert (done.returncode, "no longer matches" in done.stderr) == (2, True)
    file.write_text("5 5 * * * true\n")
    done = job.call("schedule", "--check", str(file))
    assert (done.returncode, "has no line `# Printed by" in done.stderr) == (2, True)


# -- GitHub: the tests run the steps here, with their own repository ------------------------------

KEYS = {
    "": {"name", "on", "permissions", "concurrency", "jobs"},
    "job": {"runs-on", "timeout-minutes", "env", "steps"},
    "step": {"name", "id", "if", "uses", "with", "run", "env"},
}


class Hosted:
    """A private repository, and machines that lose everything after each night."""

    def __init__(self, job: Job, tmp_path: Path, env: dict[str, str] | None = None) -> None:
        self.job, self.tmp_path, self.nights = job, tmp_path, 0
        self.secrets = {"AITUTOR_API_KEY": KEY}
        self.origin = tmp_path / "origin.git"
        work = tmp_path / "work"
        git("init", "--quiet", "--bare", "--initial-branch=main", str(self.origin))
        git("clone", "--quiet", str(self.origin), str(work))
        for path in (job.spec, job.sheet):
            shutil.copy(path, work)
        (work / WHEEL).write_bytes(b"not installed here")
        git("-C", str(work), "add", ".")
        commit = ("-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-qm", "jobs")
        git("-C", str(work), *commit)
        git("-C", str(work), "push", "--quiet", "origin", "HEAD:main")
        here = Job(work, work / "job.yaml", work / "sheet.csv", job.base_url)
        [(self.path, text)] = printed(here, "github", "--at", "02:00", env=env).items()
        self.flow: dict[str, Any] = yaml.load(text, Loader=yaml.BaseLoader)
        self.text = text

    def night(self, *, first: bool = False, lost: bool = False, offline: bool = False) -> list[str]:
        """Runs the steps on a new machine and returns those that failed, with their exit codes.

        After the step that sends, `lost` ends the machine, and `offline` disconnects it from the
        repository.
        """
        self.nights += 1
        machine = self.tmp_path / f"machine-{self.nights}"
        git("clone", "--quiet", str(self.origin), str(machine))
        venv = machine / ".pipeline" / "venv" / "bin"
        venv.mkdir(parents=True)
        script = f'#!/bin/sh\nexec {sys.executable} -m pipeline "$@"\n'
        (venv / "pipeline").write_text(script)
        (venv / "pipeline").chmod(0o755)
        outputs, failed = machine / "outputs", []
        outputs.touch()
        began = False
        for step in self.flow["jobs"]["run"]["steps"]:
            if "run" not in step or step["name"] == "Install":
                continue
            if failed and not (began and "always()" in step.get("if", "")):
                continue
            said = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
            env = self.job.environment(
                STATE=self.flow["jobs"]["run"]["env"]["STATE"],
                FIRST_RUN=str(first).lower(),
                GITHUB_OUTPUT=str(outputs),
                CODE=said.get("code", ""),
                PATH=f"{self._fast(machine)}:{os.environ['PATH']}",
            )
            del env["AITUTOR_API_KEY"], env["PIPELINE_NOTIFY_LOCAL"]
            for name, value in step.get("env", {}).items():
                secret = re.fullmatch(r"\$\{\{ secrets\.(\w+) \}\}", value)
                if secret or "${{" not in value:
                    env[name] = self.secrets.get(secret[1], "") if secret else value
            done = subprocess.run(
                ["bash", "-e", "-c", step["run"]], cwd=machine, env=env, capture_output=True
            )
            if done.returncode:
                failed.append(f"{step['name']} {done.returncode}")
            began = began or (step["name"].startswith("Say") and not done.returncode)
            if step["name"] == "Send":
                if lost:
                    break
                if offline:
                    git("-C", str(machine), "remote", "set-url", "origin", "/nowhere")
        return failed

    def _fast(self, machine: Path) -> Path:
        """Returns a folder with a `sleep` that returns at once."""
        folder = machine / "fast"
        folder.mkdir(exist_ok=True)
        (folder / "sleep").write_text("#!/bin/sh\n")
        (folder / "sleep").chmod(0o755)
        return folder


WHEEL = f"paidrows-{pipeline.__version__}-py3-none-any.whl"


def git(*words: str) -> None:
    subprocess.run(["git", *words], check=True, capture_output=True)


@pytest.fixture
def hosted(sandbox: SandboxProcess, make_job, tmp_path) -> Hosted:
    """A repository with a job and with the workflow that is printed for it."""
    return Hosted(make_job(sandbox.url, rows=[["a"], ["#fault:blocked"]]), tmp_path)


def test_a_sheet_outside_the_repository_is_refused_for_github(make_job):
    """Every night would fail."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    (job.folder / "repository" / ".git").mkdir(parents=True)
    spec = job.folder / "repository" / "job.yaml"
    spec.write_text("name: job\nworkflow: wf_story\ninput: ../sheet.csv\n", encoding="utf-8")
    command = [sys.executable, "-m", "pipeline", "schedule", str(spec), "--at", "02:00"]
    done = job.shell([*command, "--as", "github"])
    assert done.returncode == 2
    assert "sheet.csv: the sheet is outside the repository" in done.stderr


def test_a_repository_without_the_wheel_of_this_release_is_refused_for_github(make_job):
    """The index has no release, and anybody could publish code there that gets the key."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    (job.folder / ".git").mkdir()
    (job.folder / "paidrows-0.0.1-py3-none-any.whl").touch()
    done = job.call("schedule", "--at", "02:00", "--as", "github")
    assert (done.returncode, f"{WHEEL}: this file is missing" in done.stderr) == (2, True)
    assert done.stdout == ""


def test_a_wheel_that_changed_since_is_not_installed(hosted):
    """The step ends before it creates an environment."""
    [step] = [one for one in hosted.flow["jobs"]["run"]["steps"] if one.get("name") == "Install"]
    work = hosted.tmp_path / "work"
    (work / WHEEL).write_bytes(b"other code")
    done = subprocess.run(["bash", "-e", "-c", step["run"]], cwd=work, capture_output=True)
    assert done.returncode == 1
    assert b"FAILED" in done.stdout
    assert not (work / ".pipeline").exists()


def test_the_versions_in_the_workflow_are_those_of_this_machine(hosted, make_job):
    """With an extra for a sheet that needs one, and without what only developers need."""
    pinned = set(re.findall(r"^([\w.-]+)==\S+$", hosted.text.replace(" " * 10, ""), re.MULTILINE))
    assert {"aiohttp", "httpcore", "numpy", "pyarrow", "uvicorn"} <= pinned
    assert not {"pytest", "mypy", "python-calamine", "paidrows"} & pinned
    assert f"\n            --constraint .pipeline/versions.txt ./{WHEEL}\n" in hosted.text


def test_the_workflow_only_has_keys_that_github_knows(hosted):
    """Compared by hand: names, types, the schedule, and that no run is ever cancelled."""
    flow = hosted.flow
    assert hosted.path == ".github/workflows/pipeline-job.yml"
    assert set(flow) == KEYS[""]
    [cron] = flow["on"]["schedule"]
    assert re.fullmatch(r"([0-5]?\d) (1?\d|2[0-3]) \* \* \*", cron["cron"])
    assert flow["on"]["workflow_dispatch"]["inputs"]["first_run"]["type"] == "boolean"
    assert flow["concurrency"] == {"group": "pipeline-job", "cancel-in-progress": "false"}
    assert flow["permissions"] == {"contents": "write"}
    [job] = flow["jobs"].values()
    assert set(job) == KEYS["job"]
    assert 1 <= int(job["timeout-minutes"]) <= 360
    ids = {step["id"] for step in job["steps"] if "id" in step}
    for step in job["steps"]:
        assert set(step) <= KEYS["step"]
        assert ("run" in step) != ("uses" in step)
        assert set(re.findall(r"steps\.(\w+)\.", str(step))) <= ids
        assert "${{" not in step.get("run", "")
        if "run" in step:
            subprocess.run(["bash", "-n", "-c", step["run"]], check=True)
    secrets = [step["name"] for step in job["steps"] if "secrets." in str(step)]
    assert secrets == ["Send"]


def test_nights_on_machines_that_lose_everything_pay_for_each_row_once(hosted, sandbox):
    """The first night needs `first_run`. A failed row is an error once. New rows are sent."""
    assert hosted.night() == ["Bring the ledger of the last night 1"]
    assert sandbox.received() == 0
    assert hosted.night(first=True) == ["How it ended 3"]
    assert hosted.night() == []
    work = hosted.tmp_path / "work"
    with (work / "sheet.csv").open("a") as file:
        file.write("c\n")
    git("-C", str(work), "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qam", "more")
    git("-C", str(work), "push", "--quiet", "origin", "HEAD:main")
    assert hosted.night() == []
    assert sorted(sandbox.billed().values()) == [0, 1, 1]
    assert sandbox.received() == 3


def test_a_night_that_reaches_its_limit_ends_the_workflow_with_4(sandbox, make_job, tmp_path):
    """It names the limits, because the key and the credits are fine."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]], max_paid_per_run=1)
    hosted = Hosted(job, tmp_path)
    assert hosted.night(first=True) == ["How it ended 4"]
    assert list(sandbox.billed().values()) == [1]
    assert "max_paid_per_run" in hosted.flow["jobs"]["run"]["steps"][-1]["run"]
    service = printed(job, "systemd", "--at", "02:00")["pipeline-job.service"]
    assert "max_paid_per_run" in service


@pytest.mark.parametrize("how", ["lost", "offline"])
def test_a_night_that_lost_its_ledger_stops_the_next_one_before_it_sends(hosted, sandbox, how):
    """The machine is lost or its push fails. As nobody knows which rows were paid, none is sent."""
    first = hosted.night(first=True, lost=how == "lost", offline=how == "offline")
    assert first == ([] if how == "lost" else ["Keep the ledger 1", "How it ended 3"])
    sent = sandbox.received()
    assert hosted.night() == ["Bring the ledger of the last night 1"]
    assert hosted.night(first=True) == ["Bring the ledger of the last night 1"]
    assert sandbox.received() == sent


# -- paths that schedulers read in different ways -----------------------------------------


def joined(unit: str) -> list[str]:
    """Returns the lines of a unit as systemd reads them: a `\\` at the end joins the next line."""
    return re.sub(r"(?m)(?<!\\)((?:\\\\)*)\\\n", r"\1 ", unit).splitlines()


@pytest.mark.parametrize("name", ["odd\\", "odd\\\\", "odd ", "o\\dd", "o%dd\\"])
def test_a_folder_whose_name_ends_in_a_backslash_joins_no_line_of_the_unit(make_job, name):
    """The directive in the next line would become part of the path, and be lost."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    odd = job.folder / name
    odd.mkdir()
    spec = Path(shutil.copy(job.spec, odd / "job.yaml"))
    shutil.copy(job.sheet, odd / "sheet.csv")
    done = job.shell([*PIPELINE, "schedule", str(spec), "--at", "02:00"])
    assert done.returncode == 0, done.stderr
    lines = joined(done.stdout)
    [directory] = [line for line in lines if line.startswith("WorkingDirectory=")]
    assert Path(directory.removeprefix("WorkingDirectory=").strip().replace("%%", "%")) == odd
    assert "LimitCORE=0" in lines
    assert len([line for line in lines if line.startswith("ExecStart=")]) == 1


def test_a_key_file_that_a_unit_cannot_name_is_refused(make_job):
    """LoadCredential= allows no quotes."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    for name in ("key\\", "key "):
        done = job.call("schedule", "--at", "02:00", "--key-file", str(job.folder / name))
        assert done.returncode == 2
        assert "a path that ends in" in done.stderr


@pytest.mark.parametrize("name", [r"a\%b", r"a\\b"])
def test_a_path_that_crons_read_differently_is_refused(make_job, name):
    """Debian's cron removes one of two backslashes, and cronie none. A `%` ends the command."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    odd = job.folder / name
    odd.mkdir()
    spec = Path(shutil.copy(job.spec, odd / "job.yaml"))
    shutil.copy(job.sheet, odd / "sheet.csv")
    words = ["schedule", str(spec), "--at", "02:00", "--as", "cron", "--key-file", "/k"]
    done = job.shell([*PIPELINE, *words])
    assert done.returncode == 2
    assert "Versions of cron read that differently" in done.stderr
    assert done.stdout == ""


def test_the_actions_of_the_workflow_are_pinned_by_the_hashes_of_their_commits(hosted):
    """A tag can be moved to other code, which would get the key."""
    [job] = hosted.flow["jobs"].values()
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert len(used) == 3
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", one) for one in used)
