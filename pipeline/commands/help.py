"""The help of a command: one sentence, examples, and the options in groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

REVIEW, SEND, WHICH, LIMITS, WHERE, OUTPUT = GROUPS = (
    *("Decision", "What to send", "Which rows", "Limits", "Where", "Output"),
)
"""The groups of options, in the order in which `--help` shows them."""


class GroupedOption(click.Option):
    """An option that belongs to one of `GROUPS`.

    `left_out` says what applies without the option. Only docs/cli.md shows it, and the range of a
    number: in a terminal they would take a second line.
    """

    def __init__(self, *names: Any, group: str, left_out: str = "", **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        self.group = group
        self.left_out = left_out

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return None if record is None else (record[0], self.help or "")


class GroupedCommand(click.Command):
    """A command whose `--help` shows its options in groups, each under a heading.

    `groups` places options by name (group: names) that are no `GroupedOption`. `--help` itself
    comes last.
    """

    def __init__(
        self, *args: Any, groups: Mapping[str, Sequence[str]] | None = None, **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self._group_of = {name: group for group, names in (groups or {}).items() for name in names}
        self._order = list(groups or GROUPS)

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """`-h` too, whatever context asks first: click keeps the option that it made then."""
        return ["-h", "--help"]

    def grouped(self, ctx: click.Context) -> dict[str, list[click.Parameter]]:
        """The options by group, without the groups that are empty."""
        found: dict[str, list[click.Parameter]] = {group: [] for group in self._order}
        for parameter in self.params:
            if isinstance(parameter, click.Option):
                found[self._group(parameter)].append(parameter)
        found = {group: options for group, options in found.items() if options}
        about_help = self.get_help_option(ctx)
        if about_help is not None:
            found.setdefault(list(found or self._order)[-1], []).append(about_help)
        return found

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the groups with one column for the names of all of them."""
        records = {
            group: [option.get_help_record(ctx) or ("", "") for option in options]
            for group, options in self.grouped(ctx).items()
        }
        width = max(len(names) for group in records.values() for names, _ in group)
        for group, shown in records.items():
            with formatter.section(group):
                formatter.write_dl([(names.ljust(width), text) for names, text in shown])

    def _group(self, option: click.Option) -> str:
        if isinstance(option, GroupedOption):
            return option.group
        return self._group_of[option.name or ""]


class OrderedGroup(click.Group):
    """The commands in the order in which they were added, which is that of a user's first day."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def command(short_help: str) -> Callable[[Callable[..., Any]], GroupedCommand]:
    """Declares a command. `short_help` is its line in `pipeline --help`."""
    return click.command(cls=GroupedCommand, short_help=short_help)


def option(*names: str, group: str, left_out: str = "", **attributes: Any) -> Callable[[F], F]:
    """Declares an option of a `GroupedCommand`; see `GroupedOption`."""
    return click.option(*names, cls=GroupedOption, group=group, left_out=left_out, **attributes)


def regrouped(
    command: click.Command, short_help: str, groups: Mapping[str, Sequence[str]]
) -> GroupedCommand:
    """`command`, made elsewhere from plain options, with its options in `groups`."""
    return GroupedCommand(
        command.name,
        params=command.params,
        callback=command.callback,
        help=command.help,
        short_help=short_help,
        groups=groups,
    )
