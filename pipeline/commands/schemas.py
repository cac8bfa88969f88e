"""The JSON Schemas of what the commands print with `--json`."""

from __future__ import annotations

from pipeline.core.json_schema import DIALECT, closed_object, dataclass_schema, schema_of
from pipeline.core.model import JsonObject, RateLimit, Summary

_TEXT: JsonObject = {"type": "string"}
_CODE: JsonObject = {"type": "integer", "description": "The exit code."}
_COUNTS = schema_of(dict[str, int])
_ROWS = schema_of(list[int])


def schema_of_output(command: str) -> JsonObject:
    """Returns the JSON Schema (draft 2020-12) of an object that a command prints with `--json`.

    After a refusal or another error, every command prints the summary with `error`, or with
    `notice` if the user asked for this ending.
    """
    shapes = [*_SHAPES[command](), _summary({}, {"error": _TEXT, "notice": _TEXT})]
    return {"$schema": DIALECT, "title": f"pipeline {command} --json", "anyOf": shapes}


def _summary(
    more: dict[str, JsonObject], optional: dict[str, JsonObject] | None = None
) -> JsonObject:
    shape = dataclass_schema(Summary, without=("next_step",), more=more)
    shape["properties"] |= optional or {}
    return shape


def _sources() -> dict[str, JsonObject]:
    failed = closed_object({"job": _TEXT, "error": _TEXT})
    one = {"anyOf": [_summary({}), failed]}
    return {"sources": {"type": "array", "items": one}}


def _of_run() -> list[JsonObject]:
    stage = _summary({}, {"error": _TEXT})
    return [_summary({}, {"stages": {"type": "array", "items": stage}, "error": _TEXT})]


def _of_init() -> list[JsonObject]:
    from pipeline.scaffold.job_spec import Written

    return [dataclass_schema(Written, more={"exit_code": _CODE})]


def _of_check() -> list[JsonObject]:
    from pipeline.run.check import Checked

    return [dataclass_schema(Checked, without=("names",), more={"exit_code": _CODE})]


def _of_status() -> list[JsonObject]:
    from pipeline.status.summary import Status

    more = dataclass_schema(Status, without=("summary",))["properties"]
    return [_summary(more, _sources())]


def _of_report() -> list[JsonObject]:
    from pipeline.report.groups import Group
    from pipeline.report.overview import FlaggedAnswers

    more = {
        "groups": schema_of(list[Group]),
        "marked": schema_of(list[FlaggedAnswers]),
        "in_use": schema_of(bool),
        "in_flight": schema_of(int),
        "reviews": _COUNTS,
        "rate_limit": schema_of(RateLimit | None),
    }
    return [_summary(more, _sources())]


def _row() -> JsonObject:
    from pipeline.show.rows import ShownRow

    shape = dataclass_schema(ShownRow)
    shape["properties"]["columns"] = {"type": "object"}
    shape["required"].remove("versions")
    return shape


def _of_show() -> list[JsonObject]:
    return [_row(), _summary({"shown": schema_of(int), "seed": schema_of(int | None)})]


def _of_review() -> list[JsonObject]:
    decided = {
        "decision": _TEXT,
        "rows": _ROWS,
        "unanswered": schema_of(int),
        "shared": _ROWS,
    }
    stored = {"stored": _COUNTS, "unchanged": schema_of(int)}
    return [*map(closed_object, (decided, stored, {"reviews": _COUNTS})), _row()]


def _of_export() -> list[JsonObject]:
    files = ("exported", "citations", "versions", "review")
    return [_summary({}, dict.fromkeys(files, _TEXT))]


def _of_history() -> list[JsonObject]:
    from pipeline.status.history import PastRun

    job = {"job": _TEXT, "runs": schema_of(list[PastRun])}
    more = {"schema_version": schema_of(int), "exit_code": _CODE}
    return [closed_object(more | job, {"sources": {"type": "array", "items": closed_object(job)}})]


def _of_verify() -> list[JsonObject]:
    from pipeline.verify import Verified

    more = dataclass_schema(Verified, without=("summary",))["properties"]
    return [_summary(more)]


def _of_schedule() -> list[JsonObject]:
    files = schema_of(dict[str, str])
    return [closed_object({"files": files, "warnings": schema_of(list[str]), "exit_code": _CODE})]


_SHAPES = {
    "init": _of_init,
    "check": _of_check,
    "run": _of_run,
    "status": _of_status,
    "report": _of_report,
    "show": _of_show,
    "review": _of_review,
    "resume": _of_run,
    "settle": _of_run,
    "export": _of_export,
    "history": _of_history,
    "verify": _of_verify,
    "schedule": _of_schedule,
}
COMMANDS = tuple(_SHAPES)
