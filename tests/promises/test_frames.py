"""A frame pays for a row at most once, as a sheet does. The sandbox's book counts the bills."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import zoneinfo
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from tests.conftest import KEY, Job, SandboxProcess
from tests.support.odd_arrow import OBJECTS, WITHOUT_TEXT

STORIES = pd.DataFrame(
    {"sku": [11, 12, 13, 14], "story": ["a", "b", "b", "d"], "cat": pd.Categorical(list("xyxz"))},
    index=pd.Index([7, 3, 3, 9], name="key"),
)
ACCEPTED = pipeline.Consent(accept_changes=True)


class Run:
    """Calls of `run_frame` with the run folder `runs/frame`."""

    def __init__(self, folder: Path) -> None:
        self._known: dict[str, Any] = {
            "workflow": "wf_story",
            "output": folder / "runs" / "frame",
            "variables": {"story": "story"},
            "progress": False,
            "rate": 5000.0,
        }

    def __call__(self, frame: Any, **options: Any) -> pd.DataFrame:
        return pipeline.run_frame(frame, **(self._known | options))

    async def later(self, frame: Any, **options: Any) -> pd.DataFrame:
        return await pipeline.run_frame_async(frame, **(self._known | options))


@pytest.fixture
def run(sandbox: SandboxProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Sends frames to the sandbox."""
    monkeypatch.setenv("AITUTOR_API_KEY", KEY)
    monkeypatch.setenv("AITUTOR_BASE_URL", sandbox.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Run(tmp_path)


def test_a_frame_comes_back_with_its_index_types_and_answers(run, sandbox):
    """Its own columns are as they were. The frame that was passed is unchanged."""
    before = STORIES.copy()
    done = run(STORIES)
    pd.testing.assert_frame_equal(STORIES, before)
    pd.testing.assert_frame_equal(done[list(STORIES)], STORIES)
    assert list(done.columns[3:]) == [
        *("result", "citations", "_status", "_error_code", "_error_message", "_flags"),
        "_review",
    ]
    assert done["_status"].tolist() == ["ok"] * 4
    assert done["result"].dtype == pd.StringDtype()
    parts = pd.read_parquet(done.attrs["summary"]["results"])
    sent = dict(zip(parts["result"], parts["variables"], strict=True))
    for story, result in zip(done["story"], done["result"], strict=True):
        assert json.loads(sent[result]) == {"story": story}
    cited = [citation for citations in done["citations"] for citation in citations]
    assert all(set(citation) == {"title", "url"} for citation in cited)
    assert done.attrs["summary"]["ok"] == 4
    assert json.loads(json.dumps(done.attrs)) == done.attrs
    assert sum(sandbox.billed().values()) == 4


def test_a_second_call_in_another_order_with_a_null_added_bills_nothing(run, sandbox):
    """pandas makes floats of the numbers then. 11 and 11.0 are the same text."""
    variables = {"story": "story", "sku": "sku"}
    first = run(STORIES, variables=variables)
    holed = pd.concat([STORIES, pd.DataFrame({"story": ["e"]})]).astype({"sku": float})
    shuffled = holed.iloc[[3, 1, 4, 0, 2]]
    before = sandbox.billed()
    second = run(shuffled, variables=variables, empty="skip")
    assert sandbox.billed() == before
    assert second.index.tolist() == shuffled.index.tolist()
    assert second["_status"].tolist() == ["ok", "ok", "skipped", "ok", "ok"]
    answers = {
        sku: result for sku, result in zip(second["sku"], second["result"], strict=True) if sku
    }
    for sku, result in zip(first["sku"], first["result"], strict=True):
        assert answers[sku] == result


def test_objects_in_another_order_with_rows_added_bill_only_those(run, sandbox):
    """Arrow would have one scale for all decimals, and the first row's offset for all times."""
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    frame = pd.DataFrame(
        {
            "price": pd.Series([Decimal("1.10"), Decimal("2"), Decimal("7.5")], dtype=object),
            "at": pd.Series([datetime(2024, n, 1, tzinfo=zone) for n in (1, 7, 9)], dtype=object),
        }
    )
    variables = {"price": "price", "at": "at"}
    run(frame, variables=variables)
    paid = sandbox.billed()
    assert {tuple(json.loads(bill).values()) for bill in paid} == {
        ("2024-01-01T00:00:00+01:00", "1.10"),
        ("2024-07-01T00:00:00+02:00", "2"),
        ("2024-09-01T00:00:00+02:00", "7.5"),
    }
    run(frame.iloc[::-1], variables=variables)
    run(frame.iloc[1:], variables=variables)
    assert sandbox.billed() == paid
    more = pd.DataFrame({"price": [Decimal("1.000")], "at": [datetime(2025, 1, 1, tzinfo=zone)]})
    run(pd.concat([more.astype(object), frame]), variables=variables)
    assert (len(sandbox.billed()), sum(sandbox.billed().values())) == (4, 4)


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_a_frame_that_is_changed_while_it_is_sent_gets_each_answer_next_to_its_row(run, sandbox):
    """The call returns the rows that it read. Their answers are paid."""
    frame = STORIES[["story"]].iloc[[0, 1, 3]].copy()

    def meanwhile(event: pipeline.Event) -> None:
        if isinstance(event, pipeline.AttemptEnded) and len(frame) == 3:
            frame.sort_values("story", ascending=False, inplace=True)
            frame.drop(index=7, inplace=True)
            frame["more"] = 1
            frame.iloc[0, 0] = "edited"

    before = frame.copy()
    done = run(frame, listeners=(meanwhile,))
    assert len(frame) == 2
    pd.testing.assert_frame_equal(done[["story"]], before)
    parts = pd.read_parquet(done.attrs["summary"]["results"])
    sent = dict(zip(parts["result"], parts["variables"], strict=True))
    assert [json.loads(sent[result])["story"] for result in done["result"]] == ["a", "b", "d"]
    assert sum(sandbox.billed().values()) == 3


def test_the_frame_that_came_back_can_be_sent_again(run, sandbox):
    """Its answers are renewed in place, and are no variables."""
    done = run(STORIES[["story"]], variables=None)
    again = run(done.iloc[::-1], variables=None)
    assert list(again.columns) == list(done.columns)
    assert again["result"].tolist() == done["result"].tolist()[::-1]
    more = pd.concat([again, pd.DataFrame({"story": ["new"]})])
    assert run(more, variables=None)["_status"].tolist() == ["ok"] * 5
    assert Counter(sandbox.billed().values()) == {1: 3, 2: 1}


def test_an_id_tells_equal_rows_apart(run, sandbox):
    """In any order, each id keeps its own answer."""
    first = run(STORIES, id="sku").set_index("sku")
    before = sandbox.billed()
    assert before['{"story":"b"}'] == 2
    second = run(STORIES.iloc[::-1], id="sku").set_index("sku")
    assert sandbox.billed() == before
    assert second["citations"].loc[12] == first["citations"].loc[12]
    with pytest.raises(pipeline.Refused, match="same id more than once"):
        run(pd.concat([STORIES, STORIES]), id="sku")


def test_rows_that_are_not_ok_keep_the_frame_and_say_why(run, sandbox):
    """What ends a run early is no exception. The same call continues."""
    odd = pd.DataFrame({"story": ["a", "b #fault:blocked", "c #fault:html-502", None]})
    done = run(odd, empty="skip")
    assert done["_status"].tolist() == ["ok", "failed", "ambiguous", "skipped"]
    assert done["_error_code"].tolist()[1:3] == ["request_blocked", "gateway"]
    assert done["_error_message"].iloc[1] == "Request blocked"
    assert done["result"].isna().tolist() == [False, True, True, True]
    assert done.attrs["summary"]["exit_code"] == 5
    more = pd.DataFrame({"story": [*odd["story"][:3], "d", "e"]})
    paid = sandbox.billed()
    stopped = run(more, max_paid=3)
    assert stopped["_status"].tolist().count("pending") == 1
    assert stopped.attrs["summary"]["stopped"] == "max_paid"
    assert sum(sandbox.billed().values()) == sum(paid.values()) + 1
    sandbox.set_credits(0)
    broke = run(more)
    assert broke.attrs["summary"]["stopped"] == "invalid_billing"
    assert broke["_status"].tolist().count("pending") == 1


def test_an_ambiguous_row_is_sent_again_only_if_the_call_says_so(run, sandbox):
    """The refusal names the argument. The result names the call."""
    odd = pd.DataFrame({"story": ["a", "c #fault:html-502"]})
    step = run(odd).attrs["summary"]["resume_command"]
    wanted = "selection=pipeline.select_resume(ambiguous=True)"
    assert step == f"pipeline.run_frame(frame, …, {wanted})"
    chosen = pipeline.select_resume(ambiguous=True)
    with pytest.raises(pipeline.Refused, match=r"Add consent=pipeline.Consent\(yes=True\)"):
        run(odd, selection=chosen)
    assert sandbox.received() == 2
    run(odd, selection=chosen, consent=pipeline.Consent(yes=True))
    assert sandbox.received() == 3


def test_a_folder_of_a_file_refuses_a_frame_with_the_number_of_bills(run, sandbox, make_job):
    """A file's texts do not show those of the frame, so each new row may be a paid one."""
    job = make_job(sandbox.url, rows=[["1.0"], ["2.0"], ["same"]])
    job.run()
    frame = pd.DataFrame({"story": [1.0, 2.0]})
    paid = sandbox.billed()
    with pytest.raises(pipeline.Refused) as caught:
        run(frame, output=job.output)
    assert "the source of the rows changed from a file to a frame" in str(caught.value)
    assert "at most 2 finished rows would be sent and paid again" in str(caught.value)
    assert "add consent=pipeline.Consent(accept_changes=True)" in str(caught.value)
    assert sandbox.billed() == paid
    same = run(pd.DataFrame({"story": ["same", "2.0"]}), output=job.output)
    assert (same["_status"].tolist(), sandbox.billed()) == (["ok", "ok"], paid)
    run(frame, output=job.output, consent=ACCEPTED)
    assert sandbox.billed() == paid | {'{"story":"1"}': 1, '{"story":"2"}': 1}
    run(frame.iloc[::-1], output=job.output)
    assert sum(sandbox.billed().values()) == 5


def test_a_folder_of_a_frame_refuses_a_file_with_the_number_of_bills(run, sandbox, make_job):
    """The other way round."""
    job = make_job(sandbox.url, rows=[["1.0"], ["2.0"]], variables={"story": "story"})
    run(pd.DataFrame({"story": [1.0, 2.0]}), output=job.output)
    done = job.call("run")
    assert done.returncode == 2
    assert "the source of the rows changed from a frame to a file" in done.stderr
    assert "at most 2 finished rows would be sent and paid again" in done.stderr
    assert sum(sandbox.billed().values()) == 2
    assert job.run("--accept-changes")["requests"] == 2
    assert job.run()["requests"] == 0


def test_rows_that_another_folder_has_paid_need_a_consent(run, sandbox, make_job, tmp_path):
    """That of a job file or of another frame."""
    job = make_job(sandbox.url, rows=[["a"], ["b"], ["c"]], variables={"story": "story"})
    job.run()
    frame = pd.DataFrame({"story": ["a", "b", "x"]})
    with pytest.raises(pipeline.Refused, match=r"2 of these 3 rows are already paid .*runs/job"):
        run(frame, output=job.output.with_name("other"))
    assert sandbox.received() == 3
    run(frame, output=job.output.with_name("other"), consent=pipeline.Consent(yes=True))
    assert sandbox.received() == 6
    with pytest.raises(pipeline.Refused, match="3 of these 3 rows are already paid"):
        run(frame, output=job.output.with_name("third"))
    job.write_spec(name="fourth", variables={"story": "story"})
    assert "3 of these 3 rows" in job.call("run").stderr
    assert sandbox.received() == 6


def test_a_mass_change_of_a_frame_needs_a_consent(run, sandbox):
    """As of an edited sheet: two frames in one folder are two versions of one sheet."""
    frame = pd.DataFrame({"story": [f"a lamp number {n}, of glass" for n in range(30)]})
    run(frame)
    edited = frame.assign(story=frame["story"] + "!")
    with pytest.raises(pipeline.Refused, match="30 of 30 finished rows have another text"):
        run(edited)
    run(pd.concat([frame, edited[:3]]))
    assert sum(sandbox.billed().values()) == 33


def test_no_answer_lands_on_a_row_of_a_frame_that_was_not_the_last_one(run, tmp_path):
    """Another program used the folder between the run and the reading of its answers."""

    def meanwhile(event: pipeline.Event) -> None:
        events.append(event)

    events: list[pipeline.Event] = []
    done = run(STORIES, listeners=(meanwhile,))
    assert any(isinstance(event, pipeline.RunStarted) for event in events)
    folder = tmp_path / "runs" / "frame"
    from pipeline.inputs.frame import read_frame
    from pipeline.job.frame import Frame
    from pipeline.job.job import job_of
    from pipeline.job.spec import frame_spec
    from pipeline.results.frame import add_answers

    settings = {"name": "frame", "workflow": "wf_story", "output": str(folder)}
    settings["variables"] = {"story": "story"}
    spec = frame_spec(Frame(settings, read_frame(STORIES).table))
    assert add_answers(STORIES, job_of(spec))["result"].tolist() == done["result"].tolist()
    run(STORIES.iloc[::-1])
    with pytest.raises(pipeline.Refused, match='row 1, column "story" was changed'):
        add_answers(STORIES, job_of(spec))


@pytest.mark.parametrize("kind", ["pyarrow", "stream", "polars", "duckdb"])
def test_frames_of_other_libraries_come_back_with_nullable_types(run, sandbox, kind):
    """In their order, with an index of numbers. A frame of pandas with the same texts pays nothing
    again."""
    table = pa.table({"story": ["a", "b", None], "n": [1, None, 3], "x": [0.5, None, 2.0]})
    given: Any = table
    if kind == "stream":
        given = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(2))
    elif kind == "polars":
        given = polars.from_arrow(table)
    elif kind == "duckdb":
        given = duckdb.from_arrow(table)
    done = run(given, empty="skip")
    assert done["story"].tolist()[:2] == ["a", "b"]
    assert [str(done[name].dtype) for name in ("story", "n", "x")] == ["string", "Int64", "Float64"]
    assert done["n"].isna().tolist() == [False, True, False]
    assert done["_status"].tolist() == ["ok", "ok", "skipped"]
    assert done.index.tolist() == [0, 1, 2]
    run(done[["story"]].iloc[::-1], empty="skip")
    assert sum(sandbox.billed().values()) == 2


def test_columns_without_a_type_of_pandas_come_home_as_objects(run, sandbox, make_job, tmp_path):
    """Each row is paid once, and each call returns. So does `read_results` for a Parquet file."""
    odd = {name: column for name, (column, _) in OBJECTS.items()}
    odd |= {name: column for name, (column, _) in WITHOUT_TEXT.items()}
    table = pa.table({"story": ["a", "b"], **odd})
    for _ in range(2):
        done = run(table)
        assert done["_status"].tolist() == ["ok", "ok"]
        for name, (_, values) in OBJECTS.items():
            assert done[name].tolist() == values, name
        assert done["infinity"].iloc[0] == float("inf")
        assert str(done["day after the year 9999"].iloc[0]) == "29349-01-26 00:00:00"
        assert done["unknown time zone"].iloc[0] == "2001-09-09 01:46:40.000Z"
    assert sorted(sandbox.billed().values()) == [1, 1]
    job = make_job(sandbox.url, variables={"story": "story"})
    stored = [name for name in odd if not re.search("run-end|union|categor|duration", name)]
    pq.write_table(table.select(["story", *stored]), tmp_path / "sheet.parquet")
    job.write_spec(input=str(tmp_path / "sheet.parquet"), variables={"story": "story"})
    assert job.run("--yes")["ok"] == 2
    found = pipeline.read_results(job.spec)
    assert found["lists of texts of polars"].tolist() == [["a", "b"], None]
    assert found["unknown time zone"].iloc[0] == "2001-09-09 01:46:40.000Z"
    done = job.call("export", "--to", str(tmp_path / "done.jsonl"))
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "done.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (first["infinity"], first["day after the year 9999"]) == (None, "29349-01-26")


def _named(name: str) -> pd.DataFrame:
    return pd.DataFrame([["a", "b"]], columns=pd.Index(["story", name], dtype=object))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (lambda: {"output": None}, "output= is of the type NoneType. Pass the path of a run fold"),
        (lambda: {"output": b"runs"}, "output= is of the type bytes"),
        (lambda: {"variables": ["story"]}, "variables= is of the type list. Pass {variable: colu"),
        (lambda: {"listeners": None}, "listeners= is of the type NoneType. Pass a tuple of func"),
        (lambda: {"listeners": (5,)}, "listeners= contains 5. Pass a tuple of functions"),
        (lambda: {"selection": "all"}, "selection= is of the type str. Pass a `pipeline.Selecti"),
        (lambda: {"selection": pipeline.Selection(limit="5")}, "limit= is of the type str"),  # type: ignore[arg-type]
        (lambda: {"selection": pipeline.Selection(only="gateway")}, "only= is of the type str"),  # type: ignore[arg-type]
        (lambda: {"selection": pipeline.Selection(rows=[1])}, "rows= is of the type list"),  # type: ignore[arg-type]
        (lambda: {"consent": True}, "consent= is of the type bool. Pass a `pipeline.Consent`"),
        (lambda: {"consent": pipeline.Consent(yes="no")}, "yes= is of the type str"),  # type: ignore[arg-type]
        (lambda: {"control": 5}, "control= is of the type int. Pass a `pipeline.Control`"),
        (lambda: {"drain_s": "5"}, "drain_s= is of the type str. Pass a number of seconds"),
        (lambda: {"until": "22:00"}, "until= is of the type str"),
        (lambda: {"key_file": 5}, "key_file= is of the type int"),
        (lambda: {"base_url": 5}, "base_url= is of the type int"),
        (lambda: {"sandbox": "no"}, "sandbox= is of the type str. Pass True or False"),
        (lambda: {"constants": {("a",): "b"}}, "constants= contains an object of the type tuple"),
        (lambda: {"frame": pd.DataFrame}, "The class DataFrame is not a frame. Pass a DataFrame"),
        (lambda: {"frame": _named("\ud800")}, "column 2 of the frame contains half a character"),
        (
            lambda: {
                "frame": polars.DataFrame(
                    {"story": ["a"], "o": polars.Series([{1}], dtype=polars.Object)}
                )
            },
            'column "o" has the type Object of polars',
        ),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused_with_those_that_are_allowed(
    run, sandbox, options, words
):
    """Nothing is sent."""
    with pytest.raises(pipeline.Refused) as caught:
        run(**({"frame": STORIES} | options()))
    assert words in str(caught.value)
    assert str(caught.value).endswith("Nothing was sent.")
    assert sandbox.received() == 0


@pytest.mark.parametrize("job", [None, 5, b"runs", pd.DataFrame, "a\0b", "\ud800"])
def test_jobs_of_a_wrong_kind_are_refused(job):
    """By each function that finds the job of a path."""
    for function in (pipeline.read_results, pipeline.run_job, pipeline.find_job):
        with pytest.raises(
            pipeline.Refused, match=r"a job file or a run folder|the path of the job"
        ):
            function(job)


def test_columns_of_json_answers_have_nullable_types(run, sandbox, tmp_path):
    """In the frame, from `read_results`, and in an export from the shell."""
    sandbox.publish("wf_json", '{"title": "x", "n": 7, "sure": true, "day": "2026-01-02"}')
    columns = {
        "title": "$.title",
        "n": {"path": "$.n", "type": "integer"},
        "sure": {"path": "$.sure", "type": "boolean"},
        "day": {"path": "$.day", "type": "date"},
        "gone": {"path": "$.gone", "type": "number"},
    }
    done = run(
        pd.DataFrame({"story": ["a"]}),
        workflow="wf_json",
        variables={"s": "story"},
        columns=columns,
    )
    types = {name: str(done[name].dtype) for name in columns}
    assert types["n"] == "Int64"
    assert types["sure"] == "boolean"
    assert types["day"].startswith("datetime64")
    assert types["gone"] == "Float64"
    assert done["gone"].isna().all()
    found = pipeline.read_results(tmp_path / "runs" / "frame")
    pd.testing.assert_frame_equal(found[list(columns)], done[list(columns)])


SHELL = """
import sys, pandas as pd, pipeline
frame = pd.DataFrame({"story": [f"story {n}" for n in range(int(sys.argv[2]))]})
done = pipeline.run_frame(frame, workflow="wf_story", output=sys.argv[1], concurrency=2)
print(done["_status"].tolist())
"""


def program(sandbox: SandboxProcess, folder: Path, rows: int, **more: Any) -> subprocess.Popen[str]:
    job = Job(folder, folder / "none.yaml", folder / "none.csv", sandbox.url)
    return subprocess.Popen(
        [sys.executable, "-c", SHELL, str(folder / "runs" / "frame"), str(rows)],
        env=job.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **more,
    )


def wait_for_bills(sandbox: SandboxProcess, number: int) -> None:
    wait_until(lambda: sum(sandbox.billed().values()) >= number)


def wait_until(happened: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.mark.parametrize("interrupts", [1, 2])
def test_an_interrupt_stops_sending_and_a_second_one_leaves_now(
    start_sandbox, tmp_path, interrupts
):
    """The first waits for the answers in flight, so no row is ambiguous. Then the same call
    continues, and each row is received once."""
    sandbox = start_sandbox(latency="40s" if interrupts == 2 else "500ms")
    running = program(sandbox, tmp_path, 30)
    if interrupts == 2:
        wait_until(lambda: sandbox.received() > 0)
    else:
        wait_for_bills(sandbox, 1)
    running.send_signal(signal.SIGINT)
    if interrupts == 2:
        assert running.stderr is not None
        # Two signals at the same time would be one interrupt.
        assert any(line.startswith("Stopping") for line in running.stderr)
        running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert errors.rstrip().endswith("KeyboardInterrupt"), errors
    assert "Interrupted. The answers so far are saved. The same call continues" in errors
    found = pipeline.read_results(tmp_path / "runs" / "frame")
    counts = Counter(found["_status"])
    assert counts["ok"] + counts["ambiguous"] == sandbox.received() < 30
    assert counts["ok"] <= sum(sandbox.billed().values()) <= sandbox.received()
    assert (counts["ambiguous"] > 0) == (interrupts == 2)
    assert len(found) == 30


def test_the_run_folder_of_a_frame_can_be_read_and_settled_from_a_shell(run, sandbox, tmp_path):
    """Only what sends rows needs the frame, and says so."""
    run(
        pd.DataFrame({"story": ["a", "b #fault:html-502"], "sku": ["A1", "A2"]}),
        id="sku",
        answer_column="tale",
    )
    folder = tmp_path / "runs" / "frame"
    job = Job(tmp_path, folder, tmp_path / "none.csv", sandbox.url)
    summary = job.status()
    assert (summary["ok"], summary["ambiguous"]) == (1, 1)
    report = job.call("report")
    assert "SKU A2" in report.stdout or "sku A2" in report.stdout
    assert "pipeline.run_frame(frame, …, selection=pipeline.select_resume(" in report.stdout
    assert job.call("verify").returncode == 0
    assert job.call("settle").returncode == 0
    done = job.call("export", "--to", str(tmp_path / "done.csv"))
    assert done.returncode == 0, done.stderr
    exported = pd.read_csv(tmp_path / "done.csv")
    assert list(exported.columns)[:3] == ["story", "sku", "tale"]
    for verb in ("run", "resume", "check"):
        done = job.call(verb)
        assert done.returncode == 2
        assert "come from a frame, which only a Python program has" in done.stderr
        assert done.stderr.rstrip().endswith("pipeline.run_frame(frame, …)")
    assert sandbox.received() == 2
    note = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert note["options"]["input"] == "the frame"
    assert "spec" not in note
    assert "A2" not in json.dumps(note)


def test_the_note_of_a_frame_keeps_no_address_of_notify(run, tmp_path, monitor, monkeypatch):
    """An address may contain a secret."""
    monkeypatch.setenv("PIPELINE_NOTIFY_LOCAL", "1")
    target = monitor()
    run(STORIES, notify={"webhook": f"{target.url}/secret-token"})
    assert "secret-token" not in (tmp_path / "runs/frame/run.json").read_text(encoding="utf-8")


DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "settings", [5, {"name": "x"}, {"workflow": []}, {"name": "a\nb"}, {"where": DEEP}]
)
def test_a_note_with_other_settings_is_a_folder_without_its_job(run, sandbox, tmp_path, settings):
    """Somebody else may have written it."""
    run(STORIES)
    folder = tmp_path / "runs" / "frame"
    note = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps(note | {"frame": settings}), encoding="utf-8")
    job = Job(tmp_path, folder, tmp_path / "none.csv", sandbox.url)
    done = job.call("run")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    if settings != 5:
        assert job.call("status").returncode == 0


def test_calls_in_a_running_loop_work_in_a_thread(run, sandbox):
    """As in a notebook. The other call waits in the loop itself."""

    async def main() -> tuple[pd.DataFrame, pd.DataFrame]:
        return run(STORIES), await run.later(STORIES.iloc[:2])

    blocked, awaited = asyncio.run(main())
    assert blocked["_status"].tolist() == ["ok"] * 4
    assert awaited["result"].tolist() == blocked["result"].tolist()[:2]
    assert sum(sandbox.billed().values()) == 4


def test_run_job_works_in_a_running_loop(sandbox, make_job, monkeypatch):
    """It works in a thread then."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    for name, value in job.environment().items():
        if name.startswith(("AITUTOR_", "XDG_")):
            monkeypatch.setenv(name, value)

    async def main() -> pipeline.Summary:
        return pipeline.run_job(job.spec)

    assert asyncio.run(main()).ok == 2
    assert sum(sandbox.billed().values()) == 2


def test_the_control_of_a_call_stops_it_and_the_frame_comes_back(run, sandbox, start_sandbox):
    """Rows that were not sent are pending."""
    slow = start_sandbox(latency="100ms")
    control = pipeline.Control()

    def stop(event: pipeline.Event) -> None:
        if isinstance(event, pipeline.AttemptEnded):
            control.stop("enough")

    frame = pd.DataFrame({"story": [f"story {n}" for n in range(20)]})
    done = run(frame, base_url=slow.url, control=control, listeners=(stop,), concurrency=2)
    counts = Counter(done["_status"])
    assert counts["ok"] == sum(slow.billed().values()) < 20
    assert counts["ok"] + counts["pending"] == 20
    assert done.attrs["summary"]["stopped"] == "interrupted"


@pytest.mark.long
def test_a_killed_program_loses_no_answer(start_sandbox, tmp_path):
    """The next call finds the rows in flight ambiguous."""
    sandbox = start_sandbox(latency="500ms")
    running = program(sandbox, tmp_path, 12)
    wait_for_bills(sandbox, 4)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    again = program(sandbox, tmp_path, 12)
    output, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    counts = Counter(json.loads(output.replace("'", '"')))
    assert counts["ok"] + counts["ambiguous"] == 12
    assert 0 < counts["ambiguous"] <= 2
    assert {bill["received"] for bill in sandbox.bills()} == {1}
