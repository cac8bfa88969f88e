"""A line for crontab(5), which has its own ideas of `%` and hardly any environment."""

from __future__ import annotations

import getpass
import shlex

from pipeline.core.errors import NothingWritten
from pipeline.scaffold.night import Night

# Debian's cron, cronie and the original all stop here.
_MOST_CHARACTERS = 990

_TABLE = """\
# crontab -e, then add these lines. Output is mailed to MAILTO: --quiet has none unless something
# needs you. Another run that is still at work in the folder is left alone (--if-locked skip).
# Told to end (kill, shutdown), a run waits up to {stop} s for answers that are paid for.
SHELL=/bin/sh
PATH=/usr/local/bin:/usr/bin:/bin
MAILTO={user}
{minute} {hour} * * * {command}
"""


def cron_line(night: Night) -> str:
    """A whole crontab for this job alone.

    Raises:
        Refused: without a file for the key, as cron has nobody's environment; for a line that cron
            would cut off.
    """
    if night.key_file is None and not night.sandbox:
        raise NothingWritten(
            "cron has none of your environment: name the file that holds the key with --key-file."
        )
    key = () if night.key_file is None else ("--key-file", str(night.key_file))
    directory, words = shlex.quote(str(night.spec.parent)), shlex.join(night.command(*key))
    if "\\%" in f"{directory}{words}" or "\\\\" in f"{directory}{words}":
        raise NothingWritten(
            f"{night.spec}: cron takes a `\\` before `%` or another `\\` for its own, in the paths "
            "and options here. Use other names, or --as systemd."
        )
    # A `%` would end the command and begin its stdin. Within quotes, too, cron takes the `\` away.
    command = f"umask 077 && cd {directory} && exec {words} </dev/null".replace("%", r"\%")
    if len(command) > _MOST_CHARACTERS:
        raise NothingWritten(
            f"cron takes no command of {len(command)} characters. Use shorter paths, or --as "
            "systemd."
        )
    return _TABLE.format(
        minute=night.at.minute,
        hour=night.at.hour,
        user=getpass.getuser(),
        stop=night.stop_s,
        command=command,
    )
