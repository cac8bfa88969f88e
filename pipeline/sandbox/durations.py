"""Parsers for lengths of time and latencies, as the command line and the account's file give
them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_LENGTH = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

# With this, one answer in twenty takes over five times the median, about as with hosted models.
_LOGNORMAL_SIGMA = 1.0


def parse_seconds(text: str) -> float:
    """Returns the seconds in `500ms`, `1s`, `1.5m` or `1h`.

    Raises:
        ValueError: for anything else.
    """
    found = _LENGTH.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a length of time. Write it like 500ms, 1s, 1m or 1h.")
    return float(found[1]) * _UNITS_S[found[2]]


def parse_latency(text: str) -> Callable[[], float]:
    """Returns a function that draws the seconds of one answer. The sequence is the same at each
    start of the server.

    `2s` is constant. `uniform:1s-5s` is between the two. `exponential:2s` has that mean.
    `lognormal:20s` has that median, and one answer in twenty takes over five times as long.

    Raises:
        ValueError: for anything else.
    """
    shape, colon, rest = text.partition(":")
    # Seeded, so that two rehearsals of one job see the same sequence.
    chance = random.Random(0)
    if not colon:
        fixed_s = parse_seconds(text)
        return lambda: fixed_s
    if shape == "uniform" and "-" in rest:
        low_s, high_s = (parse_seconds(end) for end in rest.split("-", 1))
        return lambda: chance.uniform(low_s, high_s)
    if shape == "exponential":
        mean_s = parse_seconds(rest)
        return lambda: chance.expovariate(1.0) * mean_s
    if shape == "lognormal":
        median_s = parse_seconds(rest)
        return lambda: chance.lognormvariate(0.0, _LOGNORMAL_SIGMA) * median_s
    raise ValueError(
        f"{text!r} is not a latency. "
        "Write it like 2s, uniform:1s-5s, exponential:2s or lognormal:20s."
    )
