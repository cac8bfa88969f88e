"""`pipeline ui` on machines of every kind: with and without a display, a browser, a folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import pipeline
from pipeline.run.places import Places

ADDRESS = r"The page is at http://127\.0\.0\.1:\d+/\?token=\S+"


def _said(where: Path, *options: str, env: Mapping[str, str]) -> list[str]:
    """The lines of `pipeline ui` until its end by Ctrl-C."""
    kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "ui", str(where), *options],
        env=kept | dict(env),
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(2 if options else 3)]
    process.send_signal(signal.SIGINT)
    lines += process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 0, lines
    return [line.strip() for line in lines]


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"DISPLAY": ":99", "PATH": "", "BROWSER": ""},
        {"DISPLAY": ":99", "PATH": "", "BROWSER": "no-such-browser"},
        {"DISPLAY": ":99", "PATH": "", "BROWSER": "/usr/bin/w3m"},
    ],
)
def test_without_a_display_or_a_browser_it_prints_the_address_and_says_so(tmp_path: Path, env):
    lines = _said(tmp_path, env=env)
    assert re.fullmatch(ADDRESS, lines[0]), lines
    assert lines[1] == "Only this machine can open it. Ctrl-C ends it."
    assert lines[2] == "No browser opened on this machine. Copy the address into one."
    assert lines[3].startswith("The page has ended.")


def test_no_open_does_not_look_for_a_browser(tmp_path: Path):
    lines = _said(tmp_path, "--no-open", env={"DISPLAY": ":99"})
    assert re.fullmatch(ADDRESS, lines[0]), lines
    assert not any("No browser" in line for line in lines)


def test_a_place_that_does_not_exist_is_refused(tmp_path: Path):
    words = [sys.executable, "-m", "pipeline", "ui", str(tmp_path / "none"), "--no-open"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no such file or folder" in done.stderr


def test_the_files_of_a_run_folder_are_no_sheets(tmp_path: Path):
    """Wherever `output:` puts it. A folder that also has the job file is one of the user's."""
    for name in ("s.csv", "out/failures.csv", "out/results/part-00000.parquet", "both/s.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("out/ledger.sqlite", "both/ledger.sqlite"):
        (tmp_path / name).touch()
    (tmp_path / "both/j.yaml").write_text("input: s.csv\n")
    assert sorted(Places(tmp_path).sheets()) == ["both/s.csv", "s.csv"]
    assert list(Places(tmp_path).jobs()) == ["both/j.yaml"]


@pytest.mark.parametrize(
    ("content", "is_job"),
    [
        ("name: j\nworkflow: wf\ninput: s.csv\n", True),
        ('{"name": "j", "input" : "s.csv"}', True),
        ("input: 'a quote that never ends\n", True),
        ("# workflow:\nname: j\n\tworkflow: wf\n", True),
        ("name: CI\non: {workflow_dispatch: {inputs: {a: {}}}}\njobs: {}\n", False),
        ("services: {web: {image: nginx}}\n", False),
        ("- hosts: all\n", False),
        ("", False),
    ],
)
def test_the_page_offers_job_files_with_errors_and_no_yaml_of_other_programs(
    tmp_path: Path, content, is_job
):
    for name, encoding in (("a.yaml", "utf-8"), ("b.yml", "utf-16")):
        (tmp_path / name).write_text(content, encoding)
    assert list(Places(tmp_path).jobs()) == ["a.yaml", "b.yml"] * is_job


def test_the_page_in_a_clone_offers_no_file_of_the_package():
    assert not list(Places(Path(pipeline.__file__).parent).jobs())
