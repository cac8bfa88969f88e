"""`--help` as a user reads it: short, in groups, and the commands in the order of their use."""

from __future__ import annotations

import re

import click
import pytest

from pipeline.cli import cli
from pipeline.commands.help import GROUPS, GroupedCommand, GroupedOption

WIDTH, HEIGHT = 80, 40
_MARGIN = 2  # that click leaves free


def help_of(name: str = "") -> list[str]:
    """The lines of `pipeline NAME --help` in a terminal of 80 columns."""
    top = click.Context(
        cli, info_name="pipeline", terminal_width=WIDTH - _MARGIN, **cli.context_settings
    )
    if not name:
        return cli.get_help(top).splitlines()
    command = cli.commands[name]
    context = click.Context(command, info_name=name, parent=top, terminal_width=WIDTH - _MARGIN)
    return command.get_help(context).splitlines()


def test_the_commands_are_listed_in_the_order_in_which_a_user_needs_them():
    """Not alphabetically."""
    lines = help_of()
    listed = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :]]
    assert " ".join(listed) == (
        "init check run status report show review resume settle export history verify schedule "
        "ui mcp schema completion sandbox"
    )


def test_no_line_about_a_command_is_cut_off():
    """In 80 columns."""
    lines = help_of()
    assert not any("..." in line for line in lines[1:])
    for line in lines[lines.index("Commands:") + 1 :]:
        assert re.fullmatch(r"  \w+ +[A-Z].*\.", line), line


@pytest.mark.parametrize("name", sorted(set(cli.commands) - {"sandbox"}))
def test_the_options_of_a_command_are_in_groups_in_one_order(name):
    """What to send, which rows, limits, where, output; a group that is empty is left out, --help is
    last. The sandbox has other groups, since it sends nothing."""
    lines = help_of(name)
    headings = [line.removesuffix(":") for line in lines if re.fullmatch(r"[A-Z].*:", line)]
    assert headings == [group for group in GROUPS if group in headings]
    assert headings[-1] == "Output"
    assert lines[-1].split()[:2] == ["-h,", "--help"]
    text = "\n".join(lines)
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            assert len(re.findall(rf"^  {parameter.opts[0]}\b", text, re.MULTILINE)) == 1


def test_each_option_is_under_the_heading_where_a_user_looks_for_it():
    """Of `run`, which has most of them."""
    groups: dict[str, str] = {}
    heading = ""
    for line in help_of("run"):
        if re.fullmatch(r"[A-Z].*:", line):
            heading = line
        elif found := re.match(r"  (--[\w-]+)", line):
            groups[found[1]] = heading
    for option, expected in {
        "--limit": "What to send:",
        "--again": "What to send:",
        "--max-paid": "Limits:",
        "--until": "Limits:",
        "--input": "Where:",
        "--key-file": "Where:",
        "--sandbox": "Where:",
        "--json": "Output:",
    }.items():
        assert groups[option] == expected


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_the_help_of_a_command_fits_a_terminal_and_begins_with_what_it_does(name):
    """Usage, one paragraph, the examples."""
    lines = help_of(name)
    assert max(map(len, lines)) < WIDTH
    assert len(lines) <= HEIGHT
    paragraphs = "\n".join(lines).split("\n\n")
    assert paragraphs[0].startswith(f"Usage: pipeline {name} [OPTIONS]")
    assert len(paragraphs[1].splitlines()) <= 2
    assert re.match(r"  Examples?:\n    pipeline ", paragraphs[2])


def test_the_help_of_a_command_names_both_options_whichever_context_asks_first():
    """click stores the option of the first context, and a program may make its own."""
    command = GroupedCommand("x", params=[GroupedOption(["--y"], group=GROUPS[0])])
    command.get_help(click.Context(command))
    top = click.Context(cli, **cli.context_settings)
    assert "-h, --help" in command.get_help(click.Context(command, parent=top))
