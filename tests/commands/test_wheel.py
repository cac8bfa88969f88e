"""Tests what is distributed: the wheel and the source archive, and a job with an installed wheel.

`make test-wheel` also installs the wheel on each Python of this machine. Other calls skip those
tests, because an installation needs the package index and takes minutes.
"""

from __future__ import annotations

import contextlib
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest
import yaml

import pipeline
from tests.conftest import TOP
from tests.support.browser import PageClient

WHEEL = TOP / ".wheel"
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MINORS = (11, 12, 13, 14)


def build(folder: Path, source: Path = TOP, *, epoch: str = "1700000000") -> Path:
    """Builds both archives of a source tree as `make dist` does. Returns `folder`."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=source,
        env=os.environ | {"SOURCE_DATE_EPOCH": epoch},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def only(folder: Path, pattern: str) -> Path:
    """Returns the only file of its kind."""
    [path] = folder.glob(pattern)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive of this checkout. To be read only."""
    return build(tmp_path_factory.mktemp("dist"))


def metadata(wheel: Path) -> Message:
    text = zipfile.ZipFile(wheel).read(f"paidrows-{pipeline.__version__}.dist-info/METADATA")
    return email.message_from_bytes(text)


def package_files() -> set[str]:
    """Returns the files of the package, relative to the checkout."""
    files = (path for path in (TOP / "pipeline").rglob("*") if path.is_file())
    return {str(path.relative_to(TOP)) for path in files if path.suffix != ".pyc"}


def interpreter(minor: int) -> str:
    """Returns a Python 3.`minor` of this machine that works. Skips the test if there is none."""
    named = shutil.which(f"python3.{minor}")
    pyenv = Path.home() / ".pyenv" / "versions"
    for path in [*([named] if named else []), *sorted(pyenv.glob(f"3.{minor}.*/bin/python"))]:
        # The command of a version that pyenv has not selected exists but does not run.
        if subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
            return str(path)
    pytest.skip(f"no Python 3.{minor} is on this machine")


def environment() -> dict[str, str]:
    """Returns the variables of a new user: no key, nothing for Python, no checkout in PATH."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AITUTOR_", "PYTHON"))}
    return kept | {"PATH": "/usr/local/bin:/usr/bin:/bin"}


def called(folder: Path, *words: str | Path, **more: str) -> str:
    """Runs a command in `folder` with the variables `more` too, and returns its output."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=environment() | more,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    assert str(TOP) not in done.stdout + done.stderr
    return done.stdout


# An empty file system lies over the checkout, for this command alone.
_HIDING = ("unshare", "--map-root-user", "--mount", "sh", "-c")
_HIDDEN = f'mount -t tmpfs none "{TOP}" && exec "$@"'


def hiding() -> tuple[str, ...]:
    """Returns the words before a command that must not see the checkout. There are none if this
    machine allows no mounts: then only the outputs show that nothing refers to the checkout."""
    tried = (*_HIDING, _HIDDEN, "sh", "test", "!", "-e", str(TOP / "pipeline"))
    if shutil.which("unshare") and not subprocess.run(tried, capture_output=True).returncode:
        return (*_HIDING, _HIDDEN, "sh")
    return ()


def test_the_same_tree_gives_the_same_bytes_whatever_the_times_of_its_files(built, tmp_path):
    """Both archives, from another folder, with other times and permissions of the files."""
    source = tmp_path / "copy"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copyfile(TOP / name, source / name)
    shutil.copytree(
        TOP / "pipeline",
        source / "pipeline",
        copy_function=shutil.copyfile,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (source / "pipeline" / "cli.py").chmod(0o600)
    again = build(tmp_path / "again", source)
    for pattern in ("*.whl", "*.tar.gz"):
        assert only(built, pattern).read_bytes() == only(again, pattern).read_bytes(), pattern


def test_the_source_archive_builds_the_same_wheel(built, tmp_path):
    """So whoever builds from the archive gets the wheel that was tested."""
    with tarfile.open(only(built, "*.tar.gz")) as file:
        file.extractall(tmp_path, filter="data")
    again = build(tmp_path / "again", tmp_path / f"paidrows-{pipeline.__version__}")
    assert only(again, "*.whl").read_bytes() == only(built, "*.whl").read_bytes()


def test_the_wheel_contains_the_package_with_types_workflows_and_licence_and_nothing_else(built):
    """It has no tests, no jobs and no run folders. Its command has two names."""
    wheel = zipfile.ZipFile(only(built, "*.whl"))
    names = set(wheel.namelist())
    about = f"paidrows-{pipeline.__version__}.dist-info/"
    assert {name for name in names if not name.startswith(about)} == package_files()
    assert {"pipeline/py.typed", "pipeline/sandbox/workflows.yaml"} <= names
    assert f"{about}licenses/LICENSE" in names
    commands = wheel.read(f"{about}entry_points.txt").decode()
    assert re.findall(r"^(\w+) = pipeline.cli:main$", commands, re.MULTILINE) == [
        "paidrows",
        "pipeline",
    ]


def test_the_source_archive_contains_the_sources_of_the_wheel_and_no_tests(built):
    """And the licence, and the text for the index."""
    with tarfile.open(only(built, "*.tar.gz")) as file:
        names = {member.name.partition("/")[2] for member in file if member.isfile()}
    assert package_files() <= names
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names
    assert {name.split("/")[0] for name in names if "/" in name} == {"pipeline"}


def test_the_wheel_has_the_name_the_python_versions_and_the_extras_of_pyproject(built):
    """The name `pipeline` on the index is another package, and no requirement has that name."""
    about = metadata(only(built, "*.whl"))
    assert about["Name"] == "paidrows"
    assert about["Requires-Python"] == PROJECT["requires-python"]
    assert about.get_all("Classifier") == PROJECT["classifiers"]
    assert {"mcp", "otel", "ray", "xls"} <= set(about.get_all("Provides-Extra"))
    assert not [word for word in about.get_all("Requires-Dist") if re.match(r"pipeline\b", word)]


def test_the_python_versions_in_pyproject_are_those_that_the_documentation_names():
    """`make test-wheel` prints the tested ones. The documentation names the others as untested."""
    contributing, readme = (
        " ".join((TOP / page).read_text(encoding="utf-8").split())
        for page in ("CONTRIBUTING.md", "README.md")
    )
    [said] = re.findall(
        r"`make test-wheel`[^.]*?last on\s+Python\s+([\d., and]+?\d)[;.]\s", contributing
    )
    claimed = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    tested = re.findall(r"3\.\d+", said)
    assert tested == claimed[: len(tested)]
    for version in claimed[len(tested) :]:
        assert f"Python {version} was not at hand" in contributing
    assert f"Python {claimed[0]} or newer (tested up to {tested[-1]})" in readme
    assert PROJECT["requires-python"] == f">={claimed[0]}"


def test_the_documentation_names_the_wheel_of_this_release():
    """A command with an older name would fail."""
    pages = [TOP / "README.md", *(TOP / "docs").glob("*.md")]
    named = [
        name
        for page in pages
        for name in re.findall(r"paidrows-[\d.]+\S*?\.whl", page.read_text(encoding="utf-8"))
    ]
    assert len(named) >= 7
    assert set(named) == {f"paidrows-{pipeline.__version__}-py3-none-any.whl"}


@pytest.mark.parametrize("minor", MINORS)
def test_an_installed_wheel_does_a_whole_job_without_the_checkout(minor, tmp_path):
    """Only its requirements are installed, each file checked against the lock's hashes."""
    if "TESTED_DIST" not in os.environ:
        pytest.skip("`make test-wheel` builds and installs what is tested here")
    python, hidden = interpreter(minor), hiding()
    wheel = shutil.copy(only(TOP / os.environ["TESTED_DIST"], "*.whl"), tmp_path)
    called(tmp_path, python, "-m", "venv", "own")
    bin_, house = tmp_path / "own" / "bin", WHEEL / "house"
    pip = (bin_ / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    download(pip, house)
    called(tmp_path, *pip, "install", "--no-index", "--find-links", house, wheel)
    called(tmp_path, *pip, "check")
    installed = called(tmp_path, *pip, "list", "--format", "freeze")
    assert not re.search(r"^(pytest|mypy|ruff|hatchling)=", installed, re.MULTILINE)
    # What the messages say about an extra. It asks the index for no release of the runner.
    called(tmp_path, *pip, "install", "--no-index", "--find-links", house, "paidrows[mcp,otel,xls]")
    called(tmp_path, *pip, "check")

    def run(*words: str | Path) -> str:
        return called(tmp_path, *hidden, bin_ / "pipeline", *words)

    assert run("--version").split()[-1] == pipeline.__version__
    assert called(tmp_path, *hidden, bin_ / "paidrows", "--version") == run("--version")
    rows = "".join(f"{n},a tale of {n} cats\n" for n in range(1, 21))
    (tmp_path / "tales.csv").write_text(f"no,story\n{rows}", encoding="utf-8")
    run("init", "tales.csv", "--workflow", "wf_tales", "--to", "tales.yaml")
    job = ("tales.yaml", "--sandbox")
    assert json.loads(run("check", *job, "--json"))["to_send"] == 20
    assert json.loads(run("run", *job, "--json"))["paid_max"] == 20
    assert json.loads(run("run", *job, "--json"))["requests"] == 0
    for kind in ("csv", "xlsx", "parquet", "jsonl"):
        run("export", *job, "--to", f"done.{kind}")
    for command in ("report", "verify", "status", "history", "show"):
        run(command, *job)
    called(tmp_path, "git", "init", "--quiet")
    for kind in ("systemd", "cron"):
        run("schedule", *job, "--at", "02:00", "--as", kind)
    flow = yaml.safe_load(run("schedule", *job, "--at", "02:00", "--as", "github"))
    [step] = [one for one in flow["jobs"]["run"]["steps"] if one.get("name") == "Install"]
    offline = {"PATH": f"{bin_}:/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(house)}
    called(tmp_path, "bash", "-e", "-c", step["run"], **offline)
    hosted = called(tmp_path, *hidden, ".pipeline/venv/bin/pipeline", "--version")
    assert hosted == run("--version")
    assert json.loads(run("schema"))["title"]
    for shell in ("bash", "zsh", "fish"):
        assert "pipeline" in run("completion", shell)
    assert "tales" in page(tmp_path, *hidden, bin_ / "pipeline", "ui", "--no-open")
    tools = called(tmp_path, bin_ / "python", "-c", _LIST_TOOLS, *hidden, bin_ / "pipeline")
    assert tools.split() == ["list_jobs", "check", "status", "report", "show", "run", "resume"]
    everything = "import pipeline; print(*map(lambda n: getattr(pipeline, n), pipeline.__all__))"
    called(tmp_path, *hidden, bin_ / "python", "-W", "error", "-c", everything)
    where = called(tmp_path, bin_ / "python", "-c", "import pipeline; print(pipeline.__file__)")
    assert Path(where).is_relative_to(tmp_path / "own")


# A client of `pipeline mcp`, in the environment of the wheel. Its words start the command.
_LIST_TOOLS = """
import asyncio, sys
from mcp import Client, StdioServerParameters

async def names():
    words = [*sys.argv[1:], "mcp", "--allow-run", "--max-paid-per-run", "5"]
    async with Client(StdioServerParameters(command=words[0], args=words[1:])) as client:
        print(*(tool.name for tool in (await client.list_tools()).tools))

asyncio.run(names())
"""


def download(pip: tuple[str | Path, ...], house: Path) -> None:
    """Fills `house` with the files of the lock, each checked against its hash."""
    lock = TOP / "requirements.lock"
    words = [*map(str, pip), "download", "--require-hashes", "-r", str(lock), "-d", str(house)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def page(folder: Path, *words: str | Path) -> str:
    """Starts the page and returns its first screen."""
    with subprocess.Popen(
        [str(word) for word in words],
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            [address] = re.findall(r"http://\S+", process.stderr.readline())
            client = PageClient(address)
            with contextlib.closing(client.http):
                return client.get("/")
        finally:
            process.terminate()
