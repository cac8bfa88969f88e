"""Imports are light, and the public names of the package are complete."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import typing
from types import UnionType

import pandas

import pipeline
from tests.conftest import TOP

HEAVY = ("pandas", "pyarrow", "numpy", "httpx", "aiohttp", "tqdm", "yaml", "asyncio")


def loaded_after(code: str) -> set[str]:
    """Returns the modules that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_or_its_command_line_loads_nothing_heavy():
    """So `pipeline --help` appears at once."""
    assert not loaded_after("import pipeline").intersection(HEAVY)
    assert not loaded_after("import pipeline.cli").intersection(
        ("pandas", "pyarrow", "numpy", "httpx", "aiohttp", "tqdm", "yaml")
    )


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
