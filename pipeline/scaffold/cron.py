"""Writes a crontab(5) line. cron gives `%` a special meaning and sets few variables."""

from __future__ import annotations

import getpass
import shlex

from pipeline.core.errors import NothingWritten
from pipeline.scaffold.night import Night

# The limit of Debian's cron, of cronie and of the original cron.
_MOST_CHARACTERS = 990

_TABLE = """\
{printed_by}
# Run `crontab -e` and add these lines. cron mails all output to MAILTO. With --quiet there is no
# output unless something needs you. If the last run is still working in the run folder, this one
# ends at once (--if-locked skip). When the system stops a run (kill, shutdown), the run takes up to
# {stop} s: it waits for the answers to requests that are already sent, and saves them.
{note}SHELL=/bin/sh
PATH=/usr/local/bin:/usr/bin:/bin
MAILTO={user}
{minute} {hour} * * * {command}
"""


def cron_line(night: Night) -> str:
    """Returns a complete crontab for this job alone.

    Raises:
        Refused: if there is no file for the key, which cron needs because it has no environment of
            the user; for a path that crons read differently; for a line that cron would cut off.
    """
    if night.key_file is None and not night.sandbox:
        raise NothingWritten(
            "cron does not see your environment, so the key must be in a file. Name the file with "
            "--key-file."
        )
    key = () if night.key_file is None else ("--key-file", str(night.key_file))
    allowed = [f"{name}={text}" for name, text in night.permissions.items()]
    words = shlex.join([*(("env", *allowed) if allowed else ()), *night.command(*key)])
    directory = shlex.quote(str(night.spec.parent))
    file = shlex.quote(str(night.variables_file("cron")))
    note = night.variables_note(
        f"cron does not pass on your environment. The command below reads {file}, which has a line "
        "NAME='value' for each variable. Do not set them in this crontab: cron copies its "
        "variables into each mail."
    )
    if note:
        note += f"#   install -m 600 /dev/stdin {file}   # write the lines, then Ctrl-D\n"
    read = f"set -a; [ ! -e {file} ] || . {file}; " if note else ""
    if any(odd in f"{directory}{words}{file}" for odd in ("\\%", "\\\\")):
        raise NothingWritten(
            f"{night.spec}: in the paths and options, a `\\` comes before a `%` or another `\\`. "
            "Versions of cron read that differently. Use other names, or --as systemd."
        )
    # A plain `%` would end the command and begin its stdin. cron removes the `\`, also in quotes.
    command = f"{read}umask 077 && cd {directory} && exec {words} </dev/null".replace("%", r"\%")
    if len(command) > _MOST_CHARACTERS:
        raise NothingWritten(
            f"The command has {len(command)} characters, and cron takes {_MOST_CHARACTERS}. Use "
            "shorter paths, or --as systemd."
        )
    return _TABLE.format(
        printed_by=night.printed_by("cron"),
        minute=night.at.minute,
        hour=night.at.hour,
        user=getpass.getuser(),
        stop=night.stop_s,
        note=note,
        command=command,
    )
