"""docs/cli.md, made from what `--help` says of each command and from the README's exit codes.

    python docs/reference.py [--write]

Prints it, or writes it.
"""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path

import click

from pipeline.cli import cli

HERE = Path(__file__).parent
PAGE = HERE / "cli.md"
README = HERE.parent / "README.md"

_ARGUMENTS = {
    "JOB": "A job spec (`jobs/NAME.yaml`), or a run folder that one was run into.",
    "SHEET": "A .csv, .tsv, .xlsx, .parquet or .jsonl file.",
}
_BEHIND = re.compile(r"(.*?)\s*(?:\[([^\[\]]*)\])?", re.DOTALL)
_EXIT_CODES = re.compile(r"^\| exit code \| meaning \|\n(?:\|.*\n)+", re.MULTILINE)


def page() -> str:
    """The whole document."""
    top = click.Context(cli, info_name="pipeline", **cli.context_settings)
    names = cli.list_commands(top)
    parts = [
        "# The command line",
        "Made from `pipeline COMMAND --help` by `make docs`: change it there.",
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
        *(_command(cli.commands[name], name, top) for name in names),
        "## Exit codes",
        _exit_codes(),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _command(command: click.Command, name: str, top: click.Context) -> str:
    context = click.Context(command, info_name=name, parent=top)
    parts = [f"## pipeline {name}", _fenced(command.get_usage(context).removeprefix("Usage: "))]
    parts.append(_prose(command, context))
    rows = ["| | | default, range |", "|---|---|---|"]
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            word = (parameter.name or "").upper()
            rows.append(f"| `{word}` | {_ARGUMENTS[word]} | required |")
            continue
        spelled, text = parameter.get_help_record(context) or ("", "")
        said = _BEHIND.fullmatch(text)
        assert said is not None
        behind = f"`{_cell(said[2])}`" if said[2] else ""
        rows.append(f"| `{_cell(spelled)}` | {_cell(said[1])} | {behind} |")
    return "\n\n".join([*parts, "\n".join(rows)])


def _prose(command: click.Command, context: click.Context) -> str:
    """A command's help: paragraphs, and the examples as they are typed."""
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


def _exit_codes() -> str:
    found = _EXIT_CODES.search(README.read_text(encoding="utf-8"))
    assert found is not None, "README.md has no table of exit codes"
    return found[0]


def _fenced(text: str) -> str:
    return f"```console\n{text}\n```"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")


if __name__ == "__main__":
    main()
