"""Decodes the body of a response: undoes its content encodings and its charset.

The runner asks for no encoding. Servers and proxies still use one, or several, or the wrong one, or
one that no header names, and each of these answers was paid for. So where the header is wrong, the
bytes decide: a reading counts if it is JSON. If no reading is JSON, the bytes stay as they arrived,
so that a later release can read them.

Every decoder stops at the cap, because 200 KB of gzip can hold 200 MB.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress

from pipeline.policy.json_text import LATIN, is_utf8, parsed

MAX_BODY_BYTES = 64 * 1024 * 1024
KEPT_OF_TOO_LARGE_BYTES = 1024 * 1024

_IN_STEP, _OUT_STEP = 64 * 1024, 1024 * 1024
# Both limit the time that one hostile body can take.
_MOST_LAYERS, _MOST_MEMBERS = 3, 10_000
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_JSON_OR_MARKUP = tuple(b'{[<" \t\r\n\xef')
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_LATIN_NAMES = {"iso-8859-1", "latin-1", "latin1", "us-ascii", "ascii"}


class TooLarge(Exception):
    """The body is larger than the cap. `kept` is its beginning."""

    def __init__(self, kept: bytes) -> None:
        super().__init__("body too large")
        self.kept = kept


class Cut(ValueError):
    """The stream of a decoder cannot be read to its end."""


def is_encoded(raw: bytes | bytearray, headers: Mapping[str, str]) -> bool:
    """Whether `raw` has to go through `decoded`, by its headers or by its first bytes.

    The names of `headers` are in lower case.
    """
    if _encodings(headers):
        return True
    return len(raw) > 0 and raw[0] not in _JSON_OR_MARKUP and not is_utf8(raw)


def decoded(raw: bytes, headers: Mapping[str, str]) -> bytes:
    """Returns the body that the server encoded as `raw`, or `raw` itself if no decoder can read it.

    Raises:
        TooLarge: when the decoded body is larger than the cap.
    """
    body, whole = _undone(raw, _encodings(headers))
    for start in (body,) if body == raw else (body, raw):
        for reading in readings(start):
            if _is_json(reading):
                return reading
    return body if whole else raw


def readings(raw: bytes, layers: int = _MOST_LAYERS) -> Iterator[bytes]:
    """Yields every reading of `raw`: itself, and the result of each decoder that fits its bytes."""
    yield raw
    for decoder in _by_look(raw) if layers else ():
        with suppress(TooLarge):
            body, _ = _collected(decoder(raw))
            if body:
                yield from readings(body, layers - 1)


def in_utf8(body: bytes, headers: Mapping[str, str]) -> bytes:
    """Returns `body` in UTF-8 if it is in a charset that its headers name, or in UTF-16 or UTF-32.
    Otherwise returns it unchanged."""
    wide = json.detect_encoding(body)
    if wide.startswith(("utf-16", "utf-32")) and _is_json(body):
        return body.decode(wide, "surrogatepass").encode("utf-8", "surrogatepass")
    named = _CHARSET.search(headers.get("content-type", ""))
    if named is None or is_utf8(body):
        return body
    charset = named[1].lower()
    with suppress(LookupError, ValueError):
        return body.decode(LATIN if charset in _LATIN_NAMES else charset).encode()
    return body


def _encodings(headers: Mapping[str, str]) -> list[str]:
    """Returns the names in `content-encoding`, in the order in which the server applied them."""
    names = headers.get("content-encoding", "").lower().split(",")
    return [name for one in names if (name := one.strip().removeprefix("x-")) not in _NONE]


def _undone(raw: bytes, encodings: list[str]) -> tuple[bytes, bool]:
    """Returns `raw` without `encodings`, and whether each of them could be undone completely."""
    for name in reversed(encodings):
        if name not in _DECODERS:
            return raw, False
        raw, whole = _collected(_DECODERS[name](raw))
        if not whole:
            return raw, False
    return raw, True


def _by_look(raw: bytes) -> list[Callable[[bytes], Iterator[bytes]]]:
    """Returns the decoders that may fit `raw`, by its first bytes."""
    if raw.startswith(_GZIP):
        return [_gunzipped]
    if raw.startswith(_ZSTD):
        return [_unpacked_zstd]
    return [] if is_utf8(raw) else [_inflated, _inflated_without_header, _unpacked_brotli]


def _collected(pieces: Iterator[bytes]) -> tuple[bytes, bool]:
    """Returns the `pieces` before the first error, and whether there was no error."""
    body = bytearray()
    try:
        for piece in pieces:
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise TooLarge(bytes(body[:KEPT_OF_TOO_LARGE_BYTES]))
    # pyarrow raises NotImplementedError where it was built without the codec.
    except (zlib.error, OSError, ValueError, NotImplementedError):
        return bytes(body), False
    return bytes(body), True


def _is_json(body: bytes) -> bool:
    try:
        return isinstance(parsed(body), dict | list)
    except (ValueError, RecursionError):
        return False


# -- the decoders -------------------------------------------------------------------------


def _gunzipped(raw: bytes) -> Iterator[bytes]:
    """Unpacks one gzip member after the other. Ignores padding behind the last one."""
    at = 0
    for _ in range(_MOST_MEMBERS):
        at = yield from _stream(raw, at, 16 + zlib.MAX_WBITS)
        if not raw.startswith(_GZIP, at):
            return
    raise Cut("too many members")


def _inflated(raw: bytes) -> Iterator[bytes]:
    yield from _stream(raw, 0, zlib.MAX_WBITS)


def _inflated_without_header(raw: bytes) -> Iterator[bytes]:
    """Unpacks `deflate` without a zlib header, as some servers send it."""
    yield from _stream(raw, 0, -zlib.MAX_WBITS)


def _stream(raw: bytes, at: int, bits: int) -> Generator[bytes, None, int]:
    """Yields the output of zlib for `raw` from `at` on. Returns where the stream ends."""
    decoder = zlib.decompressobj(bits)
    while not decoder.eof:
        fed = raw[at : at + _IN_STEP]
        piece = decoder.decompress(fed, _OUT_STEP)
        at += len(fed) - len(decoder.unconsumed_tail) - len(decoder.unused_data)
        if not fed and not piece:
            raise Cut("the stream ends too early")
        yield piece
    return at


def _unpacked_brotli(raw: bytes) -> Iterator[bytes]:
    return _unpacked_by_arrow(raw, "brotli")


def _unpacked_zstd(raw: bytes) -> Iterator[bytes]:
    return _unpacked_by_arrow(raw, "zstd")


def _unpacked_by_arrow(raw: bytes, codec: str) -> Iterator[bytes]:
    """Uses pyarrow, which unpacks these in steps and is installed anyway."""
    import pyarrow as pa  # here, because a worker of a cluster has no other use for it

    with pa.CompressedInputStream(pa.BufferReader(raw), codec) as stream:
        while piece := stream.read(_OUT_STEP):
            yield piece


_NONE = ("", "identity")
_DECODERS = {
    "gzip": _gunzipped,
    "deflate": _inflated,
    "br": _unpacked_brotli,
    "zstd": _unpacked_zstd,
}
