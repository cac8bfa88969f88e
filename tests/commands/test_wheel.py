"""Tests what is distributed: the wheel and the source archive, and a job with an installed wheel.

`make test-wheel` builds both below `.wheel/` and passes them to the tests. Otherwise the tests are
skipped: an older build proves nothing, and installing one takes minutes.
"""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import pipeline
from tests.conftest import TOP

WHEEL = TOP / ".wheel"
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MINORS = (11, 12, 13, 14)


def built(pattern: str) -> Path:
    """Returns the only built file of its kind."""
    if "TESTED_DIST" not in os.environ:
        pytest.skip("`make test-wheel` builds what is tested here")
    [path] = (TOP / os.environ["TESTED_DIST"]).glob(pattern)
    return path


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


def called(folder: Path, *words: str | Path) -> str:
    """Runs a command out of reach of the checkout and returns its output."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AITUTOR_", "PYTHON"))}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def test_the_wheel_contains_the_package_with_types_workflows_and_licence_and_nothing_else():
    """It has no tests, no jobs and no run folders."""
    wheel = built("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    about = f"pipeline-{pipeline.__version__}.dist-info/"
    assert {name for name in names if not name.startswith(about)} == package_files()
    assert {"pipeline/py.typed", "pipeline/sandbox/workflows.yaml"} <= names
    assert f"{about}licenses/LICENSE" in names


def test_the_source_archive_contains_the_sources_of_the_wheel_and_no_tests():
    """The wheel was built from it."""
    archive = built("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {member.name.partition("/")[2] for member in file if member.isfile()}
    assert package_files() <= names
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names
    tops = {name.split("/")[0] for name in names if "/" in name}
    assert tops == {"pipeline", "pipeline.egg-info"}


def test_the_wheel_names_its_python_versions():
    """They come from pyproject.toml."""
    wheel = built("*.whl")
    text = zipfile.ZipFile(wheel).read(f"pipeline-{pipeline.__version__}.dist-info/METADATA")
    about = email.message_from_bytes(text)
    assert about["Requires-Python"] == PROJECT["requires-python"]
    assert about.get_all("Classifier") == PROJECT["classifiers"]


def test_the_python_versions_in_pyproject_are_those_that_the_documentation_names_as_tested():
    """`make test-wheel` prints them."""
    contributing, readme = (
        " ".join((TOP / page).read_text(encoding="utf-8").split())
        for page in ("CONTRIBUTING.md", "README.md")
    )
    [said] = re.findall(
        r"`make test-wheel`[^.]*?last on\s+Python\s+([\d., and]+?\d)[;.]\s", contributing
    )
    claimed = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert re.findall(r"3\.\d+", said) == claimed
    assert f"Python {claimed[0]} or newer (tested up to {claimed[-1]})" in readme
    assert PROJECT["requires-python"] == f">={claimed[0]}"


@pytest.mark.parametrize("minor", MINORS)
def test_an_installed_wheel_does_a_whole_job_outside_the_checkout(minor, tmp_path):
    """Only its requirements are installed, each file checked against the lock's hashes."""
    wheel = built("*.whl")
    python = interpreter(minor)
    called(tmp_path, python, "-m", "venv", "own")
    bin_, house = tmp_path / "own" / "bin", WHEEL / "house"
    lock = TOP / "requirements.lock"
    pip = (bin_ / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    called(tmp_path, *pip, "download", "--require-hashes", "-r", lock, "-d", house)
    called(tmp_path, *pip, "install", "--no-index", "--find-links", house, wheel)
    installed = called(tmp_path, *pip, "list", "--format", "freeze")
    assert not re.search(r"^(pytest|mypy|ruff|setuptools)=", installed, re.MULTILINE)

    runner = bin_ / "pipeline"
    assert called(tmp_path, runner, "--version").split()[-1] == pipeline.__version__
    rows = "".join(f"{n},a tale of {n} cats\n" for n in range(1, 21))
    (tmp_path / "tales.csv").write_text(f"no,story\n{rows}", encoding="utf-8")
    called(tmp_path, runner, "init", "tales.csv", "--workflow", "wf_tales", "--to", "tales.yaml")
    job = ("tales.yaml", "--sandbox")
    assert json.loads(called(tmp_path, runner, "check", *job, "--json"))["to_send"] == 20
    assert json.loads(called(tmp_path, runner, "run", *job, "--json"))["paid_max"] == 20
    assert json.loads(called(tmp_path, runner, "run", *job, "--json"))["requests"] == 0
    for kind in ("csv", "xlsx", "parquet", "jsonl"):
        called(tmp_path, runner, "export", *job, "--to", f"done.{kind}")
    called(tmp_path, runner, "report", *job)
    called(tmp_path, runner, "verify", *job)
    everything = "import pipeline; print(*map(lambda n: getattr(pipeline, n), pipeline.__all__))"
    called(tmp_path, bin_ / "python", "-W", "error", "-c", everything)
    where = called(tmp_path, bin_ / "python", "-c", "import pipeline; print(pipeline.__file__)")
    assert Path(where).is_relative_to(tmp_path / "own")
