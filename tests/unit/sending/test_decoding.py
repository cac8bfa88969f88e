"""Answers in encodings that the runner did not ask for. Each of them was paid for."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import time
import zlib

import pyarrow as pa
import pytest

from pipeline.core.model import Reply, Verdict
from pipeline.policy.answer import classify, read_answer
from pipeline.sending.engines.decoding import (
    MAX_BODY_BYTES,
    TooLarge,
    decoded,
    in_utf8,
    is_encoded,
    readings,
)
from tests.unit.sending.test_client import OK, answer, exchange, replying

TEXT = "Once upon a time, in a café"
WHOLE = json.dumps({"success": True, "result": TEXT}, ensure_ascii=False).encode()


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def brotli(data: bytes) -> bytes:
    return pa.compress(data, codec="brotli", asbytes=True)


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


GZIP = gzip.compress(WHOLE)
# The encoding that the header names, and the bytes that the server sends.
ANSWERS: dict[str, tuple[list[str], bytes]] = {
    "gzip": (["gzip"], GZIP),
    "x-gzip": (["x-gzip"], GZIP),
    "capitals": (["GZIP"], GZIP),
    "gzip, identity": (["gzip, identity"], GZIP),
    "several members": (
        ["gzip"],
        b"".join(gzip.compress(WHOLE[n : n + 7]) for n in range(0, 99, 7)),
    ),
    "padding behind the last member": (["gzip"], GZIP + b"\0" * 30),
    "without its checksum": (["gzip"], GZIP[:-8]),
    "deflate": (["deflate"], zlib.compress(WHOLE)),
    "raw deflate": (["deflate"], raw_deflate(WHOLE)),
    "brotli": (["br"], brotli(WHOLE)),
    "zstd": (["zstd"], zstd(WHOLE)),
    "several frames": (["zstd"], zstd(WHOLE[:20]) + zstd(WHOLE[20:])),
    "two encodings": (["deflate, gzip"], gzip.compress(zlib.compress(WHOLE))),
    "two headers": (["deflate", "gzip"], gzip.compress(zlib.compress(WHOLE))),
    "gzip twice": (["gzip, gzip"], gzip.compress(GZIP)),
    "gzip twice, said once": (["gzip"], gzip.compress(GZIP)),
    "gzip once, said twice": (["gzip, gzip"], GZIP),
    "brotli within gzip": (["br, gzip"], gzip.compress(brotli(WHOLE))),
    "gzip that is not named": ([], GZIP),
    "zstd that is not named": ([], zstd(WHOLE)),
    "plain, said to be gzip": (["gzip"], WHOLE),
    "plain, said to be brotli": (["br"], WHOLE),
    "gzip, said to be brotli": (["br"], GZIP),
    "zlib, said to be gzip": (["gzip"], zlib.compress(WHOLE)),
    "plain, said to be of a kind that nobody knows": (["rot13"], WHOLE),
    "utf-8": (["utf-8"], WHOLE),
}


@pytest.mark.parametrize(("named", "raw"), ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_is_read_in_any_encoding(named, raw):
    """All are from real servers. If the header is wrong, the bytes decide."""
    headers = [f"Content-Encoding: {name}" for name in named]
    reply = asyncio.run(exchange(replying(answer(raw, "200 OK", *headers))))
    assert (reply.failure, reply.body) == (None, WHOLE)
    assert classify(reply).verdict is Verdict.OK


@pytest.mark.parametrize("body", [b'{"result":"%s"}', b'{"success":true,"result":"%s","a":[]}'])
@pytest.mark.parametrize(
    ("kind", "charset"),
    [
        ("application/json; charset=iso-8859-1", "cp1252"),
        ("application/json; Charset='windows-1251'", "windows-1251"),
        ('application/json;charset="Shift_JIS"', "shift_jis"),
        ("application/json", "utf-16"),
        ("application/json; charset=utf-16", "utf-16"),
        ("application/json", "utf-8-sig"),
        ("application/json; charset=iso-8859-1", "utf-8"),
        ("application/json; charset=unheard-of", "cp1252"),
        ("application/json", "cp1252"),
    ],
)
def test_an_answer_is_read_in_any_charset(kind, charset, body):
    """In the one that its header names, else in one of JSON's own, else in that of browsers."""
    text = {"windows-1251": "Жили-были", "shift_jis": "むかしむかし"}.get(charset, "café “€”")
    raw = body.decode().replace("%s", text).encode(charset)
    reply = asyncio.run(exchange(replying(answer(raw, "200 OK", f"Content-Type: {kind}"))))
    assert classify(reply).verdict is Verdict.OK
    read = read_answer(reply.body)
    assert read.result == text
    guessed = charset == "cp1252" and "iso-8859-1" not in kind
    assert read.flags == (("charset_guessed",) if guessed else ())


def test_bytes_that_the_guessed_charset_does_not_have_are_kept_as_latin_1():
    """Latin-1 has a character for each of the 256 bytes."""
    assert read_answer(b'{"result":"\x81\x8d\xe9"}').result == "\x81\x8d\xe9"


UNREADABLE = {
    "not gzip": ("gzip", b"n" * 20),
    "a broken gzip": ("gzip", GZIP[:20] + b"\xff" * 20 + GZIP[40:]),
    "half a gzip": ("gzip", GZIP[: len(GZIP) // 2]),
    "half a brotli": ("br", brotli(WHOLE)[:20]),
    "LZW": ("compress", b"\x1f\x9d\x90" + bytes(range(200))),
    "nobody knows": ("aes128gcm", bytes(range(256))),
}


@pytest.mark.parametrize(("named", "raw"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_answer_that_cannot_be_read_is_kept_unchanged(named, raw):
    """A later release may read it. Once such answers were thrown away."""
    reply = asyncio.run(exchange(replying(answer(raw, "200 OK", f"Content-Encoding: {named}"))))
    assert (reply.failure, reply.body) == (None, raw)
    outcome = classify(reply)
    assert (outcome.verdict, outcome.code) == (Verdict.AMBIGUOUS, "bad_response")


def test_an_error_page_is_shown_decoded():
    """It is not JSON, and a person has to read it."""
    page = "<h1>Zu viele Anfragen für heute</h1>".encode()
    for named, raw in (
        ("gzip", gzip.compress(page)),
        ("br", brotli(page)),
        ("deflate", zlib.compress(page)),
    ):
        headers = {"content-encoding": named}
        assert decoded(raw, headers) == page
    latin = page.decode().encode("latin-1")
    assert in_utf8(latin, {"content-type": "text/html; charset=ISO-8859-1"}) == page
    assert not is_encoded(latin, {})


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate, brotli, zstd])
def test_no_encoding_gets_past_the_cap(pack):
    """So a small body that unpacks to gigabytes cannot fill the memory."""
    packed = pack(b"a" * (3 * MAX_BODY_BYTES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    name = {gzip.compress: "gzip", brotli: "br", zstd: "zstd"}.get(pack, "deflate")
    if pack is raw_deflate:
        assert list(readings(packed)) == [packed]
    else:
        with pytest.raises(TooLarge):
            decoded(packed, {"content-encoding": name})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3 * MAX_BODY_BYTES // 1024


@pytest.mark.parametrize(
    "hostile",
    [
        gzip.compress(b"") * 200_000,
        gzip.compress(gzip.compress(gzip.compress(gzip.compress(b"a" * 1_000_000)))),
        bytes(range(1, 256)) * 20_000,
        b"\x1f\x8b" * 2_000_000,
        b"\x28\xb5\x2f\xfd" * 1_000_000,
    ],
    ids=["empty members", "nested", "noise", "gzip's sign", "zstd's sign"],
)
def test_a_hostile_body_costs_little_time(hostile):
    """It blocks the event loop. The limit of one second is a hundred times as long as it takes."""
    begun = time.process_time()
    for named in ("", "gzip", "deflate", "br", "zstd", "gzip, br, zstd, deflate"):
        decoded(hostile, {"content-encoding": named})
    assert time.process_time() - begun < 6


def test_a_kept_body_can_be_read_without_its_headers():
    """The ledger stores no headers."""
    for name, (_, raw) in ANSWERS.items():
        read = [classify(Reply(0, 0, 200, {}, body)).verdict for body in readings(raw)]
        assert Verdict.OK in read, name


def test_plain_json_skips_the_decoders():
    """The usual answer costs no decoding time."""
    assert not is_encoded(OK, {"content-type": "application/json"})
    assert not is_encoded(b"", {})
    assert not is_encoded(b"upstream error", {})
    assert is_encoded(OK, {"content-encoding": "br"})
    assert not is_encoded(OK, {"content-encoding": "identity"})
