"""Reads run.json, the note of the last run about itself, and trusts it only in the runner's form.

The file has no checksum, and the folder may come from somebody else. Its values end up in systemd
units, workflows and commands to paste. So the runner uses none of them unless all have the type,
the length and the characters that the runner itself writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.model import ENGINES, MAX_RATE, MIN_RATE, JsonObject
from pipeline.core.wording import printable
from pipeline.job.spec_keys import NAME
from pipeline.system.opening import read_object

RUN_NOTE = "run.json"
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_CHARACTERS = 4096  # the limit of a path on Linux
BASE_URL, KEY_FILE, RAY_ADDRESS = "--base-url", "--key-file", "--ray-address"


@dataclass(frozen=True, slots=True)
class Noted:
    """The last run in a folder. `spec` is its job file, and `host` is where it sent to. A run of a
    frame has `settings`, those of its call, and no job file.

    `sending` are its other options, except those that decide where the key is or is sent. Those are
    in `withheld`, by their names. `limit` is its `--limit`, and `process` the id of its process.
    """

    run_id: str
    job: str
    spec: Path | None
    host: str
    settings: JsonObject | None = None
    sending: tuple[str, ...] = ()
    withheld: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    process: int | None = None


def read_note(folder: Path) -> Noted | None:
    """Returns the note of the last run in `folder`.

    Returns None if there is no note, or if it is not in the form that a run writes. The note only
    serves to find the job file and to repeat options, and the next run writes it again.
    """
    try:
        about = read_object(folder / RUN_NOTE)
        sending, withheld = _options(about.get("sending", []))
        return Noted(
            run_id=_text(about["run_id"], _RUN_ID),
            job=_text(about["job"], NAME),
            spec=None if "frame" in about else Path(_text(about["spec"])),
            host=_text(about["host"]),
            settings=_settings(about.get("frame")),
            sending=sending,
            withheld=withheld,
            limit=_number(about.get("limit")),
            process=_number(about.get("process")),
        )
    except (OSError, ValueError, KeyError):
        return None


def _settings(value: Any) -> JsonObject | None:
    """Returns the settings of a call. `frame_spec` checks each of them."""
    if value is not None and not isinstance(value, dict):
        raise ValueError("not settings")
    return value


def _text(value: Any, pattern: re.Pattern[str] | None = None) -> str:
    """Returns `value` if it is one line of text.

    Raises:
        ValueError: if it is anything else.
    """
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_CHARACTERS:
        raise ValueError("not a text of that length")
    if printable(value) != value or "\n" in value or "\t" in value:
        raise ValueError("a control character")
    if pattern is not None and not pattern.fullmatch(value):
        raise ValueError("not of its form")
    return value


def _number(value: Any) -> int | None:
    if value is None or (type(value) is int and 0 <= value < 1 << 53):
        return value
    raise ValueError("not a number")


def _options(options: Any) -> tuple[tuple[str, ...], dict[str, str]]:
    """Returns the options to repeat, and the options to withhold by name."""
    if not isinstance(options, list) or len(options) % 2:
        raise ValueError("not pairs of options and values")
    repeated: list[str] = []
    withheld: dict[str, str] = {}
    for name, value in zip(map(_text, options[::2]), map(_text, options[1::2]), strict=True):
        if name in (BASE_URL, KEY_FILE, RAY_ADDRESS):
            withheld[name] = value
        elif _REPEATED[name](value):
            repeated += [name, value]
        else:
            raise ValueError("not a value of the option")
    return tuple(repeated), withheld


def _is_rate(text: str) -> bool:
    return MIN_RATE <= float(text) <= MAX_RATE


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20


_REPEATED: dict[str, Callable[[str], bool]] = {
    "--input": lambda text: True,
    "--max-paid": _is_count,
    "--concurrency": _is_count,
    "--rate": _is_rate,
    "--engine": ENGINES.__contains__,
    "--workers": _is_count,
}
