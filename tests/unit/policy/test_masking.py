"""Tests that the key is recognised in any encoding of a server, and that nothing else changes."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from html.entities import html5
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.policy.masking import Mask

KEY = "sk_live/0123+456=&x"
Encode = Callable[[str], str]


def each(form: str) -> Encode:
    return lambda text: "".join(form.format(ord(letter)) for letter in text)


ENCODINGS: dict[str, Encode] = {
    "plain": str,
    "PHP": lambda text: text.replace("/", r"\/"),
    "JSON numbers": each(r"\u{:04x}"),
    "JSON numbers in capitals": each(r"\u{:04X}"),
    "one letter by number": lambda text: text.replace("s", r"\u0073"),
    "JSON in JSON": each(r"\\u{:04x}"),
    "an address": lambda text: quote(text, safe=""),
    "an address in small letters": each("%{:02x}"),
    "an address in an address": lambda text: quote(quote(text, safe=""), safe=""),
    "HTML names": html.escape,
    "HTML numbers": each("&#{};"),
    "HTML hexadecimal": each("&#x{:X};"),
    "HTML in HTML": lambda text: html.escape(html.escape(text)),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal capitals": lambda text: text.encode().hex().upper(),
}
for size in range(4):
    for end in ("", "\n", "ab"):
        ENCODINGS[f"base64 behind {size} bytes, before {len(end)}"] = lambda text, s=size, e=end: (
            base64.b64encode(b"Basic"[:s] + (text + e).encode()).decode()
        )
        ENCODINGS[f"base64 for addresses behind {size}, before {len(end)}"] = (
            lambda text, s=size, e=end: base64.urlsafe_b64encode(
                b"Basic"[:s] + (text + e).encode()
            ).decode()
        )
NAMES = {sign: name for name, sign in sorted(html5.items()) if sign.isascii() and len(sign) == 1}


def named(text: str) -> str:
    """Returns the text with HTML names for all characters that have one."""
    return "".join(f"&{NAMES[sign]}" if sign in NAMES else sign for sign in text)


def in_columns(text: str, width: int, end: str) -> str:
    return end.join(text[at : at + width] for at in range(0, len(text), width))


def mime(before: int, width: int, end: str) -> Encode:
    """Returns base64 in lines, as `base64` and mail programs write it."""
    return lambda text: in_columns(
        base64.b64encode(b"x" * before + text.encode()).decode(), width, end
    )


ENCODINGS["HTML names of all signs"] = named
ENCODINGS["HTML names in HTML"] = lambda text: html.escape(named(text))
ENCODINGS["HTML numbers behind zeros"] = each("&#0000000000{};")
ENCODINGS["HTML hexadecimal behind zeros"] = each("&#x0000000000{:x};")
ENCODINGS["HTML numbers behind 1,000 zeros"] = each("&#" + "0" * 1000 + "{};")
ENCODINGS["hexadecimal of mixed case"] = lambda text: "".join(
    digit.upper() if at % 3 else digit for at, digit in enumerate(text.encode().hex())
)
for size in (0, 1, 50, 56):
    for end in (
        r"\n",
        r"\r\n",
        r"\r\n\t",
        r"\r\n ",
        r"\\r\\n",
        "%0D%0A",
        "&#10;",
        "&NewLine;",
        r"\u000a",
    ):
        ENCODINGS[f"base64 in columns behind {size} bytes, {end}"] = mime(size, 76, end)
        ENCODINGS[f"base64 in short columns behind {size} bytes, {end}"] = mime(size, 5, end)
        ENCODINGS[f"hexadecimal in columns behind {size} bytes, {end}"] = (
            lambda text, s=size, e=end: in_columns((b"x" * s + text.encode()).hex(), 60, e)
        )
ENCODINGS["base64 in columns by PHP"] = lambda text: mime(50, 76, r"\r\n")(
    f"{text}?>>>???"
).replace("/", r"\/")
ENCODINGS["base64 by PHP"] = lambda text: (
    base64.b64encode(f"{text}?>>>???".encode()).decode().replace("/", r"\/")
)


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_key_is_masked_in_each_encoding(name):
    """It is masked in a text, and everywhere in a JSON object, which stays one."""
    form = ENCODINGS[name](KEY)
    mask = Mask([KEY])
    assert "[key]" in mask.text(f"a {form} b")
    body = f'{{"error":"a {form} b","code":"{form}","more":[{{"{form}":1}}],"n":2.5}}'
    masked = json.loads(mask.body(body.encode()))
    assert "[key]" in masked["error"]
    assert "[key]" in masked["code"]
    assert any("[key]" in key for key in masked["more"][0])
    assert masked["n"] == 2.5
    cut = mask.body(f"<p>{form}</p>".encode())  # not JSON
    assert b"[key]" in cut


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\n\t", "\n  "])
def test_the_key_is_masked_in_base64_of_several_lines(end):
    """The text is not JSON, and nothing else of it changes."""
    for before in range(50, 60):
        form = mime(before, 76, end)(KEY)
        masked = Mask([KEY]).body(f"a\n\n{form}\nb".encode())
        assert masked.count(b"[key]") == 1
        assert masked.startswith(b"a\n\neHh4")
        assert masked.endswith(b"\nb")
        assert Mask([KEY]).text(form) != form


@pytest.mark.parametrize("capitals", [False, True])
def test_a_password_whose_hexadecimal_has_only_letters_is_masked(capitals):
    """The search looks for one sign first, which is a digit for each ASCII character."""
    form = ("\u06aa" * 8).encode().hex()
    assert form == "daaa" * 8
    form = form.upper() if capitals else form
    for text in (form, f"{form[:20]}\n{form[20:]}", f"D{form[1:]}"):
        assert Mask(["\u06aa" * 8]).body(f"a {text} b".encode()) == b"a [key] b"


@pytest.mark.parametrize("sign", sorted(NAMES))
def test_each_html_name_of_an_ascii_character_is_recognised(sign):
    """Characters with two names are included."""
    key = f"sk_live{sign}123"
    for name, of in html5.items():
        if of == sign:
            masked = Mask([key]).text(f"a sk_live&{name}123 b")
            assert masked == "a [key] b"


@pytest.mark.parametrize("charset", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_the_key_is_masked_in_wide_characters(charset):
    """The body ends in the middle of a character, so no decoder could read it."""
    assert b"[key]" in Mask([KEY]).body(f"no {KEY} here".encode(charset)[:-1])


@given(
    st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner), max_leaves=9)
)
def test_an_answer_without_the_key_does_not_change(value):
    """It stays the same byte for byte, whatever escapes it has."""
    mask = Mask([KEY, "password"])
    for body in (
        json.dumps(value).encode(),
        json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"),
    ):
        assert mask.body(body) == body
    escaped = b'{"a":"\\/ \\u0073 %41 &amp; \\\\u0041 \\" \\n &#115; \\ud83d"}'
    assert mask.body(escaped) == escaped


def test_only_the_key_changes_in_an_answer_that_contains_it_encoded():
    """The user paid for the other texts of the answer."""
    body = (
        b'{"success":true,"result":"%20 &amp; \\u00e9 \\ud83d\\ude00","x":"sk_live\\/0123+456=&x"}'
    )
    assert json.loads(Mask([KEY]).body(body)) == {
        "success": True,
        "result": "%20 &amp; é 😀",
        "x": "[key]",
    }


def test_the_key_is_masked_in_an_answer_of_very_many_values():
    """Its lists do not become Python objects. Lists without the key stay lists."""
    many = ",".join(["1"] * 150_000)
    body = f'{{"a":[{many}],"b":[{many},"sk_live\\u002f0123+456=&x"],"c":"sk_live\\/0123+456=&x"}}'
    masked = json.loads(Mask([KEY]).body(body.encode()))
    assert (len(masked["a"]), masked["c"]) == (150_000, "[key]")
    assert masked["b"].endswith('1,"[key]"]')


def test_a_short_secret_is_not_masked():
    """A password of four letters would occur in ordinary words."""
    assert Mask(["word"]).body(b"a word") == b"a word"
