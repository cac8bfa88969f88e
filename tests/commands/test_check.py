"""`pipeline check`: what a run would send, what it would cost and how long it would take."""

from __future__ import annotations

import json
import time

import pandas as pd
import pytest

from pipeline.core.wording import lasting
from pipeline.sending.kept_pace import fingerprint
from tests.conftest import KEY


def checked(job, *options: str) -> dict:
    done = job.call("check", "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"said": done.stderr}


def test_check_describes_the_texts_of_each_variable_in_the_rows_that_may_be_sent(sandbox, make_job):
    """Empty ones, and the shortest and the longest with their rows. Skipped rows do not count."""
    sheet = [["😀😀", "x"], ["", "not wanted, and long"], ["", "x"], ["abc", "x"], ["y", "x"]]
    job = make_job(
        sandbox.url,
        ["story", "note"],
        [*sheet, ["z", "x"]],
        variables={"text": "story"},
        constants={"tone": "warm and much longer"},
        empty="send",
        where={"column": "note", "equals": "x"},
    )
    found = checked(job)
    [facts] = found["variables"]
    assert facts == {
        "name": "text", "column": "story", "empty": 1, "shortest": 1, "shortest_row": 5,
        "longest": 3, "longest_row": 4, "marked": 0, "marked_row": None,
    }  # fmt: skip
    assert (
        '"text" from "story": 1 character in row 5 (line 6) to 3 in row 4 (line 5), 1 empty.'
        in found["said"]
    )
    assert "1 because `where:` in the job file leaves it out" in found["said"]
    assert sandbox.received() == 0


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_duplicate_id_is_named_with_both_of_its_places(make_job, kind):
    """In every kind of sheet the first five are named, and a long id is cut."""
    job = make_job("http://127.0.0.1:9", rows=[], input=f"sheet.{kind}", id="sku")
    ids = ["a", "b", "a", "c", "b", "a", "a", "d" * 60, "d" * 60, "c"]
    table = pd.DataFrame({"sku": ids, "story": [f"story {n}" for n in range(len(ids))]})
    if kind == "jsonl":
        table.to_json(job.folder / "sheet.jsonl", orient="records", lines=True)
    else:
        getattr(table, f"to_{kind}")(job.folder / f"sheet.{kind}", index=False)
    done = job.call("check")
    assert done.returncode == 2
    first = {"csv": 2, "parquet": 1, "jsonl": 1}[kind]
    word = "row" if kind == "parquet" else "line"
    for text, again, before in (("a", 2, 0), ("b", 4, 1), ("a", 6, 0), ("d" * 40 + "…", 8, 7)):
        assert (
            f'"{text}" in {word} {again + first}, column "sku" is also in {word} {before + first}, '
        ) in done.stderr
    assert "and 1 more." in done.stderr


def test_check_warns_of_texts_that_a_template_may_expand(sandbox, make_job):
    """It says how many and names the first row. A lone brace or dollar is harmless."""
    texts = ["{a}", "5 $", "{{", "cash $$", "{{name}}", "$&", "$1"]
    found = checked(make_job(sandbox.url, rows=[[text] for text in texts]))
    assert (found["variables"][0]["marked"], found["variables"][0]["marked_row"]) == (3, 4)
    assert (
        'Careful: {{…}}, $$ or $& in 3 texts for "story" (first in row 4 (line 5))' in found["said"]
    )


def test_check_says_what_equal_rows_cost_and_how_to_send_them_once(sandbox, make_job):
    """Each is paid, or one request is sent for all."""
    job = make_job(sandbox.url, rows=[["a"], ["a"], ["a"], ["b"]])
    found = checked(job)
    assert (found["equal_rows"], found["to_send"], found["paid_at_most"]) == (2, 4, 4)
    assert "`dedupe: true`" in found["said"]
    job.write_spec(dedupe=True)
    found = checked(job)
    assert (found["equal_rows"], found["to_send"], found["paid_at_most"]) == (2, 2, 2)
    assert (found["pending"], found["rows"]) == (4, 4)
    assert "One request is sent for all equal rows" in found["said"]


def test_the_command_of_a_check_names_a_limit_that_is_not_used_up(sandbox, make_job):
    """With the old limit it would send nothing."""
    job = make_job(sandbox.url, rows=[["a"], ["b"], ["c"]])
    job.run("--max-paid", "1", expect=4)
    assert "--max-paid 3" in checked(job)["said"].splitlines()[-1]


def test_the_duration_comes_from_a_given_rate_or_from_the_measured_limit_of_the_key(
    sandbox, make_job
):
    """Only from that of this key and host. Without either, `check` says that it is not known."""
    job = make_job(sandbox.url, rows=[[str(n)] for n in range(120)], max_paid=60)
    assert "not known" in checked(job)["said"]
    given = checked(job, "--rate", "2")
    assert (given["pace_per_s"], given["pace_learned"], given["duration_s"]) == (2, False, 30)
    assert "about 30 s at 2 requests per second (from `rate`)" in given["said"]
    assert "--rate 2.0" in given["said"].splitlines()[-1]
    folder = job.folder / "cache" / "pipeline"
    folder.mkdir(parents=True, exist_ok=True)
    name = fingerprint(sandbox.url.removeprefix("http://"), KEY)
    told = {"limit": 50, "window_s": 100.0, "g": 1.0, "at": time.time()}
    (folder / f"{name}.json").write_text(json.dumps(told))
    learned = checked(job)
    assert (learned["pace_per_s"], learned["duration_s"]) == (0.5, 120)
    assert "about 2 min at 0.5 requests per second (measured by earlier runs" in learned["said"]
    other = job.folder / "key"
    other.write_text("sk_other")
    other.chmod(0o600)
    assert checked(job, "--key-file", str(other))["pace_per_s"] is None
    assert sandbox.received() == 0


def test_a_check_needs_no_key(sandbox, make_job):
    """Without a key no limit is known."""
    job = make_job(sandbox.url, rows=[["a"]])
    done = job.shell(job.command("check", "--json"), {"AITUTOR_API_KEY": ""})
    assert done.returncode == 0
    assert json.loads(done.stdout)["pace_per_s"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (99, "99 s"), (100, "2 min"), (5_940, "99 min"), (12_000, "3 h 20 min"),
     (200_000, "2 days 8 h")],
)  # fmt: skip
def test_a_duration_is_shown_in_at_most_two_units(seconds, text):
    """As a user needs it for planning."""
    assert lasting(seconds) == text


@pytest.mark.long
def test_a_million_rows_are_checked_in_15_s_of_cpu_and_400_mb(sandbox, make_job):
    """The sheet is 180 MB of CSV. Every run reads it in the same way."""
    job = make_job(sandbox.url, rows=[])
    features = "twelve words of a text that is about as long as a row is wide " * 2
    with job.sheet.open("w", encoding="utf-8") as file:
        file.write("sku,name,features\n")
        for first in range(0, 1_000_000, 1000):
            file.writelines(f"SKU{n},name {n},{features}{n}\n" for n in range(first, first + 1000))
    job.write_spec(variables={"name": "name", "features": "features"})
    assert job.sheet.stat().st_size > 150_000_000
    done = job.measured("check", "--json")
    assert json.loads(done.stdout)["to_send"] == 1_000_000
    assert done.cpu_s < 15
    assert done.peak_bytes < 400e6
