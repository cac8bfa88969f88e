"""The settings of the engine in a job file, as far as a test of them needs no cluster."""

from __future__ import annotations

import sys

import pytest

WITHOUT = (
    "import sys; sys.modules['{0}'] = None;"
    "from pipeline.cli import main; sys.argv[0] = 'pipeline'; main()"
)


@pytest.mark.parametrize("package", ["ray", "nacl"])
def test_without_the_extra_the_engine_ray_is_refused_in_one_message(sandbox, make_job, package):
    """Whether it comes from the job file or the command line, and before anything is sent."""
    job = make_job(sandbox.url, rows=[["a"]], engine="ray")
    for verb in ("check", "run"):
        command = [sys.executable, "-c", WITHOUT.format(package), verb, str(job.spec)]
        done = job.shell(command)
        assert done.returncode == 2
        assert f"{job.spec} line 4: the engine ray needs packages" in done.stderr
        assert "pip install 'paidrows[ray]'" in done.stderr
        assert "Traceback" not in done.stderr
    done = job.shell([*command, "--engine", "local"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("option", [("--workers", "3"), ("--ray-address", "auto")])
def test_options_of_a_cluster_need_the_engine_ray(sandbox, make_job, option):
    """Without `--engine ray`, everything would silently be sent from this machine."""
    job = make_job(sandbox.url, rows=[["a"]])
    done = job.call("run", *option)
    assert done.returncode == 2
    assert "is for the engine ray" in done.stderr
    assert sandbox.received() == 0


def test_an_unknown_engine_is_refused_with_the_names_of_the_known_ones(make_job):
    """The message has the line in the job file."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]], engine="rey")
    done = job.call("check")
    assert done.returncode == 2
    assert "line 4" in done.stderr
    assert "is not one of local, ray" in done.stderr


@pytest.mark.parametrize("workers", ["1001", "1000000000", "9" * 400])
def test_more_workers_than_one_run_can_use_are_refused(sandbox, make_job, workers):
    """With a message, before the machine runs out of memory, and without a traceback."""
    job = make_job(sandbox.url, rows=[["a"]], engine="ray")
    job.spec.write_text(f"{job.spec.read_text()}workers: {workers}\n")
    for command in (("check",), ("run",)):
        done = job.call(*command)
        assert done.returncode == 2, done.stderr
        assert f"{job.spec} line 5: " in done.stderr
        assert "Nothing was sent." in done.stderr
        assert "Traceback" not in done.stderr
    assert sandbox.received() == 0


@pytest.mark.parametrize("key", ["concurrency", "retries", "max_paid", "header_row", "rate"])
def test_a_number_of_400_digits_is_refused_with_its_line(make_job, key):
    """Python cannot convert it to a float."""
    job = make_job("http://127.0.0.1:9", rows=[["a"]])
    job.spec.write_text(f"{job.spec.read_text()}{key}: {'9' * 400}\n")
    done = job.call("check")
    assert done.returncode == 2, done.stderr
    assert f"{job.spec} line 4: `{key}` must be " in done.stderr
    assert "not `999" in done.stderr
    assert "9" * 101 not in done.stderr
    assert "Traceback" not in done.stderr
