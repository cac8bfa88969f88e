"""The pages cannot drift: rehearsals run, output is what comes out, options and keys exist."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest

import pipeline
from pipeline.cli import cli
from pipeline.job.spec import JobSpec, load_spec
from pipeline.results.flags import FLAGS
from pipeline.sandbox.account import load_account
from tests.conftest import TOP

README = (TOP / "README.md").read_text(encoding="utf-8")
# Made by scripts, which the tests below run, or run as a whole by a target of their own.
MADE = ("cli.md", "python.md", "recipes.md")
PAGES = ["README.md"] + [
    f"docs/{page.name}" for page in sorted((TOP / "docs").glob("*.md")) if page.name not in MADE
]


def blocks(language: str, page: str = "README.md") -> list[str]:
    """The fenced blocks of a page in one language."""
    text = (TOP / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(page: str) -> list[tuple[str, list[str]]]:
    """(command, the lines shown under it) of every console block of a page."""
    found: list[tuple[str, list[str]]] = []
    for line in "".join(blocks("console", page)).splitlines():
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


def rehearsals(page: str) -> list[tuple[str, list[str]]]:
    return [
        (
            command.replace("make demo", "pipeline run jobs/stories.yaml --sandbox").replace(
                ".venv/bin/pipeline ", "pipeline "
            ),
            shown,
        )
        for command, shown in commands(page)
        if "--sandbox" in command or command == "make demo"
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if rehearsals(page)])
def test_every_rehearsal_runs_and_prints_what_the_page_says(page, checkout):
    """In order, from a fresh checkout. What is shown under a command is its whole output, but for
    the lines that … stands for."""
    assert len(rehearsals("README.md")) >= 5
    for command, shown in rehearsals(page):
        done = shell(command, checkout)
        assert done.returncode in (0, 3, 5), (command, done.stderr)
        if shown:
            gaps = (r"(.*\n)*?" if line == "…" else re.escape(f"{line}\n") for line in shown)
            said = done.stdout + done.stderr
            assert re.fullmatch("".join(gaps), said), (command, shown, said)


def test_every_command_that_is_shown_has_the_options_that_it_is_given():
    """Those that need a key are not run, but they parse."""
    checked = 0
    for command, _ in itertools.chain.from_iterable(map(commands, PAGES)):
        words = shlex.split(command)
        if words[0] != "pipeline":
            continue
        found = cli.commands[words[1]]
        context = found.make_context(words[1], words[2:], resilient_parsing=False)
        assert context.params
        checked += 1
    assert checked >= 12


@pytest.mark.parametrize("page", ["README.md", "docs/spec.md"])
def test_the_spec_that_is_shown_is_a_spec(page, tmp_path):
    """Every key that it shows is one."""
    notify = blocks("yaml", "docs/nights.md")[0]
    assert blocks("yaml")[1] in notify
    (tmp_path / "job.yaml").write_text(blocks("yaml", page)[0] + notify, encoding="utf-8")
    spec = load_spec(tmp_path / "job.yaml")
    assert (spec.name, spec.id, spec.max_paid) == ("products", "SKU", 400)
    assert spec.notify is not None


def test_the_spec_in_the_readme_is_the_one_that_ships(tmp_path):
    """But for its comments."""
    (tmp_path / "job.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    shown, ships = load_spec(tmp_path / "job.yaml"), load_spec(TOP / "jobs" / "products.yaml")
    assert replace(shown, source=ships.source, input=ships.input, output=ships.output) == ships
    assert shown.input.name == ships.input.name


def test_the_account_that_is_shown_is_one(tmp_path):
    """With the workflow of the other pages."""
    [account] = blocks("yaml", "docs/sandbox.md")
    (tmp_path / "account.yaml").write_text(account, encoding="utf-8")
    assert list(load_account(tmp_path / "account.yaml").workflows) == ["wf_abc123"]


def test_the_page_of_the_spec_has_every_key_and_its_default(tmp_path):
    """In the order of `JobSpec`, which is that of the file."""
    (tmp_path / "least.yaml").write_text("name: x\nworkflow: wf\ninput: x.csv\n", encoding="utf-8")
    least = load_spec(tmp_path / "least.yaml")
    table = made_page("spec.md")
    shown = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE))
    keys = [
        key for key in JobSpec.__dataclass_fields__ if key not in ("source", "text_rules", "lines")
    ]
    assert list(shown) == ["name", "workflow", "input", "output", *keys[4:]]
    for key, default in shown.items():
        if re.fullmatch(r"[\d.]+", default) and key != "header_row":
            assert float(default) == getattr(least, key), key
        elif default.startswith("`") and key != "output":
            assert default.strip("`") == str(getattr(least, key)).lower(), key


def test_the_page_of_failures_has_every_mark():
    """In the order in which they are reported."""
    page = (TOP / "docs" / "failures.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == FLAGS


@pytest.mark.parametrize("page", [*PAGES, *(f"docs/{name}" for name in MADE)])
def test_every_link_to_a_file_leads_to_one(page):
    """From where the page is."""
    text = (TOP / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (TOP / page).parent.joinpath(target).exists(), target


def test_the_readme_leads_to_every_page():
    """None is only to be found by chance."""
    for page in (TOP / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in README, page.name


def test_the_python_in_the_readme_names_public_things():
    """And compiles."""
    [code] = blocks("python")
    compile(code, "README.md", "exec")
    assert set(re.findall(r"pipeline\.(\w+)", code)) <= set(pipeline.__all__)


def test_the_page_of_public_names_is_what_their_docstrings_say():
    """Each of them once, and no other."""
    assert sorted(re.findall(r"^### (\w+)$", made_page("python.md"), re.MULTILINE)) == sorted(
        pipeline.__all__
    )


@pytest.mark.parametrize("path", ["README.md", "docs/recipes.md", "CHANGELOG.md"])
def test_what_the_documentation_calls_by_the_packages_name_is_public(path):
    """As in `pipeline.run_job`, in code and in prose."""
    text = (TOP / path).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.-])pipeline\.(\w+)", text))
    assert len(named) >= 3
    assert named - {"__all__"} <= set(pipeline.__all__)


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


def made_page(name: str) -> str:
    """A page of docs/ as its script makes it now, which must be as it is kept."""
    made = subprocess.run(
        [sys.executable, TOP / "docs" / "reference.py", name],
        env=os.environ | {"PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == (TOP / "docs" / name).read_text(encoding="utf-8"), "`make docs`"
    assert f"](docs/{name})" in README, name
    return made.stdout


def test_the_page_of_commands_is_what_their_help_says():
    """Every command and option stands in it."""
    page = made_page("cli.md")
    for name, command in cli.commands.items():
        [section] = re.findall(
            rf"^## pipeline {name}$(.*?)(?=^## )", page, re.DOTALL | re.MULTILINE
        )
        for parameter in command.params:
            spelled = parameter.opts[0]
            assert f"| `{spelled if spelled.startswith('-') else spelled.upper()}" in section


@pytest.mark.parametrize("path", sorted((TOP / "jobs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_job_that_ships_can_be_rehearsed(path, checkout):
    """Its sheet fits its spec."""
    done = shell(f"pipeline check jobs/{path.name} --sandbox --json", checkout)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["to_send"] >= 100


def test_the_picture_shows_what_a_terminal_shows(monkeypatch):
    """But for what depends on the machine's speed. `make picture` draws it."""
    monkeypatch.syspath_prepend(TOP / "docs")
    record = importlib.import_module("record")
    drawn: dict[float, str] = {}
    for text in ElementTree.parse(record.PICTURE).iter("{http://www.w3.org/2000/svg}text"):
        place = float(text.attrib["y"])
        drawn[place] = drawn.get(place, "") + (text.text or "").replace("\xa0", " ")
    shown = [drawn[place].rstrip() for place in sorted(drawn)]
    came = record.recorded(Path(sys.executable).with_name("pipeline"))
    assert steady(shown) == steady(came)
    assert len(steady(shown)) > 35


def steady(lines: list[str]) -> list[str]:
    """A session without its bar, and without what the pace was."""
    return [line for line in lines if "%|" not in line and "answered with 429" not in line]


def test_every_picture_is_small_loads_nothing_and_is_told_in_words():
    """Also to who cannot see it, and wherever it is looked at."""
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", README)
    assert {path for _, path in pictures} == {
        str(path.relative_to(TOP)) for path in (TOP / "docs").glob("*.svg")
    }
    for words, path in pictures:
        drawing = (TOP / path).read_text(encoding="utf-8")
        assert len(words.split()) >= 10
        assert len(drawing) < 100_000
        loading = r"https?://(?!www\.w3\.org/2000/svg)|<script|<image|@import|@font-face|href"
        assert not re.search(loading, drawing)
        assert not re.search(r"/(tmp|home|root|work|Users)/", drawing)


@pytest.mark.parametrize(
    ("document", "tables"), [("README.md", 1), ("docs/figures.md", 1), ("docs/cluster.md", 2)]
)
def test_the_figures_are_those_that_the_benchmarks_kept(document, tables):
    """`make figures` writes them."""
    made = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import figures; print(figures.filled(open({document!r}).read()), end='')",
        ],
        cwd=TOP,
        env=os.environ | {"PYTHONPATH": str(TOP / "benchmarks"), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    text = (TOP / document).read_text(encoding="utf-8")
    assert made.stdout == text
    assert text.count("<!-- figures: ") == tables
