"""The documentation stays true: its commands run and print what it shows."""

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
from PIL import Image

import pipeline
from pipeline.cli import cli
from pipeline.job.spec import JobSpec, load_spec
from pipeline.results.flags import FLAGS
from pipeline.sandbox.account import load_account
from tests.conftest import TOP

README = (TOP / "README.md").read_text(encoding="utf-8")
# Scripts make the first two, and `make test-recipes` runs the third.
MADE = ("cli.md", "python-reference.md", "recipes.md")
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
    """The jobs and their data, without runs."""
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
            command.replace("make demo", "pipeline run jobs/stories.yaml --sandbox"),
            shown,
        )
        for command, shown in commands(page)
        if "--sandbox" in command or command == "make demo" or "init data/" in command
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if rehearsals(page)])
def test_every_rehearsal_runs_and_prints_what_the_page_says(page, checkout):
    """In order, in a fresh checkout. A page shows the whole output of a command, except for the
    lines that … stands for."""
    assert len(rehearsals("README.md")) >= 5
    for command, shown in rehearsals(page):
        done = shell(command, checkout)
        assert done.returncode in (0, 3, 5), (command, done.stderr)
        if shown:
            gaps = (r"(.*\n)*?" if line == "…" else re.escape(f"{line}\n") for line in shown)
            output = done.stdout + done.stderr
            assert re.fullmatch("".join(gaps), output), (command, shown, output)


def test_every_command_that_is_shown_has_the_options_that_it_is_given():
    """Commands that need a key do not run here, but their options parse."""
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


@pytest.mark.parametrize("page", ["README.md", "docs/job-file.md"])
def test_the_job_file_that_a_page_shows_can_be_loaded(page, tmp_path):
    """Together with the keys on the page about nights."""
    [notify] = blocks("yaml", "docs/nights.md")
    (tmp_path / "job.yaml").write_text(blocks("yaml", page)[0] + notify, encoding="utf-8")
    spec = load_spec(tmp_path / "job.yaml")
    assert (spec.name, spec.id, spec.max_paid) == ("products", "SKU", 400)
    assert spec.notify is not None


def test_the_job_file_in_the_readme_is_the_one_in_the_clone(tmp_path):
    """Except for its comments."""
    (tmp_path / "job.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    shown, ships = load_spec(tmp_path / "job.yaml"), load_spec(TOP / "jobs" / "products.yaml")
    assert replace(shown, source=ships.source, input=ships.input, output=ships.output) == ships
    assert shown.input.name == ships.input.name


def test_the_workflows_file_that_a_page_shows_can_be_loaded(tmp_path):
    """It has the workflow of the other pages."""
    [account] = blocks("yaml", "docs/sandbox.md")
    (tmp_path / "account.yaml").write_text(account, encoding="utf-8")
    assert list(load_account(tmp_path / "account.yaml").workflows) == ["wf_abc123"]


def test_the_page_of_the_job_file_has_every_key_and_its_default(tmp_path):
    """In the order of `JobSpec`."""
    (tmp_path / "least.yaml").write_text("name: x\nworkflow: wf\ninput: x.csv\n", encoding="utf-8")
    least = load_spec(tmp_path / "least.yaml")
    table = made_page("job-file.md")
    shown = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE))
    keys = [
        "as" if key == "answer_column" else key
        for key in JobSpec.__dataclass_fields__
        if key not in ("source", "text_rules", "exported", "lines", "empty_by_column")
    ]
    assert list(shown) == ["name", "workflow", "input", "output", *keys[4:]]
    for key, default in shown.items():
        if re.fullmatch(r"[\d.]+", default) and key != "header_row":
            assert float(default) == getattr(least, key), key
        elif default.startswith("`") and key != "output":
            assert default.strip("`") == str(getattr(least, key)).lower(), key


def test_the_page_of_failed_rows_has_every_flag():
    """In the order of the report."""
    page = (TOP / "docs" / "failed-rows.md").read_text(encoding="utf-8")
    table = page.partition("| flag |")[2]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == FLAGS


@pytest.mark.parametrize("page", [*PAGES, *(f"docs/{name}" for name in MADE)])
def test_every_link_to_a_file_leads_to_one(page):
    """From where the page is."""
    text = (TOP / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (TOP / page).parent.joinpath(target).exists(), target


def test_every_page_is_two_clicks_from_the_readme():
    """docs/README.md links to each of them."""
    assert "](docs/README.md)" in README
    contents = (TOP / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (TOP / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in contents, page.name


@pytest.mark.parametrize("page", ["docs/guarantees.md", "docs/security.md"])
def test_every_test_that_a_page_names_exists(page):
    """A promise without its test would be a claim."""
    named = set(re.findall(r"test_\w+\.py", (TOP / page).read_text(encoding="utf-8")))
    assert len(named) > 10
    assert named <= {path.name for path in (TOP / "tests").glob("**/test_*.py")}


def test_the_readme_is_short():
    """A newcomer reads it in ten minutes."""
    assert len(README.splitlines()) <= 200


def test_no_sentence_stands_on_two_pages():
    """A fact has one page, so that a change of it cannot be forgotten on another."""
    where: dict[str, str] = {}
    for page in [*PAGES, "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]:
        text = (TOP / page).read_text(encoding="utf-8")
        text = re.sub(r"```.*?```|^\|.*?$|^#.*?$", "\n\n", text, flags=re.DOTALL | re.MULTILINE)
        for paragraph in text.split("\n\n"):
            for sentence in re.split(r"(?<=[.:?!]) ", " ".join(paragraph.split())):
                if len(sentence.split()) >= 8:
                    assert where.setdefault(sentence, page) == page, sentence


@pytest.mark.parametrize("page", ["README.md", "docs/python.md", "docs/dataframes.md"])
def test_the_python_of_a_page_runs_in_a_checkout(page, checkout):
    """Its blocks in their order, as one program. No two lines of it print the same."""
    code = "\n".join(blocks("python", page))
    assert set(re.findall(r"pipeline\.(\w+)", code)) <= set(pipeline.__all__)
    if "async def main" in code:
        code += "import asyncio\nasyncio.run(main())\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_page_of_public_names_has_their_docstrings():
    """Each name once, and no other."""
    page = made_page("python-reference.md")
    assert sorted(re.findall(r"^### (\w+)$", page, re.MULTILINE)) == sorted(pipeline.__all__)


@pytest.mark.parametrize("path", ["README.md", "docs/recipes.md", "CHANGELOG.md"])
def test_every_name_of_the_package_in_the_documentation_is_public(path):
    """In code and in prose, such as `pipeline.run_job`."""
    text = (TOP / path).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.-])pipeline\.(\w+)", text))
    assert len(named) >= 3
    assert named - {"__all__"} <= set(pipeline.__all__)


def test_the_summary_that_a_page_shows_has_real_fields():
    """The example, and the table below it."""
    name = "docs/exit-codes-and-files.md"
    [text] = blocks("json", name)
    fields = set(pipeline.Summary.__dataclass_fields__)
    assert set(json.loads(text)) <= fields
    page = (TOP / name).read_text(encoding="utf-8")
    table = page.partition("| field | meaning |")[2].partition("\n\n")[0]
    named = {word for line in table.splitlines() for word in re.findall(r"`(\w+)`", line[:50])}
    assert {"paid_max", "resume_needs", "run_id"} <= named
    assert named <= fields


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_the_help_of_every_command_has_an_example(name):
    """Of that command."""
    command = cli.commands[name]
    top = click.Context(cli, **cli.context_settings)
    context = click.Context(command, info_name=name, parent=top)
    assert "Example" in command.get_help(context)
    assert f"pipeline {name}" in (command.help or "")
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, (name, parameter.name)


def made_page(name: str) -> str:
    """A page of docs/ as its script makes it now. It must equal the stored page."""
    made = subprocess.run(
        [sys.executable, TOP / "docs" / "reference.py", name],
        env=os.environ | {"PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == (TOP / "docs" / name).read_text(encoding="utf-8"), "`make docs`"
    return made.stdout


def test_the_list_for_agents_has_every_page():
    """Each once, and none that does not exist."""
    page = made_page("../llms.txt")
    listed = re.findall(r"^- \[.+\]\((docs/.+)\): .+$", page, re.MULTILINE)
    pages = {f"docs/{path.name}" for path in (TOP / "docs").glob("*.md")} - {"docs/README.md"}
    assert sorted(listed) == sorted(pages)


def test_the_page_of_commands_has_every_command_and_option():
    """From `--help`."""
    page = made_page("cli.md")
    for name, command in cli.commands.items():
        [section] = re.findall(
            rf"^## pipeline {name}$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE
        )
        for parameter in command.params:
            spelled = parameter.opts[0]
            assert f"| `{spelled if spelled.startswith('-') else spelled.upper()}" in section


@pytest.mark.parametrize("path", sorted((TOP / "jobs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_job_that_ships_can_be_rehearsed(path, checkout):
    """Its sheet fits its spec."""
    verb = "run --stages" if "{job:" in path.read_text() else "check"
    done = shell(f"pipeline {verb} jobs/{path.name} --sandbox --json", checkout)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] + found.get("to_send", 0) >= 100


def test_the_pictures_show_what_a_session_shows_now(monkeypatch):
    """Except for lines that depend on the machine's speed. `make picture` draws them."""
    monkeypatch.syspath_prepend(TOP / "docs")
    record = importlib.import_module("record")
    lines, cells, pages = record.recorded(Path(sys.executable).with_name("pipeline"))
    drawn: dict[float, str] = {}
    for text in ElementTree.parse(record.SESSION).iter("{http://www.w3.org/2000/svg}text"):
        place = float(text.attrib["y"])
        drawn[place] = drawn.get(place, "") + (text.text or "").replace("\xa0", " ")
    shown = [drawn[place].rstrip() for place in sorted(drawn)]
    assert steady(shown) == steady(lines)
    [bar] = [line for line in lines if "%|" in line]
    assert re.search(r", 3 failed, 1 ambiguous, took \d+ s$", bar)
    assert len(steady(shown)) > 35
    assert record.SHEET.read_text(encoding="utf-8") == record.draw_sheet(cells)
    assert len(pages) == 2
    for path, page in pages.items():
        with Image.open(path) as picture:
            assert picture.text["words"].splitlines() == record.page_words(page)


def steady(lines: list[str]) -> list[str]:
    """A session without the lines about speed."""
    speed = ("%|", "429", "Rate limit:")
    return [line for line in lines if not any(word in line for word in speed)]


def test_every_picture_is_small_loads_nothing_and_is_described_in_words():
    """For readers who cannot see it, and in every viewer."""
    pictures = {}
    for page in PAGES:
        for words, path in re.findall(r"!\[(.*?)\]\((.*?)\)", (TOP / page).read_text("utf-8")):
            pictures[(TOP / page).parent / path] = words
    assert set(pictures) == {*(TOP / "docs").glob("*.svg"), *(TOP / "docs").glob("*.png")}
    for path, words in pictures.items():
        assert len(words.split()) >= 10
        assert path.stat().st_size < 100_000
        if path.suffix == ".png":
            continue
        drawing = path.read_text(encoding="utf-8")
        loading = r"https?://(?!www\.w3\.org/2000/svg)|<script|<image|@import|@font-face|href"
        assert not re.search(loading, re.sub(">[^<]*</text>", "></text>", drawing))
        assert not re.search(r"/(tmp|home|root|work|Users)/", drawing)


@pytest.mark.parametrize(
    ("document", "tables"),
    [("docs/speed.md", 7), ("docs/pacing.md", 3), ("docs/many-machines.md", 2)],
)
def test_the_figures_are_the_results_of_the_benchmarks(document, tables):
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
