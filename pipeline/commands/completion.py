"""`pipeline completion`: what makes a shell complete commands, options and names."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from pipeline.commands.console import pour
from pipeline.commands.help import command

SHELLS = ("bash", "zsh", "fish")


@command("Print what makes your shell complete commands and names.")
@click.argument("shell", type=click.Choice(SHELLS), metavar="SHELL")
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Prints the completion for SHELL: bash, zsh or fish.

    \b
    Example:
      pipeline completion bash > completion.sh; source completion.sh

    \b
    For every terminal, add the line of your shell to its start file:
      ~/.bashrc                    source <(pipeline completion bash)
      ~/.zshrc                     source <(pipeline completion zsh)
      ~/.config/fish/config.fish   pipeline completion fish | source

    It completes commands, options, job files, error codes and workflow ids. The program has a
    second name: `paidrows completion SHELL` prints the completion for that name.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"
    source = kind(context.find_root().command, {}, _called(), "_PIPELINE_COMPLETE").source()
    pour([source, "\n"])


def _called() -> str:
    """Returns the name that the user typed for this program. The script of the shell has the name
    without quotes."""
    name = Path(sys.argv[0]).name
    return name if re.fullmatch(r"[A-Za-z][\w-]*", name, re.ASCII) else "pipeline"
