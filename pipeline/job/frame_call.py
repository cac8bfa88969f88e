"""Writes what a user reads about a frame's job as Python, because it has no job file and no command
sends its rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence


def frame_call(verb: str, options: Sequence[str]) -> str:
    """Returns the call of `run_frame` that does the same as a command with these `options`. `…`
    stands for the arguments of the call before."""
    chosen, others = [], []
    for name, value in _pairs(options):
        if name == "--max-paid":
            others.append(f"max_paid={value}")
        elif name in _CHOOSING:
            chosen.append(_CHOOSING[name](value))
    if chosen or verb == "resume":
        choice = "select_resume" if verb == "resume" else "Selection"
        others.append(f"selection=pipeline.{choice}({', '.join(chosen)})")
    return f"pipeline.run_frame({', '.join(['frame, …', *others])})"


def _only(codes: str) -> str:
    return f"only=frozenset({{{', '.join(map(repr, codes.split(',')))}}})"


# The options of the commands that reports and summaries name.
_CHOOSING: dict[str, Callable[[str], str]] = {
    "--limit": lambda rows: f"limit={rows}",
    "--only": _only,
    "--rows": lambda rows: f"rows=pipeline.parse_rows({rows!r})",
    "--ambiguous": lambda _: "ambiguous=True",
}


def _pairs(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields each option with its value, or with an empty text if it has none."""
    for name, following in zip(options, (*options[1:], ""), strict=False):
        if name.startswith("--"):
            yield name, "" if following.startswith("--") else following


_OPTIONS = "base-url|key-file|output|concurrency|max-paid|rate|engine|ray-address|workers"
# Messages name the keys of the job file and the options of commands.
_IN_PYTHON = (
    (
        r"(?<![\w-])--(accept-changes|yes)\b",
        lambda m: f"consent=pipeline.Consent({_name(m[1])}=True)",
    ),
    (r"(?<![\w-])--(sandbox)\b", lambda m: f"{m[1]}=True"),
    (r"`resume --ambiguous`", lambda m: "`pipeline.select_resume(ambiguous=True)`"),
    (r"`resume`", lambda m: "`pipeline.select_resume()`"),
    (r"`run`", lambda m: "`run_frame`"),
    (rf"(?<![\w-])--({_OPTIONS})\b", lambda m: f"{_name(m[1])}="),
    (r"`(\w+): \{(\w+): (\w+)\}`", lambda m: f'`{m[1]}={{"{m[2]}": "{m[3]}"}}`'),
    (r"`(\w+): (\w+)`", lambda m: f'`{m[1]}="{m[2]}"`'),
    (r"`(\w+):`", lambda m: f"`{m[1]}=`"),
    (r"(in|from) the job file\b", lambda m: f"{m[1]} the call"),
    (
        r"YAML reads (`.*?`) as (.*?)\. Put it in quotes:",
        lambda m: f"{m[1]} is {m[2]}. Write a text:",
    ),
)


def in_python(text: str) -> str:
    """Returns a message with the arguments of `run_frame` in place of options and keys."""
    for pattern, words in _IN_PYTHON:
        text = re.sub(pattern, words, text)
    return text


def _name(option: str) -> str:
    return option.replace("-", "_")
