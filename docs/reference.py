"""Writes docs/cli.md from `--help`, docs/python-reference.md from the signatures and docstrings of
the public names, and the table of keys in docs/job-file.md.

    python docs/reference.py NAME     prints one of them
    python docs/reference.py          writes all
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import sys
from pathlib import Path
from types import UnionType
from typing import Any

import click

import pipeline
from pipeline.cli import cli
from pipeline.commands.help import GroupedCommand, GroupedOption
from pipeline.job.spec_keys import KEYS

HERE = Path(__file__).parent

_ARGUMENTS = {
    "JOB": "A job file (`jobs/NAME.yaml`) or its run folder.",
    "WHERE": "A folder, a job file, a run folder or a sheet.",
    "SHELL": "bash, zsh or fish.",
    "WHAT": "A command, or `job`.",
    "SHEET": "A .csv, .tsv, .xlsx, .parquet or .jsonl file.",
}
_BEHIND = re.compile(r"(.*?)\s*(?:\[([^\[\]]*)\])?", re.DOTALL)
_KEYS = re.compile(r"^\| key \| default \| meaning \|\n(?:\|.*\n)+", re.MULTILINE)


def cli_page() -> str:
    """Every command."""
    top = click.Context(cli, info_name="pipeline", **cli.context_settings)
    names = cli.list_commands(top)
    parts = [
        "# The command line",
        "`make docs` makes this page from `pipeline COMMAND --help`: change it there.",
        _prose(cli, top),
        "\n".join(
            [
                "| command | does |",
                "|---|---|",
                *(
                    f"| [`{name}`](#pipeline-{name}) | {_does(cli.commands[name])} |"
                    for name in names
                ),
            ]
        ),
        f"Every command has `{'`, `'.join(top.help_option_names)}`; `pipeline --version` says "
        "which release it is.",
        "[Exit codes and files](exit-codes-and-files.md) explains how a command ends.",
        *(_command(cli.commands[name], name, top) for name in names),
    ]
    return _joined(parts)


def python_page() -> str:
    """Every public name."""
    parts = [
        "# Every public name",
        "`make docs` makes this page from the signatures and docstrings of the names in "
        "`pipeline.__all__`: change it there. [From Python](python.md) shows how to use them.",
    ]
    for title, kind in _KINDS.items():
        parts += [f"## {title}"]
        for name in pipeline.__all__:
            what = getattr(pipeline, name)
            if _kind(what) == kind:
                parts += [f"### {name}", _code(_signature(name, what)), _docstring(what)]
                parts += [_methods(what)] if kind == "value" else []
    return _joined(parts)


_KINDS = {"Calls": "call", "Values": "value", "Codes": "code", "Exceptions": "exception"}


def job_file_page() -> str:
    """The page with the table of keys from `spec_keys`."""
    rows = [f"| `{key.name}` | {key.left_out} | {key.about} |" for key in KEYS]
    table = "\n".join(["| key | default | meaning |", "|---|---|---|", *rows, ""])
    return _KEYS.sub(lambda _: table, (HERE / "job-file.md").read_text(encoding="utf-8"))


def _kind(what: Any) -> str:
    if inspect.isfunction(what):
        return "call"
    if isinstance(what, type) and issubclass(what, Exception):
        return "exception"
    return "code" if isinstance(what, type) and issubclass(what, enum.Enum) else "value"


def _signature(name: str, what: Any) -> str:
    if isinstance(what, UnionType):
        return f"{name} = {' | '.join(one.__name__ for one in what.__args__)}"
    if issubclass(base := what if isinstance(what, type) else object, enum.Enum):
        return "\n".join(f"{name}.{one.name} = {one.value!r}" for one in base)
    if issubclass(base, Exception):
        return f"class {name}({base.__base__.__name__})"
    if dataclasses.is_dataclass(what):
        fields = [f for f in dataclasses.fields(what) if not f.name.startswith("_")]
        lines = [f"    {f.name}: {f.type}{_default(f.default)}" for f in fields]
        return "\n".join([f"class {name}:", *lines])
    lines = [f"async def {name}(" if _is_async(what) else f"def {name}("]
    star = False
    for one in inspect.signature(what).parameters.values():
        if one.kind is one.KEYWORD_ONLY and not star:
            lines.append("    *,")
            star = True
        stars = "**" if one.kind is one.VAR_KEYWORD else ""
        lines.append(f"    {stars}{one.name}: {one.annotation}{_default(one.default)},")
    return "\n".join([*lines, f") -> {inspect.signature(what).return_annotation}"])


def _methods(what: Any) -> str:
    """The public methods and properties of a value."""
    lines = []
    for name, one in vars(what).items() if isinstance(what, type) else ():
        called = isinstance(one, property) or inspect.isfunction(one)
        if name.startswith("_") or not called or not one.__doc__:
            continue
        if not isinstance(one, property):
            name += f"({', '.join([*inspect.signature(one).parameters][1:])})"
        lines.append(
            f"* `{name}`: {' '.join(inspect.cleandoc(one.__doc__).split(chr(10) * 2)[0].split())}"
        )
    return "\n".join(lines)


def _is_async(what: Any) -> bool:
    return inspect.iscoroutinefunction(what) or inspect.isasyncgenfunction(what)


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty or value is dataclasses.MISSING:
        return ""
    plain = isinstance(value, str | int | float | tuple | type(None))
    return f" = {value if isinstance(value, enum.Enum) else repr(value)}" if plain else " = ..."


def _docstring(what: Any) -> str:
    """The paragraphs, and a list of the exceptions."""
    if isinstance(what, UnionType):
        return "Any of these."
    text = inspect.cleandoc(what.__doc__)
    text, raises, errors = text.partition("\nRaises:\n")
    listed = re.sub(r"^    (\w+): ", r"* `\1`: ", errors, flags=re.MULTILINE)
    return (
        f"{text}\nRaises:\n\n{re.sub(r'^ +', '  ', listed, flags=re.MULTILINE)}" if raises else text
    )


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _joined(parts: list[str]) -> str:
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def _command(command: click.Command, name: str, top: click.Context) -> str:
    context = click.Context(command, info_name=name, parent=top)
    parts = [f"## pipeline {name}", _fenced(command.get_usage(context).removeprefix("Usage: "))]
    parts.append(_prose(command, context))
    assert isinstance(command, GroupedCommand)
    rows = ["| | | left out; range |", "|---|---|---|"]
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            word = (parameter.name or "").upper()
            left_out = "required" if parameter.required else "the current folder"
            rows.append(f"| `{word}` | {_ARGUMENTS[word]} | {left_out} |")
    for group, options in command.grouped(context).items():
        rows.append(f"| **{group}** | | |")
        rows += [_row(option, context) for option in options if option in command.params]
    return "\n\n".join([*parts, "\n".join(rows)])


def _row(option: click.Option, context: click.Context) -> str:
    spelled, text = option.get_help_record(context) or ("", "")
    said = _BEHIND.fullmatch(text)
    assert said is not None
    behind = f"`{_cell(said[2])}`" if said[2] else ""
    if isinstance(option, GroupedOption):
        behind = "; ".join(part for part in (option.left_out, _bounds(option)) if part)
    return f"| `{_cell(spelled)}` | {_cell(said[1])} | {behind} |"


def _bounds(option: click.Option) -> str:
    if not isinstance(option.type, click.IntRange | click.FloatRange):
        return ""
    least, most = (f"{end:,}" for end in (option.type.min, option.type.max or 0))
    return f"{least} to {most}" if option.type.max else f"{least} or more"


def _prose(command: click.Command, context: click.Context) -> str:
    """The paragraphs of a command's help, and its examples as code."""
    parts = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if not paragraph.startswith("\b\n"):
            parts.append(paragraph)
            continue
        title, *lines = paragraph.removeprefix("\b\n").splitlines()
        parts += [title, _fenced("\n".join(line.strip() for line in lines))]
    return "\n\n".join(parts)


def _does(command: click.Command) -> str:
    """The first sentence of a command's help."""
    first = " ".join((command.help or "").partition("\n\n")[0].split())
    return _cell(re.split(r"(?<=[.])\s", first)[0])


def _fenced(text: str) -> str:
    return f"```console\n{text}\n```"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def agents_page() -> str:
    """The list of the pages for programs that read documentation, in the form of llms.txt."""
    lines = [
        "# pipeline",
        "",
        "> Runs a paid AI workflow over every row of a spreadsheet. It keeps every answer and pays "
        "no row twice unless you say so.",
        "",
        "`pipeline COMMAND --help` and `pipeline schema COMMAND` describe each command and its "
        "JSON. A run costs money: rehearse with `--sandbox` first.",
        "",
        "## Docs",
        "",
    ]
    for question, pages in re.findall(
        r"^\| (.*?) \| (\[.*) \|$", (HERE / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    ):
        for title, path in re.findall(r"\[(.*?)\]\((.*?\.md)\)", pages):
            lines.append(f"- [{title[:1].upper()}{title[1:]}](docs/{path}): {question}")
    return "\n".join([*lines, ""])


PAGES = {
    "cli.md": cli_page,
    "python-reference.md": python_page,
    "job-file.md": job_file_page,
    "../llms.txt": agents_page,
}


def main() -> None:
    if len(sys.argv) == 2:
        print(PAGES[sys.argv[1]](), end="")
        return
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
