"""Imports are light, and the public names of the package are complete."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType

import openpyxl
import pandas
import pyarrow as pa
import pyarrow.parquet
import pytest

import pipeline
from pipeline.cli import cli
from tests.conftest import TOP, Job, started_sandbox

HEAVY = (
    *("pandas", "numpy", "numpy.ma", "pyarrow", "pyarrow.parquet", "pyarrow.compute", "jsonpath"),
    *("httpx", "aiohttp", "asyncio", "ssl", "email", "http.client", "requests", "opentelemetry"),
    *("uvicorn", "starlette", "multiprocessing", "charset_normalizer", "yaml", "tqdm", "sqlite3"),
    *("openpyxl", "python_calamine", "xml.sax", "xml.parsers", "zipfile", "ray"),
    "pipeline.results.source_rows",
)
"""Modules that take over 5 ms to import. A command loads those that it uses."""

LEDGER = {"yaml", "sqlite3"}
# pyarrow imports TLS, for files in a cloud.
TABLES = {"numpy", "pyarrow", "pyarrow.parquet", "ssl"}
WORKBOOK = {"xml.parsers", "zipfile"}
MAY_LOAD = {
    "--help": set(),
    "sandbox --help": set(),
    "ui --help": set(),
    "init sheet.csv --workflow wf_other --to other.yaml": {"numpy", "yaml"},
    "status job.yaml": LEDGER,
    "history job.yaml": LEDGER,
    "schedule job.yaml --at 02:00 --as cron --key-file key": {"yaml"},
    "verify job.yaml": LEDGER | TABLES,
    # The standard library's HTTP finds the proxies that a run would use.
    "check job.yaml": LEDGER | TABLES | {"email", "http.client"},
    "show job.yaml": LEDGER | TABLES,
    "report job.yaml": LEDGER | TABLES,
    "export job.yaml --to done.csv": LEDGER | TABLES,
    "export job.yaml --to done.jsonl --flags": LEDGER | TABLES,
    "export job.yaml --to done.parquet": LEDGER | TABLES,
    "export job.yaml --to done.xlsx": LEDGER | TABLES | WORKBOOK,
    "export job.yaml --citations cited.parquet": LEDGER | TABLES,
    "review job.yaml": LEDGER | TABLES,
    "review job.yaml --rows 1 --approve": LEDGER | TABLES,
    "schema": {"yaml"},
    "mcp --help": set(),
    "completion bash": set(),
    "settle job.yaml": LEDGER | TABLES | {"asyncio"},
    "run job.yaml": LEDGER | TABLES | {"asyncio", "email", "http.client", "zipfile"},
}
"""The modules among `HEAVY` that each command may load in the folder of a finished job."""

_RUN = """
import os, pathlib, sys
from pipeline.cli import main
try:
    main()
finally:
    pathlib.Path(os.environ["LOADED"]).write_text(" ".join(sys.modules))
"""


def loaded_after(code: str) -> set[str]:
    """Returns the modules that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def loaded_by(job: Job, words: str) -> set[str]:
    """Returns the heavy modules that a command has loaded at its end."""
    noted = job.folder / "loaded"
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *words.split()],
        cwd=job.folder,
        env=job.environment(LOADED=str(noted)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 3), done.stderr
    return set(HEAVY).intersection(noted.read_text().split())


def test_importing_the_package_loads_nothing_heavy():
    """So a program that uses one function does not wait for the others."""
    assert not loaded_after("import pipeline").intersection(HEAVY)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Iterator[Callable[..., Job]]:
    """Makes finished jobs: one row is ok with a citation, and one failed."""
    folder = tmp_path_factory.mktemp("finished")
    sandbox = started_sandbox(book=str(folder / "book.sqlite"))

    def make(sheet: str = "sheet.csv", write: Callable[[Path], object] | None = None) -> Job:
        path = folder / Path(sheet).suffix[1:]
        path.mkdir()
        job = Job(path, path / "job.yaml", path / sheet, sandbox.url)
        rows = [["a dog", "1"], ["#fault:blocked", "2"]]
        if write is None:
            job.write_sheet(["story", "number"], rows)
        else:
            write(job.sheet)
        job.write_spec(variables={"story": "story"})
        assert job.call("run").returncode == 3
        return job

    yield make
    sandbox.stop()


@pytest.fixture(scope="module")
def of_csv(finished: Callable[..., Job]) -> Job:
    return finished()


def test_the_table_has_every_command():
    """`resume` is `run` with other rows."""
    assert {words.split()[0] for words in MAY_LOAD} == {*cli.commands, "--help"} - {"resume"}


@pytest.mark.parametrize("words", MAY_LOAD)
def test_a_command_loads_only_what_it_uses(of_csv, words):
    """pandas, for example, is imported by no command. pyarrow would do so by accident."""
    assert loaded_by(of_csv, words) <= MAY_LOAD[words]


TABLE = {"story": ["a dog", "#fault:blocked"], "number": [1, 2], "ratio": [0.5, None]}


def write_workbook(path: Path) -> None:
    book = openpyxl.Workbook()
    for row in zip(*([name, *values] for name, values in TABLE.items()), strict=True):
        book.active.append(row)
    book.save(path)


SHEETS = {
    ".jsonl": lambda path: path.write_text(
        "".join(
            json.dumps({name: values[row] for name, values in TABLE.items()}) + "\n"
            for row in range(2)
        )
    ),
    ".parquet": lambda path: pa.parquet.write_table(pa.table(TABLE), path),
    ".xlsx": write_workbook,
}


@pytest.mark.parametrize("ending", SHEETS)
def test_no_command_imports_pandas_for_a_sheet_of_any_kind(finished, ending):
    """Also where the sheet has types, and the export keeps them."""
    job = finished(f"sheet{ending}", SHEETS[ending])
    for words in ("check job.yaml", "verify job.yaml", f"export job.yaml --to done{ending}"):
        assert loaded_by(job, words) <= MAY_LOAD["run job.yaml"] | WORKBOOK


def test_every_public_name_exists():
    """`dir` lists it too, for completion and for readers."""
    for name in pipeline.__all__:
        assert getattr(pipeline, name) is not None
    assert set(pipeline.__all__) <= set(dir(pipeline))


def test_every_public_name_has_a_docstring():
    """It is written for this name, not made by Python for a dataclass or an enumeration."""
    for name in pipeline.__all__:
        what = getattr(pipeline, name)
        if isinstance(what, UnionType):
            continue
        words = what.__doc__ or ""
        assert len(words.split()) >= 4, name
        assert not words.startswith(f"{name}("), name
        assert words not in {base.__doc__ for base in getattr(what, "__mro__", ())[1:]}, name


def test_every_public_name_has_a_type_for_its_importers(tmp_path):
    """A name missing from the imports for type checkers would silently have the type Any."""
    names = "".join(f"reveal_type(pipeline.{name})\n" for name in pipeline.__all__)
    (tmp_path / "theirs.py").write_text(f"import pipeline\n{names}", encoding="utf-8")
    done = subprocess.run(
        # In this folder and like `make lint`, to use its cache of the package.
        [sys.executable, "-m", "mypy", str(tmp_path / "theirs.py")],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    types = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert len(types) == len(pipeline.__all__), done.stdout
    untyped = [n for n, kind in zip(pipeline.__all__, types, strict=True) if kind == "Any"]
    assert not untyped


def test_the_types_that_public_calls_return_and_emit_are_public_too():
    """A program can use them in its own annotations."""
    public = {getattr(pipeline, name) for name in pipeline.__all__}
    assert set(pipeline.Event.__args__) <= public
    for name in pipeline.__all__:
        call = getattr(pipeline, name)
        if not inspect.isfunction(call):
            continue
        # The modules that return a DataFrame import it for type checkers only.
        names = {"DataFrame": pandas.DataFrame, **vars(sys.modules[call.__module__])}
        given = typing.get_type_hints(call, names)["return"]
        for kind in (given, *typing.get_args(given)):
            if getattr(kind, "__module__", "").startswith("pipeline."):
                assert kind in public, (name, kind)
        for one in inspect.signature(call).parameters.values():
            assert one.annotation is not one.empty, (name, one)


def test_a_name_that_is_not_public_is_an_attribute_error():
    """As with any module."""
    assert not hasattr(pipeline, "nothing_like_that")


def test_a_run_needs_no_pandas(sandbox, make_job):
    """pyarrow would import it to turn a list into an array. That costs 35 MB and half a second."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    code = "import sys, pipeline; print(pipeline.run_job(sys.argv[1]).ok, 'pandas' in sys.modules)"
    done = job.shell([sys.executable, "-c", code, str(job.spec)])
    assert done.stdout.split() == ["2", "False"], done.stderr
