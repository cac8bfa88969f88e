"""The README cannot drift: its rehearsals run, its output is what comes out, its options exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import pipeline
from pipeline.cli import cli
from pipeline.sandbox.account import load_account
from pipeline.spec import load_spec

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[tuple[str, list[str]]]:
    """(command, the lines shown under it) of every console block."""
    found: list[tuple[str, list[str]]] = []
    for line in "".join(blocks("console")).splitlines():
        if line.startswith("$ "):
            found.append((line[2:].split("  #")[0].strip(), []))
        else:
            found[-1][1].append(line)
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The jobs and their data, without anybody's runs."""
    shutil.copytree(TOP / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("runs"))
    shutil.copytree(TOP / "data", tmp_path / "data")
    return tmp_path


def shell(command: str, where: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    assert words.pop(0) == "pipeline"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AITUTOR_")}
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_rehearsal_in_the_readme_runs_and_prints_what_it_says(checkout):
    """In order, from a fresh checkout. What is shown under a command is its whole output, but for
    the lines that … stands for."""
    rehearsals = [
        (command.replace("make demo", "pipeline run jobs/stories.yaml --sandbox"), shown)
        for command, shown in commands()
        if "--sandbox" in command or command == "make demo"
    ]
    assert len(rehearsals) >= 5
    for command, shown in rehearsals:
        done = shell(command, checkout)
        assert done.returncode in (0, 3, 5), (command, done.stderr)
        if shown:
            gaps = (r"(.*\n)*?" if line == "…" else re.escape(f"{line}\n") for line in shown)
            said = done.stdout + done.stderr
            assert re.fullmatch("".join(gaps), said), (command, shown, said)


def test_every_command_in_the_readme_has_the_options_that_it_is_given():
    """Those that need a key are not run, but they parse."""
    checked = 0
    for command, _ in commands():
        words = shlex.split(command)
        if words[0] != "pipeline":
            continue
        found = cli.commands[words[1]]
        context = found.make_context(words[1], words[2:], resilient_parsing=False)
        assert context.params
        checked += 1
    assert checked >= 9


def test_the_spec_in_the_readme_is_a_spec(tmp_path):
    """Every key that it shows is one."""
    text, notify, account = blocks("yaml")
    (tmp_path / "job.yaml").write_text(text + notify, encoding="utf-8")
    spec = load_spec(tmp_path / "job.yaml")
    assert (spec.name, spec.id, spec.max_paid) == ("products", "SKU", 400)
    assert spec.notify is not None
    (tmp_path / "account.yaml").write_text(account, encoding="utf-8")
    assert list(load_account(tmp_path / "account.yaml").workflows) == ["wf_abc123"]


def test_the_python_in_the_readme_names_public_things():
    """And compiles."""
    [code] = blocks("python")
    compile(code, "README.md", "exec")
    assert set(re.findall(r"pipeline\.(\w+)", code)) <= set(pipeline.__all__)


def test_the_summary_in_the_readme_has_fields_of_the_real_one():
    """By name."""
    [text] = blocks("json")
    assert set(json.loads(text)) <= set(pipeline.Summary.__dataclass_fields__)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help_that_ends_with_an_example(name):
    """Of itself."""
    command = cli.commands[name]
    context = click.Context(command, info_name=name, parent=click.Context(cli))
    assert "Example" in command.get_help(context)
    assert f"pipeline {name}" in (command.help or "")
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, (name, parameter.name)


@pytest.mark.parametrize("path", sorted((TOP / "jobs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_job_that_ships_can_be_rehearsed(path, checkout):
    """Its sheet fits its spec."""
    done = shell(f"pipeline check jobs/{path.name} --sandbox --json", checkout)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["to_send"] >= 100


def test_the_figures_are_those_that_the_benchmarks_kept():
    """`make figures` writes them."""
    made = subprocess.run(
        [
            sys.executable,
            "-c",
            "import figures; print(figures.filled(open('README.md').read()), end='')",
        ],
        cwd=TOP,
        env=os.environ | {"PYTHONPATH": str(TOP / "benchmarks"), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == README
    assert README.count("<!-- figures: ") == 2
