"""What is imported when, and what the package offers to importers."""

from __future__ import annotations

import subprocess
import sys

import pipeline

HEAVY = ("pandas", "pyarrow", "numpy", "httpx", "aiohttp", "tqdm", "yaml", "asyncio")


def loaded_after(code: str) -> set[str]:
    """Modules that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_or_its_command_line_loads_nothing_heavy():
    """`pipeline --help` is there at once."""
    assert not loaded_after("import pipeline").intersection(HEAVY)
    assert not loaded_after("import pipeline.cli").intersection(
        ("pandas", "pyarrow", "numpy", "httpx", "aiohttp", "tqdm", "yaml")
    )


def test_every_public_name_is_there():
    """And listed, for completion and for readers."""
    for name in pipeline.__all__:
        assert getattr(pipeline, name) is not None
    assert set(pipeline.__all__) <= set(dir(pipeline))


def test_a_name_that_is_not_public_is_an_attribute_error():
    """As of any module."""
    assert not hasattr(pipeline, "nothing_like_that")


def test_a_run_needs_no_pandas(sandbox, make_job):
    """pyarrow would import it for any list made an array: 35 MB, and half a second of a start."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    code = "import sys, pipeline; print(pipeline.run_job(sys.argv[1]).ok, 'pandas' in sys.modules)"
    done = job.shell([sys.executable, "-c", code, str(job.spec)])
    assert done.stdout.split() == ["2", "False"], done.stderr
