"""Text and citations of the template backend: deterministic, without a model or the web."""

from __future__ import annotations

import hashlib

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
_SITES = ("example.com", "example.org", "example.net")


def write_text(prompt: str) -> str:
    """Returns an opening sentence, the whole prompt and a closing one, always the same for the same
    prompt."""
    seed = _seed(prompt)
    return f"{_OPENINGS[seed % 4]} {prompt} {_CLOSINGS[seed // 4 % 4]}"


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
