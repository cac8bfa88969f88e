"""What the shell completes."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands.completion import SHELLS
from tests.conftest import Job, SandboxProcess


def completed(folder: Path, line: str, **environment: str) -> list[str]:
    """What bash gets for the last word of a line, which may be empty."""
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline"],
        cwd=folder,
        env=os.environ
        | {
            "_PIPELINE_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return [text.partition(",")[2] for text in done.stdout.splitlines()]


@pytest.fixture
def job(make_job, sandbox: SandboxProcess) -> Job:
    rows = [["a"], ["b #fault:blocked"], ["c #fault:cut-body"]]
    job = make_job(sandbox.url, rows=rows, concurrency=1)
    job.call("run")
    return job


def test_commands_and_options_are_completed(tmp_path: Path):
    assert completed(tmp_path, "pipeline sch") == ["schedule", "schema"]
    assert completed(tmp_path, "pipeline resume --acc") == ["--accept-changes"]
    assert completed(tmp_path, "pipeline schema rep") == ["report"]
    assert completed(tmp_path, "pipeline run x --fail-on n") == ["new", "none"]


def test_job_files_are_completed_here_and_in_jobs(tmp_path: Path):
    (tmp_path / "jobs").mkdir()
    for name in ("a.yaml", "jobs/b.yaml", "jobs/ç.yml", "jobs/sheet.csv"):
        (tmp_path / name).touch()
    jobs = ["a.yaml", "jobs/b.yaml", "jobs/ç.yml"]
    assert completed(tmp_path, "pipeline run ") == jobs
    assert completed(tmp_path, "pipeline status jobs/b") == ["jobs/b.yaml"]
    assert completed(tmp_path, f"pipeline ui {tmp_path}/jobs/b") == [f"{tmp_path}/jobs/b.yaml"]


def test_without_a_job_file_the_shell_proposes_paths(tmp_path: Path):
    assert completed(tmp_path, "pipeline run runs/st") == ["runs/st"]
    assert completed(tmp_path, "pipeline run no/such/") == ["no/such/"]


def test_error_codes_are_those_of_the_job(job: Job):
    rows = completed(job.folder, "pipeline resume job.yaml --only ")
    assert len(rows) == 2
    assert set(rows) == set(job.status()["by_code"])
    [left] = completed(job.folder, f"pipeline resume job.yaml --only {rows[0]},")
    assert left == f"{rows[0]},{rows[1]}"
    assert "timeout" in completed(job.folder, "pipeline resume none.yaml --only ti")
    assert completed(job.folder, "pipeline show job.yaml --code ") == rows


def test_workflow_ids_are_those_of_the_job_files(job: Job):
    (job.folder / "broken.yaml").write_text("name: [")
    known = completed(job.folder, "pipeline init sheet.csv --workflow wf")
    assert known == ["wf_story"]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_its_script(shell: str):
    words = [sys.executable, "-m", "pipeline", "completion", shell]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert f"_PIPELINE_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_with_the_printed_script(tmp_path: Path):
    (tmp_path / "my-job.yaml").touch()
    script = """
        pipeline() { "$PYTHON" -m pipeline "$@"; }
        export -f pipeline
        source <(pipeline completion bash)
        COMP_WORDS=(pipeline status my) COMP_CWORD=2
        _pipeline_completion "$RUN"
        printf '%s\n' "${COMPREPLY[@]}"
    """
    run = tmp_path / "run"
    run.write_text(f'#!/bin/sh\nexec {sys.executable} -m pipeline "$@"\n')
    run.chmod(0o700)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHON": sys.executable, "RUN": str(run)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "my-job.yaml\n", done.stderr


# What each shell proposes for a line, after it read the printed script of the second name.
PROPOSED = {
    "bash": """
        source <(paidrows completion bash)
        COMP_WORDS=(paidrows status my) COMP_CWORD=2
        $(complete -p paidrows | sed 's/.*-F //; s/ .*//') paidrows
        printf '%s\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        autoload -U compinit && compinit -D -u
        source <(paidrows completion zsh)
        compadd() { print -l -- "${@[-1]}" "${(P@)${@[-1]}}" }
        _describe() { print -l -- "${(P@)${@[-1]}}" }
        words=(paidrows status my) CURRENT=3
        $_comps[paidrows] | grep yaml
    """,
    "fish": """
        paidrows completion fish | source
        complete -C 'paidrows status my'
    """,
}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_completes_the_second_name_too(shell: str, tmp_path: Path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "my-job.yaml").touch()
    program = tmp_path / "bin" / "paidrows"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom pipeline.cli import main\n\nmain()\n")
    program.chmod(0o700)
    done = subprocess.run(
        [shell, "-c", PROPOSED[shell]],
        cwd=tmp_path,
        env=os.environ
        | {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "my-job.yaml\n", done.stderr


ODD = [
    "a$(touch RAN)",
    "b`touch RAN`",
    "c;touch RAN;",
    "d&touch RAN&",
    "e\nplain,$(touch RAN)",
    "f f",
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_runs_no_name_that_it_completes(tmp_path: Path):
    """click's script puts a name into the line without quotes, and Enter would run a part of it.
    bash completes such a name itself, with quotes."""
    for name in ODD:
        (tmp_path / f"{name}.yaml").touch()
    command = tmp_path / "bin" / "pipeline"
    command.parent.mkdir()
    command.write_text(
        "#!/bin/sh\n"
        f'test "$1" = status || exec {sys.executable} -m pipeline "$@"\n'
        "printf '%s\\n' \"$2\" >>names\n"
    )
    command.chmod(0o700)
    lines = [
        "source <(pipeline completion bash)",
        *(f"pipeline status {name[0]}\t" for name in ODD),
        "exit",
    ]
    environment = os.environ | {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TERM": "dumb",
    }
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        os.execvpe("bash", ["bash", "--norc", "-i"], environment)
    os.write(terminal, "".join(f"{line}\n" for line in lines).encode())
    with contextlib.suppress(OSError):  # the terminal ends with the shell
        while os.read(terminal, 1 << 16):
            pass
    os.waitpid(pid, 0)
    assert not (tmp_path / "RAN").exists()
    names = (tmp_path / "names").read_text().splitlines()
    assert {"a$(touch RAN).yaml", "f f.yaml"} <= {*names}
