"""A frame pays for a row at most once, as a sheet does. The sandbox's book counts the bills."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
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


D, UTC2 = decimal.Decimal, datetime.timezone(datetime.timedelta(hours=2))
UTC1 = datetime.timezone(datetime.timedelta(hours=1))


@pytest.mark.parametrize(
    "values",
    [
        [D("1.10"), D("7.5"), D("1.100"), D("1E+2")],
        [1, D("2.5"), 7.5, 3, 0.125],
        [datetime.datetime(2024, month, 1, 12, tzinfo=z) for month, z in ((7, UTC2), (1, UTC1))],
    ],
)
def test_objects_of_pandas_are_paid_once_in_any_order_and_company(run, sandbox, values):
    """Arrow would give all of them one scale, or the offset of the first."""
    frame = pd.DataFrame({"x": pd.Series(values, dtype=object)})
    run(frame, variables={"x": "x"})
    paid = sandbox.billed()
    assert sum(paid.values()) == len(values)
    for changed in (frame[::-1], frame[:1], frame[1:], frame[1:3]):
        assert set(run(changed, variables={"x": "x"})["_status"]) == {"ok"}
    assert sandbox.billed() == paid


@pytest.mark.filterwarnings("ignore:The inplace keyword")
@pytest.mark.parametrize("how", ["sorted", "shortened", "emptied", "renamed"])
def test_a_frame_that_changes_during_the_call_comes_back_as_it_was_read(run, how):
    """Each answer is next to its row."""
    frame = STORIES.copy()
    changes: dict[str, Callable[[], Any]] = {
        "sorted": lambda: frame.sort_values("sku", ascending=False, inplace=True),
        "shortened": lambda: frame.drop(index=7, inplace=True),
        "emptied": lambda: frame.drop(columns=list(frame), inplace=True),
        "renamed": lambda: frame.rename(columns={"story": "tale"}, inplace=True),
    }

    def change(event: pipeline.Event) -> None:
        if isinstance(event, pipeline.RunStarted):
            changes[how]()

    done = run(frame, listeners=[change])
    assert not frame.equals(STORIES)
    pd.testing.assert_frame_equal(done[list(STORIES)], STORIES)
    parts = pd.read_parquet(done.attrs["summary"]["results"])
    sent = dict(zip(parts["result"], parts["variables"], strict=True))
    for story, result in zip(done["story"], done["result"], strict=True):
        assert json.loads(sent[result]) == {"story": story}


def _odd_columns() -> dict[str, pa.Array]:
    """Columns of two rows that pandas or Python has not."""
    bytes_of = pa.array([0, 1], pa.int8())
    return {
        "views": pa.array([["a"], None], pa.list_(pa.string_view())),
        "kinds": pa.chunked_array(
            polars.Series([["a"], None], dtype=polars.List(polars.Categorical)).to_arrow()
        ),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["x"])),
        "union": pa.UnionArray.from_sparse(bytes_of, [pa.array([1, 2]), pa.array(["a", "b"])]),
        "bool8": pa.ExtensionArray.from_storage(pa.bool8(), bytes_of),
        "json": pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(["{}", "[1]"])),
        "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int8())),
        "struct": pa.array([{"a": [1]}, None]),
        "far": pa.array([4_000_000, None], pa.date32()),
        "fars": pa.array([[4_000_000], None], pa.list_(pa.date32())),
        "nowhere": pa.array([0, None], pa.timestamp("us", "Mars/X")),
        "clock": pa.array([1, None], pa.time64("ns")),
        "endless": pa.array([float("inf"), None]),
        "bytes": pa.array([b"\xff", None], pa.binary_view()),
        "months": pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
        "kind": pa.array(["a", None]).dictionary_encode(),
        "money": pa.array([D("1.10"), None]),
    }


HOME: dict[str, list[Any]] = {
    "views": [["a"], None],
    "kinds": [["a"], None],
    "runs": ["x", "x"],
    "union": [1, "b"],
    "bool8": [False, True],
    "json": ["{}", "[1]"],
    "map": [[("a", 1)], None],
    "struct": [{"a": [1]}, None],
    "fars": ["[12921-08-18]", None],
    "nowhere": ["1970-01-01 00:00:00.000000Z", None],
    "clock": ["00:00:00.000000001", None],
}


def test_a_frame_with_columns_that_pandas_lacks_comes_back(run, sandbox):
    """Its values are Python's then. Also in every later call, and from `read_results`."""
    table = pa.table({"story": ["a", "b"]} | _odd_columns())
    done = run(table)
    assert done["_status"].tolist() == ["ok", "ok"]
    assert {name: done[name].tolist() for name in HOME} == HOME
    assert str(done["far"].iloc[0]) == "12921-08-18 00:00:00"
    assert run(table)["result"].tolist() == done["result"].tolist()
    assert sum(sandbox.billed().values()) == 2
    long = pa.concat_tables([table] * 2100).combine_chunks()
    assert run(long, selection=pipeline.Selection(limit=2))["map"].tolist() == HOME["map"] * 2100


def test_a_parquet_sheet_with_columns_that_pandas_lacks_is_read_and_exported(
    run, sandbox, tmp_path
):
    """Only what is sent must have a text."""
    odd = _odd_columns()
    for name in ("runs", "union", "views", "months"):  # Parquet has no such columns
        del odd[name]
    table = pa.table({"story": ["a", "b"]} | odd)
    sheet = tmp_path / "sheet.parquet"
    pq.write_table(table, sheet)
    spec = tmp_path / "job.yaml"
    spec.write_text("name: job\nworkflow: wf_story\ninput: sheet.parquet\nvariables: {s: story}\n")
    assert pipeline.run_job(spec).ok == 2
    found = pipeline.read_results(spec)
    same = {name: values for name, values in HOME.items() if name in odd}
    assert {name: found[name].tolist() for name in same} == same
    for kind in ("jsonl", "parquet", "csv", "xlsx"):
        pipeline.export_job(pipeline.find_job(spec), tmp_path / f"done.{kind}")
    lines = [json.loads(line) for line in (tmp_path / "done.jsonl").read_text().splitlines()]
    assert [line["far"] for line in lines] == ["12921-08-18", None]
    assert [line["endless"] for line in lines] == [None, None]
    assert lines[0]["nowhere"] == "1970-01-01 00:00:00.000000Z"
    assert pq.read_table(tmp_path / "done.parquet")["far"].type == pa.date32()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output": None}, "output= is None. Pass the path of the run folder"),
        ({"output": 5}, "output= is an object of the type int"),
        ({"output": b"runs"}, "output= is an object of the type bytes"),
        ({"variables": ["story"]}, 'variables= is an object of the type list. Pass {"variable":'),
        ({"variables": "story"}, "variables= is an object of the type str"),
        ({"sandbox": None}, "sandbox= is None. Pass True or False"),
        ({"control": "stop"}, "control= is an object of the type str"),
        ({"listeners": None}, "listeners= is None. Pass a tuple of functions"),
        ({"listeners": print}, "listeners= is an object of the type builtin_function"),
        ({"listeners": (5,)}, "listeners= contains an object that is not a function"),
        ({"selection": "all"}, "selection= is an object of the type str. Pass a pipeline.Sel"),
        ({"selection": None}, "selection= is None"),
        ({"consent": True}, "consent= is an object of the type bool. Pass a pipeline.Consent"),
        ({"key_file": 5}, "key_file= is an object of the type int. Pass the path of a file"),
        ({"base_url": 5}, "base_url= is an object of the type int"),
        ({"drain_s": "5"}, "drain_s= is an object of the type str. Pass a number of seconds"),
        ({"until": "22:00"}, "until= is an object of the type str"),
        ({"workflow": None}, "workflow"),
        ({"columns": 5}, "columns"),
        ({"where": "x"}, "where"),
        ({"max_paid": "x"}, "max_paid"),
        ({"constants": ["x"]}, "constants"),
        ({"variables": {"\ud800": "story"}}, "half a character"),
        ({"constants": {"x": "\ud800"}}, "half a character"),
        ({"output": "runs/\ud800"}, "half a character"),
        ({"id": "\ud800"}, "half a character"),
    ],
)
def test_an_argument_of_another_kind_is_refused_with_what_is_allowed(run, sandbox, options, words):
    """Before anything is sent."""
    with pytest.raises(pipeline.Refused) as caught:
        run(STORIES, **options)
    assert words in str(caught.value)
    assert sandbox.received() == 0


@pytest.mark.parametrize("job", [None, 5, b"runs/frame"])
def test_what_is_no_job_is_refused(job):
    """By every function that takes one."""
    for function in (pipeline.read_results, pipeline.run_job, pipeline.find_job):
        with pytest.raises(pipeline.Refused, match=r"is not a job\. Pass the path of a job file"):
            function(job)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rows": "3,7"}, 'rows= is an object of the type str. Pass pipeline.parse_rows("3,7-9")'),
        ({"limit": "5"}, "limit= is an object of the type str. Pass a number of rows"),
        ({"only": "gateway"}, "only= is an object of the type str. Pass a frozenset"),
        ({"flags": "not_json"}, "flags= is an object of the type str"),
        ({"states": None}, "states= is None"),
    ],
)
def test_a_selection_with_a_value_of_another_kind_is_refused(fields, words):
    """A text has letters, not codes."""
    with pytest.raises(pipeline.Refused) as caught:
        pipeline.Selection(**fields)
    assert words in str(caught.value)


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
