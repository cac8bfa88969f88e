"""`pipeline` without a command says what to do next in this folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import Job, SandboxProcess


def shown(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_an_empty_folder_begins_with_a_sheet(tmp_path: Path):
    assert "Begin with a sheet:\n  pipeline init SHEET --workflow ID\n" in shown(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "my sheet.csv").touch()
    assert "  pipeline init 'data/my sheet.csv' --workflow ID\n" in shown(tmp_path)


def test_a_job_has_its_state_and_its_next_command(make_job, sandbox: SandboxProcess):
    job: Job = make_job(sandbox.url, rows=[["a"], ["b #fault:blocked"], ["c"]])
    assert (
        "No run yet.\n  Next, without a key and without cost: pipeline run job.yaml --sandbox"
        in (shown(job.folder))
    )
    job.call("run", "--sandbox")
    assert "No run yet.\n  Next: pipeline run job.yaml --limit 5" in shown(job.folder)
    job.run("--limit", "1")
    assert "Next: pipeline run job.yaml" in shown(job.folder)
    job.call("run")
    assert "1 failed" in shown(job.folder)
    assert "First edit the cells that were refused" in shown(job.folder)
    job.write_sheet(["story"], [["a"], ["c"]])
    job.run()
    assert "Next: pipeline export job.yaml --to job-done.csv" in shown(job.folder)


def test_other_yaml_is_no_job_and_a_broken_job_says_why(tmp_path: Path):
    (tmp_path / "mkdocs.yml").write_text("site_name: x")
    (tmp_path / "jobs").mkdir()
    assert "There is no job in this folder yet." in shown(tmp_path)
    (tmp_path / "jobs" / "a.yaml").write_text("name: a\n")
    assert "jobs/a.yaml\n  jobs/a.yaml has 2 errors" in shown(tmp_path)
