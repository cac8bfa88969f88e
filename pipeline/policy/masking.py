"""Removes the key from everything that a server sends, before any other code reads it.

Some servers repeat the request's headers in their error pages, and some encode them first. Every
response is stored, logged, exported and printed, so one place masks it: the client. No mask can
recognise every encoding; docs/security.md lists those that this one recognises.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from html.entities import html5
from typing import Any

from pipeline.policy.json_text import JsonText, parsed, text_of

MASK = b"[key]"
SHORTEST_SECRET = 8
"""In characters. A shorter secret could occur in ordinary text."""

# HTML's names of ASCII characters, such as `&lowbar;`. Only `fjlig` stands for two characters.
_NAMES = {
    name.rstrip(";").encode(): sign.encode() for name, sign in html5.items() if sign.isascii()
}
# One character of a key as written by JSON at any depth (`\/`, `\u0073`), by a URL (`%73`) or by
# HTML (`&#115;`), a line break within base64, or the NULs that UTF-16 and UTF-32 put between
# letters. Bounded and possessive repetitions keep the search linear. Each branch begins with a
# literal, so the search skips all other bytes.
_HEX = rb"([2-7][0-9a-fA-F]|0[aAdD])"
_ESCAPED = (
    rb"\\\\{0,7}(?:u00%(hex)s|x%(hex)s|([%(marks)s]))"
    rb"|%%%(hex)s"
    rb"|&(?:#0*+([0-9]{2,3})|#[xX]0*+([2-7][0-9a-fA-F]|[aAdD]\b)"
    rb"|(amp|lt|gt|quot|apos|sol|plus|AMP|LT|GT|QUOT));?"
    rb"|&([A-Za-z]{3,16});"
    rb"|\x00\x00*"
)
_HEX_GROUPS, _PLAIN_GROUP, _DECIMAL_GROUP = (1, 2, 4, 6), 3, 5
# The gap between two characters of base64 or hexadecimal that is broken into lines or columns:
# white space, also as JSON at any depth writes it.
_GAP = rb"(?:[ \t\r\n]|\\(?:[rnt]|(?=\\)))*+"
_WRITTEN_GAPS, _GAPS = (b"\\r", b"\\n", b"\\t"), b"\\\r\n\t "
# The signs of texts and of JSON, the most frequent ones last. All others are rarer.
_RISING = b"ZXQJKVUYzqGjNLORxPFDEHMBCWI987654TA3S210kvbpwygfcumdlhrsnioate"
# `%2573` and `&amp;#115;` are two layers.
_MOST_LAYERS = 3


class Mask:
    """Replaces each of `secrets` by `[key]`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        usable = [secret.encode() for secret in secrets if len(secret) >= SHORTEST_SECRET]
        in_base64 = tuple({form: None for raw in usable for form in _base64_forms(raw)})
        in_hex = tuple(raw.hex().encode() for raw in usable)
        self._gapped = (
            *(re.compile(_GAP.join(map(re.escape, _signs(form)))) for form in in_base64),
            *(re.compile(_GAP.join(_signs(form)), re.IGNORECASE) for form in in_hex),
        )
        self._base64 = _sought(in_base64)
        self._hex = tuple(
            (sign, form) for rare, form in _sought(in_hex) for sign in {rare, _capital(rare)}
        )
        self._forms = _sought((*usable, *in_base64))
        # Programs put a backslash before `/`, `"` and `'`. Many answers contain `\"`, so quotes are
        # only unescaped if the key has some.
        marks = b"/" + bytes(mark for mark in b"\"'" if any(mark in raw for raw in usable))
        self._escaped = re.compile(_ESCAPED % {b"hex": _HEX, b"marks": marks})
        self._after_backslash = (b"\\u00", b"\\x", *(b"\\%c" % m for m in marks))

    def body(self, raw: bytes) -> bytes:
        """Returns `raw` without a secret.

        Without a secret in it, the bytes are the same. A JSON object stays a JSON object; in one
        with very many values, a list or an object that contains a secret becomes a text.
        """
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
        """Returns `text` without a secret; for texts that are not a response's body."""
        if not text:  # the detail of every whole response
            return text
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
        for rare, form in self._forms:
            if rare in raw and form in raw:
                raw = raw.replace(form, MASK)
        if self._may_have_gaps(raw):
            for gapped in self._gapped:
                raw = gapped.sub(MASK, raw)
        return raw

    def _may_have_gaps(self, raw: bytes) -> bool:
        """Whether `raw` may contain a secret as hexadecimal of any case or as base64 with gaps.
        This test is cheaper than the patterns that find the place."""
        if _has_breaks(raw):
            for written in _WRITTEN_GAPS:
                raw = raw.replace(written, b"")
            raw = raw.translate(None, _GAPS)
            if any(rare in raw and form in raw for rare, form in self._base64):
                return True
        return any(rare in raw and form in raw.lower() for rare, form in self._hex)

    def _hides(self, raw: bytes) -> bool:
        if not self._has_escapes(raw):
            return False
        plain = self._unescaped(raw)
        return self._replaced(plain) != plain

    def _has_escapes(self, raw: bytes) -> bool:
        # A search for one byte is many times as fast as one for two.
        if b"%" in raw or b"&" in raw or b"\x00" in raw:
            return True
        return b"\\" in raw and any(sign in raw for sign in self._after_backslash)

    def _unescaped(self, raw: bytes) -> bytes:
        """Returns `raw` without escapes, up to `_MOST_LAYERS` layers of them."""
        for _ in range(_MOST_LAYERS):
            plain = self._escaped.sub(_character, raw)
            if plain == raw:
                break
            raw = plain
        return raw


def _sought(forms: Iterable[bytes]) -> tuple[tuple[int, bytes], ...]:
    """Returns each form after the byte of it that is rarest in texts. Most texts do not have that
    byte, and a search for one byte takes a twentieth of the time. In hexadecimal it is a digit, if
    there is one: some texts outside ASCII have only letters."""
    return tuple((min(form, key=_RISING.find), form) for form in forms)


def _capital(sign: int) -> int:
    return ord(chr(sign).upper())


def _has_breaks(raw: bytes) -> bool:
    if b"\n" in raw or b"\r" in raw:
        return True
    return b"\\" in raw and (b"\\n" in raw or b"\\r" in raw)


def _character(found: re.Match[bytes]) -> bytes:
    group = found.lastindex
    if group is None:
        return b""
    if group in _HEX_GROUPS:
        return bytes((int(found[group], 16),))
    if group == _DECIMAL_GROUP:
        code = int(found[group])
        return bytes((code,)) if code < 0x80 else found[0]
    return found[group] if group == _PLAIN_GROUP else _NAMES.get(found[group], found[0])


def _signs(form: bytes) -> list[bytes]:
    return [bytes((sign,)) for sign in form]


def _base64_forms(raw: bytes) -> Iterable[bytes]:
    """Yields the base64 of a secret after zero, one or two other bytes, as in `Bearer KEY` or
    `user:KEY`."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw)
        # The first and the last characters also contain bits of the neighbouring bytes.
        first = -(-before * 8 // 6)
        whole = encoded[first : (before + len(raw)) * 8 // 6]
        yield whole
        yield whole.translate(bytes.maketrans(b"+/", b"-_"))
