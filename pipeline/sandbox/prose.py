"""Text and citations of the template backend: deterministic, without a model or the web."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import date, timedelta

_OPENINGS = (
    "It began on a morning nobody had planned for.",
    "Ask three people and you will hear three versions; this is the fourth.",
    "There is a short answer and a true one.",
    "What follows was put together with care.",
)
_CLOSINGS = (
    "And that, in the end, was enough.",
    "More could be said, but nothing that would change the point.",
    "Keep it at hand: it will be useful sooner than you think.",
    "The rest is left to whoever reads this next.",
)
_TOPICS = ("health", "work", "cities", "housing", "energy", "schools")
_SITES = ("example.com", "example.org", "example.net")


def write_text(prompt: str) -> str:
    """Returns an opening sentence, the whole prompt and a closing one, always the same for the same
    prompt."""
    seed = _seed(prompt)
    return f"{_OPENINGS[seed % 4]} {prompt} {_CLOSINGS[seed // 4 % 4]}"


def write_json(prompt: str, shape: object) -> str:
    """Returns JSON of the given shape, always the same for the same prompt.

    Each text in `shape` is the name of a type ("text", "number", "integer", "boolean" or "date"),
    in whose place a value stands. Every tenth answer has its JSON in a Markdown fence, and every
    tenth has a sentence before it, as models answer now and then.
    """
    seed = _seed(prompt)
    text = json.dumps(_filled(shape, prompt), ensure_ascii=False, indent=2)
    if seed % 10 == 0:
        return f"```json\n{text}\n```"
    return f"Here is the JSON that you asked for:\n\n{text}" if seed % 10 == 1 else text


def _filled(shape: object, place: str) -> object:
    """`place` is the prompt and the way to this part of the shape."""
    if isinstance(shape, dict):
        return {name: _filled(inner, f"{place}.{name}") for name, inner in shape.items()}
    if isinstance(shape, list):
        number = 1 + _seed(place) % 3
        words = [_TOPICS[(_seed(place) + n) % len(_TOPICS)] for n in range(number)]
        return words if shape == ["text"] else [_filled(one, place) for one in shape]
    write = _VALUES.get(shape) if isinstance(shape, str) else None
    return shape if write is None else write(_seed(place))


_VALUES: dict[str, Callable[[int], object]] = {
    "text": lambda seed: _OPENINGS[seed % 4],
    "number": lambda seed: seed % 1000 / 10,
    "integer": lambda seed: seed % 100,
    "boolean": lambda seed: seed % 3 > 0,
    "date": lambda seed: (date(2026, 1, 1) + timedelta(days=seed % 365)).isoformat(),
}


def find_sources(prompt: str) -> list[str]:
    """Returns one to three URLs, always the same for the same prompt."""
    seed = _seed(prompt)
    return [
        f"https://{_SITES[(seed + n) % 3]}/source/{(seed >> 8 * n) % 10_000}"
        for n in range(1 + seed % 3)
    ]


def count_tokens(text: str) -> int:
    """Returns about as many tokens as a model would count: one for four characters."""
    return max(1, len(text) // 4)


def _seed(prompt: str) -> int:
    digest = hashlib.blake2b(prompt.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
