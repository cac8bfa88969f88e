"""Job files are read, and errors in them are refused with their line and a hint."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from pipeline.core.errors import Refused
from pipeline.job.spec import JobSpec, load_spec

LEAST = "name: stories\nworkflow: wf_abc123\ninput: stories.csv\n"


def load(tmp_path: Path, text: str) -> JobSpec:
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return load_spec(path)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(Refused) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert "job.yaml" in message
    assert message.endswith("Nothing was sent.")
    return message


def test_the_shortest_job_file_gets_every_default(tmp_path):
    """Three lines are a job. Paths are relative to the file."""
    spec = load(tmp_path, LEAST)
    assert spec.input == tmp_path / "stories.csv"
    assert spec.output == tmp_path / "runs" / "stories"
    assert (spec.variables, spec.constants, spec.id, spec.empty) == (None, (), None, "refuse")
    assert (spec.concurrency, spec.retries, spec.rate, spec.deadline_s) == (2000, 2, None, 330.0)
    assert (spec.max_paid, spec.max_paid_per_run) == (None, None)


def test_a_job_file_with_many_keys_is_read(tmp_path):
    """The values arrive in `JobSpec` with their types."""
    spec = load(
        tmp_path,
        LEAST
        + "variables:\n  story: Story idea\nconstants: {tone: warm}\nid: sku\nempty: skip\n"
        + "output: ../elsewhere\nmax_paid: 500\nmax_paid_per_run: 0\nconcurrency: 20\nretries: 0\n"
        + "rate: 0.5\nencoding: cp1252\nsheet: 'No'\nheader_row: 3\ndeadline_s: 10\n",
    )
    assert spec.variables == (("story", "Story idea"),)
    assert spec.constants == (("tone", "warm"),)
    assert (spec.id, spec.empty, spec.sheet, spec.encoding) == ("sku", "skip", "No", "cp1252")
    assert (spec.max_paid, spec.max_paid_per_run, spec.concurrency) == (500, 0, 20)
    assert (spec.retries, spec.rate, spec.deadline_s, spec.header_row) == (0, 0.5, 10.0, 3)


def test_a_key_with_null_counts_as_missing(tmp_path):
    """`rate: null` and `concurrency: ~` get the defaults."""
    assert load(tmp_path, LEAST + "rate: null\nconcurrency: ~\n").concurrency == 2000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LEAST + "varables: {a: b}\n", ["line 4", "unknown key `varables`", '"variables"']),
        (LEAST + "name: again\n", ["line 4", "`name` is in the job file twice", "in line 1"]),
        (LEAST + "variables: {a: b, a: c}\n", ["line 4", "`a` is in `variables` twice"]),
        (LEAST + "api_key: sk_1\n", ["line 4", "never contains the key", "AITUTOR_API_KEY"]),
        (
            LEAST + "base_url: https://x\n",
            ["line 4", "never contains the API's address", "--base-url"],
        ),
        (LEAST + "constants: {flag: no}\n", ["line 4", "reads `no` as a yes/no value", '"no"']),
        (LEAST + "constants: {sku: 0123}\n", ["reads `0123` as a number", '"0123"']),
        (LEAST + "constants: {day: 2024-01-02}\n", ["as a date", '"2024-01-02"']),
        (LEAST + "constants: {x: null}\n", ["`null` as nothing", '"null"']),
        (LEAST + "constants: {x: }\n", ["line 4: `x` has no text"]),
        (LEAST + "constants: {x: [1]}\n", ["`x` must be a text, not a list"]),
        (LEAST + "empty: no\n", ["`empty: no` is not one of refuse, send, skip. Nothing"]),
        (
            LEAST + "max_paid: 1,000\n",
            ["`max_paid` must be a whole number of 0 or more, not `1,000`"],
        ),
        (
            LEAST + "deadline_s: 5m\n",
            ["`deadline_s` must be a number of seconds above 0 and at most"],
        ),
        (LEAST + "id: 7\n", ["line 4", "`id`", '"7"']),
        (LEAST + "empty: skipp\n", ["line 4", "refuse, send, skip", '"skip"']),
        (LEAST + "empty: {a: skip,\n  b: sent}\n", ["line 5", "`b: sent`", '"send"']),
        (LEAST + "empty: [skip]\n", ["line 4", "a list", "refuse, send, skip"]),
        (LEAST + "retries: -1\n", ["line 4", "whole number of 0 or more"]),
        (LEAST + "retries: two\n", ["whole number"]),
        (LEAST + "concurrency: 0\n", ["1 or more"]),
        (LEAST + "header_row: 0\n", ["line 4", "whole number of 1 or more"]),
        (LEAST + "rate: 0\n", ["must be a number of 0.001 or more and at most 1,000,000, not `0`"]),
        (LEAST + "rate: .inf\n", ["number of 0.001 or more"]),
        (LEAST + "rate: .nan\n", ["number of 0.001 or more"]),
        (LEAST + "rate: 5.0e-324\n", ["number of 0.001 or more"]),
        (LEAST + "deadline_s: 1.0e+300\n", ["line 4", "of seconds above 0 and at most 86,400"]),
        (
            LEAST + "notify: {timeout_s: 61}\n",
            ["line 4: `timeout_s`", "above 0 and at most 60, not `61`"],
        ),
        (LEAST + "notify: {timeout_s: 1.0e+300}\n", ["above 0 and at most 60"]),
        (LEAST + "notify: {timeout_s: .nan}\n", ["above 0 and at most 60"]),
        (LEAST + "variables: [a]\n", ["line 4", "`variables` needs `name: text` lines"]),
        (LEAST + "variables: {a: b}\nconstants: {a: c}\n", ["both a variable and a constant"]),
        ("name: a b\nworkflow: w\ninput: x.csv\n", ["line 1", "letters, digits, - and _"]),
        ("name: ../x\nworkflow: w\ninput: x.csv\n", ["line 1"]),
        (LEAST.replace("wf_abc123", "wf/../x"), ["line 2", "1 to 64 letters"]),
        (LEAST.replace("wf_abc123", "w" * 65), ["line 2"]),
        (LEAST.replace("name", "nmae"), ["line 1", "unknown key `nmae`", '"name"']),
        (LEAST.replace("name: stories\n", ""), ["`name:` is missing"]),
        (LEAST + "foo: 1\n", ["line 4", "The keys are: name, workflow, input"]),
        ("", ["the job file is empty", "`key: value` lines", "`pipeline init SHEET"]),
        ("- a\n", ["`key: value` lines"]),
        ("name: [\n", ["not valid YAML"]),
        ("name: a\n  b: c\n", ["line 2", "not valid YAML"]),
        (
            "name: a: b\n",
            ["line 1: not valid YAML: this text contains `: `. Put the text in quotes"],
        ),
        ("name: a\n\tx: b\n", ["line 2: not valid YAML: a tab"]),
        ("name: @a\n", ["line 1: not valid YAML: a text cannot begin with this character"]),
        ("name: *a\n", ["line 1: not valid YAML: a text cannot begin with *"]),
        ('name: a\nid: "b\nx: c\n', ["line 2: not valid YAML: a quote begins here"]),
        ("id: [a\nname: b\n", ["line 1: not valid YAML: a bracket is not closed"]),
        ("name: a\nstory\nid: b\n", ["line 2: not valid YAML: this is not a `key: value` line"]),
        ("name: a\n---\nname: b\n", ["line 2: not valid YAML: a second document (---)"]),
        ("name: \0a\n", ["not valid YAML: the file contains a control character"]),
        (LEAST + 'output: "a\\0b"\n', ["line 4: `output` contains a control character"]),
        (LEAST + 'output: ""\n', ["line 4: `output` is empty"]),
        (
            LEAST + f"output: {'é' * 128}\n",
            ["line 4", "a name of 256 bytes, and the limit is 255"],
        ),
        (
            LEAST + f"output: {('x' * 99 + '/') * 41}x\n",
            ["line 4", "bytes, and the limit is 4,000"],
        ),
        (LEAST + f"output: {'x/' * 300}x\n", ["line 4: `output` goes through 3", "255"]),
        (LEAST + 'output: "\\ud800"\n', ["line 4: `output` contains half a character"]),
        (
            LEAST.replace("stories.csv", '"s\\e.csv"'),
            ["line 3: `input` contains a control character"],
        ),
        (LEAST.replace("stories.csv", '""'), ["line 3: `input` is empty"]),
        (LEAST.replace("stories.csv", "x" * 256), ["line 3: `input` contains a name of 256 bytes"]),
        (LEAST + 'notify: {textfile: "x\\0.prom"}\n', ["line 4: `textfile` contains a control"]),
        (
            LEAST + f"notify: {{textfile: {'x' * 251}.prom}}\n",
            ["line 4: `textfile` contains a name"],
        ),
        (LEAST + 'constants: {x: "\\ud800"}\n', ["line 4: `x` contains half a character"]),
        (LEAST + 'variables: {"\\udc80": a}\n', ["line 4", "half a character"]),
        (LEAST + "x: !!python/object/apply:os.system [echo]\n", ["unknown key `x`"]),
        ("a: " + "[" * 5000, ["job.yaml"]),
        ("#" * 1_100_000, ["over 1 MB"]),
    ],
)
def test_an_error_in_a_job_file_is_refused_with_its_line_and_a_hint(tmp_path, text, words):
    """One message names the line, the fix, and that nothing was sent."""
    message = refusal(tmp_path, text)
    for word in words:
        assert word in message, message


def test_all_errors_of_a_job_file_are_shown_together(tmp_path):
    """In the order of their lines and each with its hint, so that one edit can fix all."""
    text = (
        "name: my job\ninput: a.csv\ninput: b.csv\nmax_paid: many\nconcurency: 3\n"
        "constants: {a: no, b: 1.5}\nwhere:\n  - {column: x}\n  - {column: x, equal: y}\n"
        "notify: {webhok: x, timeout_s: 0}\nempty: skipp\n"
    )
    lines = refusal(tmp_path, text).splitlines()
    assert lines[0].endswith("job.yaml has 12 errors:")
    assert [line.partition(":")[0].strip() for line in lines[2:-1]] == [
        *("line 1", "line 3", "line 4", "line 5", "line 6", "line 6"),
        *("line 8", "line 9", "line 10", "line 10", "line 11"),
    ]
    assert lines[1].startswith("  `workflow:` is missing. Write the workflow's id")
    assert 'Did you mean "concurrency"?' in lines[5]
    assert lines[-1] == "Nothing was sent."


def test_of_many_errors_the_first_20_are_shown_and_the_others_counted(tmp_path):
    """A line for each could be megabytes."""
    unknown = "".join(f"k{n}: x\n" for n in range(5000))
    lines = refusal(tmp_path, LEAST + unknown).splitlines()
    assert "5,000 errors" in lines[0]
    assert lines[1].startswith("  line 4: unknown key `k0`. The keys are: name")
    assert lines[20].startswith("  line 23: unknown key `k19`. The keys are: name")
    assert lines[21:] == ["  and 4,980 more.", "Nothing was sent."]
    wrong = "".join(f"  k{n}: 1\n" for n in range(900))
    assert "and 880 more." in refusal(tmp_path, f"{LEAST}constants:\n{wrong}")


@pytest.mark.parametrize(("key", "most"), [("constants", 1000), ("variables", 16_384)])
def test_variables_and_constants_are_read_up_to_their_limit(tmp_path, key, most):
    """One line more is refused with both numbers."""
    lines = "".join(f"  k{n}: x\n" for n in range(most))
    spec = load(tmp_path, f"{LEAST}{key}:\n{lines}")
    assert len(getattr(spec, key)) == most
    message = refusal(tmp_path, f"{LEAST}{key}:\n{lines}  k{most}: x\n")
    assert f"`{key}` has {most + 1:,} lines, and the limit is {most:,}" in message


def test_a_sheet_instead_of_a_job_file_is_recognized_with_any_content(tmp_path):
    """Text, accidental YAML and a workbook get the same message, with a command to paste."""
    for name, content in [("a b.csv", b"x\n"), ("c.tsv", b"x: y\n"), ("d.xlsx", b"PK\xff")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Refused) as caught:
            load_spec(tmp_path / name)
        message = str(caught.value)
        assert f"{name}: this is a sheet, not a job file." in message
        words = shlex.split(message.partition("To write one: ")[2])
        assert words == ["pipeline", "init", str(tmp_path / name), "--workflow", "ID"]


def test_a_job_file_that_is_missing_or_not_text_is_refused(tmp_path):
    """The user sees a message and no traceback."""
    with pytest.raises(Refused, match="cannot read this job file"):
        load_spec(tmp_path / "nothing.yaml")
    (tmp_path / "job.yaml").write_bytes(b"name: \xff")
    with pytest.raises(Refused, match="not UTF-8"):
        load_spec(tmp_path / "job.yaml")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("shown: [Price, Discount]", ("Price", "Discount")),
        ("shown: [Price]\nlocale: de_DE", ("Price",)),
        ("shown: true", True),
        ("shown: false", False),
        ("shown:", False),
    ],
)
def test_shown_is_a_list_of_columns_or_true(tmp_path, line, shown):
    """Without it, no column is sent as the sheet displays it."""
    spec = load(tmp_path, f"{LEAST}{line}\n")
    assert spec.shown == shown
    assert spec.shows("Price") == bool(shown)
    assert spec.shows("Note") == (shown is True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("shown: Price", "`shown` must be a list such as [Price], or true, not `Price`"),
        ("shown: {Price: 1}", "not `key: value` lines"),
        ("shown: [Price, 5]", "YAML reads `5` as"),
        ("shown: true\nlocale: en", "`locale: en` is not one of en_US, en_GB, de_DE"),
        ("shown: false\nlocale: de_DE", "`locale` has no effect without `shown`"),
    ],
)
def test_another_value_of_shown_or_an_unknown_language_is_refused(tmp_path, line, words):
    """The message lists the languages."""
    assert words in refusal(tmp_path, f"{LEAST}{line}\n")
