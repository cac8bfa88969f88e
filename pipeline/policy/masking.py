"""Takes the key out of everything that a server sends, before any other code reads it.

Some servers repeat a request's headers in their error pages, and some encode them first. Each
answer is stored, logged, exported and printed, so one place masks it: the client. Arbitrary
encodings cannot be recognised; docs/security.md lists the ones that are.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any

from pipeline.policy.json_text import JsonText, parsed, text_of

MASK = b"[key]"
SHORTEST_SECRET = 8
"""Characters. A shorter secret would be found in ordinary text."""

# One character of a key, as JSON at any depth (`\/`, `\u0073`), an address (`%73`) or HTML
# (`&#115;`) writes it, and the NULs that UTF-16 and UTF-32 put between letters. Bounded runs keep
# the search linear; each branch begins with a literal, so that the search skips all other bytes.
_ESCAPED = (
    rb"\\\\{0,7}(?:u00([2-7][0-9a-fA-F])|x([2-7][0-9a-fA-F])|([%s]))"
    rb"|%%([2-7][0-9a-fA-F])"
    rb"|&(?:#0{0,6}([0-9]{2,3})|#[xX]0{0,6}([2-7][0-9a-fA-F])|(amp|lt|gt|quot|apos|sol|plus));?"
    rb"|\x00\x00*"
)
_HEX_GROUPS, _PLAIN_GROUP, _DECIMAL_GROUP, _NAME_GROUP = (1, 2, 4, 6), 3, 5, 7
_ENTITIES = {
    b"amp": b"&",
    b"lt": b"<",
    b"gt": b">",
    b"quot": b'"',
    b"apos": b"'",
    b"sol": b"/",
    b"plus": b"+",
}
# `%2573` and `&amp;#115;` are two layers.
_MOST_LAYERS = 3


class Mask:
    """Replaces each of `secrets` by `[key]`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._forms = tuple({form: None for secret in secrets for form in _forms(secret)})
        # Programs put a backslash before these three. `\\"` stands in many answers, so it counts
        # only for a key with quotes.
        marks = b"/" + bytes(mark for mark in b"\"'" if any(mark in form for form in self._forms))
        self._escaped = re.compile(_ESCAPED % marks)
        self._signs = (b"\\u00", b"\\x", b"%", b"&", b"\x00", *(b"\\%c" % m for m in marks))

    def body(self, raw: bytes) -> bytes:
        """`raw` without a secret: the same bytes where it has none, and an object where it was a
        JSON object. A list or an object of very many values becomes a text."""
        masked = self._replaced(raw)
        if not self._hides(masked):
            return masked
        try:
            value = parsed(masked)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            return self._replaced(self._unescaped(masked))
        return text_of(self._value(value)).encode("utf-8", "surrogatepass")

    def text(self, text: str) -> str:
        """The same for text that is not an answer's body."""
        raw = text.encode("utf-8", "surrogatepass")
        masked = self._replaced(raw)
        if self._hides(masked):
            masked = self._replaced(self._unescaped(masked))
        return masked.decode("utf-8", "surrogatepass") if masked != raw else text

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, JsonText):
            masked = self.text(value.text)
            return value if masked == value.text else masked
        if isinstance(value, list):
            return [self._value(entry) for entry in value]
        if isinstance(value, dict):
            return {self.text(name): self._value(entry) for name, entry in value.items()}
        return value

    def _replaced(self, raw: bytes) -> bytes:
        for form in self._forms:
            if form in raw:
                raw = raw.replace(form, MASK)
        return raw

    def _hides(self, raw: bytes) -> bool:
        if not any(sign in raw for sign in self._signs):
            return False
        plain = self._unescaped(raw)
        return any(form in plain for form in self._forms)

    def _unescaped(self, raw: bytes) -> bytes:
        """`raw` with its escapes undone."""
        for _ in range(_MOST_LAYERS):
            plain, count = self._escaped.subn(_character, raw)
            if not count:
                break
            raw = plain
        return raw


def _character(found: re.Match[bytes]) -> bytes:
    group = found.lastindex
    if group is None:
        return b""
    if group in _HEX_GROUPS:
        return bytes.fromhex(found[group].decode())
    if group == _DECIMAL_GROUP:
        code = int(found[group])
        return bytes((code,)) if code < 0x80 else found[0]
    return found[_PLAIN_GROUP] if group == _PLAIN_GROUP else _ENTITIES[found[_NAME_GROUP]]


def _forms(secret: str) -> Iterable[bytes]:
    """The ways to write a secret that no escape explains: itself, hexadecimal, and base64 behind
    zero, one or two other bytes, as `Bearer KEY` or `user:KEY` put it."""
    if len(secret) < SHORTEST_SECRET:
        return
    raw = secret.encode()
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw)
        # The first and the last characters also hold bits of the neighbours.
        first = -(-before * 8 // 6)
        whole = encoded[first : (before + len(raw)) * 8 // 6]
        yield whole
        yield whole.translate(bytes.maketrans(b"+/", b"-_"))
