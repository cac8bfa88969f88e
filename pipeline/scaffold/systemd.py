"""Writes a systemd service and its timer. See systemd.service(5), .timer(5) and .exec(5)."""

from __future__ import annotations

import getpass
from pathlib import Path

from pipeline.core.errors import NothingWritten
from pipeline.scaffold.night import Night, clock_time

DEFAULT_KEY = "/etc/pipeline/aitutor-api-key"

_SERVICE = """\
# /etc/systemd/system/{unit}.service
{printed_by}
# Put this file and {unit}.timer there, then:
{to_write}#   sudo systemctl daemon-reload && sudo systemctl enable --now {unit}.timer
# To start a run now: sudo systemctl start {unit}.service
# To read its output: journalctl -u {unit}
[Unit]
Description=pipeline: the rows of {description} that are not done yet
Wants=network-online.target
After=network-online.target
# The disk with the run folder must be there. Without it, every night would look like the first
# one and pay for all rows again.
RequiresMountsFor={folder}

[Service]
Type=oneshot
User={user}
UMask=0077
WorkingDirectory={directory}
# A core dump would contain the key.
LimitCORE=0
ExecStart={command}
{credential}
# After SIGTERM, the run sends no more rows. It waits up to {drain} s (deadline_s) for the answers
# to requests in flight, which the API bills, and takes up to {saving} s to save them. Only a run
# that hangs is killed. Its requests in flight are then ambiguous and are not sent again.
KillMode=mixed
KillSignal=SIGTERM
TimeoutStopSec={stop}
SendSIGKILL=yes
TimeoutStartSec=infinity

# The timer starts the next run. A restart before that would only fail for the same reason. It
# would not pay twice: the ledger decides which rows are sent.
Restart=no
RestartPreventExitStatus=1 2 3 4 5 6 130 143
# {success}
# If the unit fails, look at its exit code: 2 the sheet or the job file has an error, 3 rows failed,
# 4 the key, the credits, max_paid or max_paid_per_run, 5 rows are ambiguous and you decide, 6 the
# disk.
SuccessExitStatus={statuses}
"""

_TIMER = """\
# /etc/systemd/system/{unit}.timer
{printed_by}
[Unit]
Description=pipeline: {description} every night at {at}

[Timer]
OnCalendar=*-*-* {at}:00
{persistent}
AccuracySec=1s

[Install]
WantedBy=timers.target
"""

_CATCH_UP = """\
# If the machine is off at that time, the run starts when the machine is on again.
Persistent=true"""
_NO_CATCH_UP = """\
# If the machine is off at that time, this night is left out. A run that starts after the time of
# --until would read it as a time on the next day, and send all day long.
Persistent=false"""


def systemd_units(night: Night) -> dict[str, str]:
    """Returns the texts of a service and its timer by the names of their files.

    Raises:
        Refused: if a unit cannot name the path of the key file.
    """
    unit = f"pipeline-{night.name}"
    if str(night.key_file or "").endswith(("\\", " ")):
        raise NothingWritten(
            f"{night.key_file}: a systemd unit cannot name a path that ends in `\\` or a space. "
            "Rename it."
        )
    if ":" in str(night.key_file or ""):
        raise NothingWritten(
            f"{night.key_file}: a systemd unit cannot name a path that contains `:`. Rename it."
        )
    success = "143: stopped by `systemctl stop`"
    success += ". 75: stopped by --until, or the API cannot be reached." if night.until else "."
    facts = {
        "unit": unit,
        "printed_by": night.printed_by("systemd"),
        "description": _literal(night.name),
        "at": clock_time(night.at),
        "folder": " ".join(_quoted(str(folder)) for folder in night.folders),
        "user": getpass.getuser(),
        "directory": _directory(night.spec.parent),
        "command": " ".join(map(_argument, night.command())),
        "credential": _credential(night) + _variables(night),
        "to_write": _to_write(night),
        "drain": round(night.drain_s),
        "saving": night.stop_s - round(night.drain_s),
        "stop": night.stop_s,
        "success": success,
        "statuses": "75 143" if night.until else "143",
        "persistent": _NO_CATCH_UP if night.until else _CATCH_UP,
    }
    return {
        f"{unit}.service": _SERVICE.format(**facts),
        f"{unit}.timer": _TIMER.format(**facts),
    }


def _credential(night: Night) -> str:
    if night.sandbox:
        return "# A rehearsal needs no key."
    path = _literal(str(night.key_file or DEFAULT_KEY))
    return (
        "# Only the runner reads this file. The key is in no environment and in no process list.\n"
        f"LoadCredential=aitutor-api-key:{path}"
    )


def _to_write(night: Night) -> str:
    """Returns the commands that write the files of the unit."""
    files = {} if night.sandbox or night.key_file else {DEFAULT_KEY: "paste the key, press Enter"}
    if night.secrets or night.set_here:
        files[str(night.variables_file("systemd"))] = "write the lines of EnvironmentFile"
    return "".join(
        f"#   sudo install -D -m 600 /dev/stdin {file}   # {what}, then Ctrl-D\n"
        for file, what in files.items()
    )


def _variables(night: Night) -> str:
    text = ""
    note = night.variables_note(
        "systemd does not pass on your environment. This file has a line NAME='value' for each "
        "variable."
    )
    if note:
        text += f"\n{note}EnvironmentFile=-{night.variables_file('systemd')}"
    if night.permissions:
        allowed = " ".join(f"{name}={value}" for name, value in night.permissions.items())
        text += "\n# Your environment gives these permissions to the addresses under `notify:`."
        text += f"\nEnvironment={allowed}"
    return text


def _directory(path: Path) -> str:
    """Writes a folder where a unit allows no quotes. A `\\` at its end would join the next line,
    and a space there would be lost."""
    text = _literal(str(path))
    return f"{text}/" if text.endswith(("\\", " ")) else text


def _literal(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """Writes any text as one word of a unit file."""
    text = _literal(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if any(character in text for character in " \t'\"\\;") else text


def _argument(text: str) -> str:
    """Writes one word of a command line, where `$` also begins a variable."""
    return _quoted(text.replace("$", "$$"))
