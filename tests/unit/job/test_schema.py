"""The JSON Schema of a job file agrees with the loader."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import Refused
from pipeline.job.schema import job_schema
from pipeline.job.spec import load_spec
from pipeline.job.spec_keys import KEYS

SCHEMA = jsonschema.Draft202012Validator(job_schema())
TOP = Path(__file__).parents[3]
SPEC = {"name": "job", "workflow": "wf_a", "input": "sheet.csv"}
VALUES = (
    *("", "text", "true", "yes", "null", "5", '"5"', "-1", "0", "1.5", '"1e3"', "1_000", "[]"),
    *("[Price]", "[Price, 5]", "{}", "{a: b}", "{a: 5}", "{a: null}", "send", "{a: send}"),
    *("{job: other.yaml}", "{job: 5}", "{job: a.yaml, b: c}", '""', '"|"', "tab", '"a"', "ab"),
    *("en_US", "[status, flags]", "[[a]]", "{column: a, empty: true}", "{column: a, equals: b}"),
    *("[{column: a, matches: b, not: true}]", "[{column: a, empty: true, equals: b}]", "[{}]"),
    *("{column: a, equals: null}", "{title: $.title, n: {path: $.n, type: integer}}"),
    *("{n: {path: $.n, type: integer, join: x}}", "{n: {path: $.n, type: null, join: x}}"),
    *("{n: {type: integer}}", "{_n: $.n}", '{" n": $.n}', "{n: null}", "{=n: $.n}"),
    *("{webhook: a}", "{textfile: a.prom}", "{textfile: a.txt}", "{timeout_s: 0}", "{hook: a}"),
    *("ray", "text_1", "http", "2024-01-02", "1000001.5", "local", "1000001", "a/b", "a b"),
    "x" * 65,
)


def both(text: str, folder: Path) -> tuple[bool, bool]:
    """Whether the schema and the loader take a job file."""
    path = folder / "job.yaml"
    path.write_text(text, "utf-8")
    try:
        load_spec(path)
    except Refused:
        loaded = False
    else:
        loaded = True
    return SCHEMA.is_valid(yaml.safe_load(text)), loaded


# What YAML reads in its own way: numbers, dates, yes and no, tags, anchors and merges.
ODD = (
    *("no", "Yes", "on", "~", "07", "0o7", "0x1F", "0b11", "1.", ".5", "1e3", "190:20:30", ".inf"),
    *(".nan", "2024-01-02T03:04:05Z", "!!str 5", "!!int '5'", "!!bool 'yes'", "!!binary aGk="),
    *("!x a", "!x {a: b}", "!!python/object:os.system x", "&a b", "*a", "<<", "|\n  a\n  b"),
    *("{<<: {a: b}}", "{? a : b}", "{a: b, a: c}", "{1: a}", "{yes: a}", "{~: a}", "{? [a] : b}"),
    *("{column: no, empty: true}", "{column: a, equals: yes}", "{opentelemetry: on}", "- a"),
    *('"\\ud800"', "100000000000000000000", "{timeout_s: 1e1}", "{textfile: a.prom, timeout_s: 5}"),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.sampled_from([key.name for key in KEYS]), st.sampled_from(VALUES + ODD), max_size=4
    )
)
def test_what_the_schema_or_yaml_refuses_the_loader_refuses(tmp_path: Path, lines: dict[str, str]):
    """For drawn job files. The loader sees more errors than the schema."""
    text = text_of(**SPEC | lines)
    try:
        valid, loaded = both(text, tmp_path)
    except (yaml.YAMLError, ValueError):
        with pytest.raises(Refused):
            load_spec(tmp_path / "job.yaml")
    else:
        assert valid or not loaded


def text_of(**lines: str) -> str:
    return "".join(f"{key}: {value}\n" for key, value in lines.items())


@pytest.mark.parametrize("key", [key.name for key in KEYS])
def test_the_schema_and_the_loader_agree_about_each_key(key: str, tmp_path: Path):
    """With each of the values, also for a job whose rows come from another job."""
    (tmp_path / "other.yaml").write_text(text_of(**SPEC))
    stage = {"input": "{job: other.yaml}", "variables": "{v: b}"}
    differ = [
        (value, *found)
        for more, value in product(({}, stage, {"shown": "true"}), VALUES)
        if len(set(found := both(text_of(**SPEC | more | {key: value}), tmp_path))) == 2
    ]
    assert differ == []


@pytest.mark.parametrize("path", sorted(TOP.glob("jobs/*.yaml")), ids=lambda path: path.stem)
def test_the_schema_takes_every_job_that_ships(path: Path):
    SCHEMA.validate(yaml.safe_load(path.read_text("utf-8")))


@pytest.mark.parametrize("key", ["key", "host", "Name", "max-paid", "sheets"])
def test_both_refuse_another_key(key: str, tmp_path: Path):
    assert both(text_of(**SPEC, **{key: "a"}), tmp_path) == (False, False)


@pytest.mark.parametrize("key", SPEC)
def test_both_refuse_a_job_without_a_required_key(key: str, tmp_path: Path):
    assert both(text_of(**{k: v for k, v in SPEC.items() if k != key}), tmp_path) == (False, False)


@pytest.mark.parametrize(
    "line",
    [
        f"where: [{', '.join(['{column: a, empty: true}'] * 101)}]",
        f"columns: {{{', '.join(f'c{n}: $.c' for n in range(501))}}}",
        f"columns: {{{'a' * 101}: $.c}}",
        f"constants: {{{', '.join(f'c{n}: a' for n in range(1001))}}}",
    ],
    ids=lambda line: line[:9],
)
def test_both_refuse_too_many(line: str, tmp_path: Path):
    assert both(text_of(**SPEC) + line, tmp_path) == (False, False)


@pytest.mark.parametrize(
    "lines",
    [
        "where: {column: a, matches: '(?=b)'}",
        "columns: {a: '$.['}",
        "columns: {result: $.a}",
        "columns: {a: $.a, A: $.b}",
        "variables: {a: b}\nconstants: {a: c}",
        "dedupe: true\ndedupe: true",
        "input: {job: missing.yaml}\nvariables: {a: b}",
        "rate: '0'",
    ],
)
def test_some_errors_only_the_loader_sees(lines: str, tmp_path: Path):
    assert both(text_of(**{k: v for k, v in SPEC.items() if k not in lines}) + lines, tmp_path) == (
        True,
        False,
    )


def test_every_key_is_described():
    told = job_schema()["properties"]
    assert all(len(one["description"]) > 20 for one in told.values())
    assert list(told) == [key.name for key in KEYS]
