"""Bodies too large to be held: made piece by piece, the same piece over and over."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from functools import cache

from pipeline.sandbox.replies import JSON_TYPE, Plain, Streamed

_START = b'{"success":true,"result":"'
_END = b'"}'
_PIECE = b"x" * 65_536
_PIECES = 16_384  # times 64 KiB: 1 GiB
_SIZE = len(_START) + _PIECES * len(_PIECE) + len(_END)
# A packed piece has some hundred bytes: so many go into one write.
_PACKED_AT_ONCE = 16
# Magic, deflate, no flags, no time, no level, Unix.
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"
_DRIP_S = 0.1


def dripped(reply: Plain) -> Streamed:
    """The same reply, a byte each 100 ms."""
    length = (b"content-length", str(len(reply.body)).encode())
    return Streamed([*reply.headers, length], lambda: _bytes(reply.body), _DRIP_S)


def _bytes(body: bytes) -> Iterator[bytes]:
    return (body[n : n + 1] for n in range(len(body)))


def _plain() -> Iterator[bytes]:
    yield _START
    for _ in range(_PIECES):
        yield _PIECE
    yield _END


def _gzipped() -> Iterable[bytes]:
    start, piece, end = _packed()
    yield start
    for _ in range(_PIECES // _PACKED_AT_ONCE):
        yield piece * _PACKED_AT_ONCE
    yield end


@cache
def _packed() -> tuple[bytes, bytes, bytes]:
    """Start, repeated piece and end of a gzip stream.

    A full flush makes the compressor forget what came before, so that the compressed piece may
    stand any number of times; only the checksum at the end has to go over all of it.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = packer.compress(_START) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(_PIECE) + packer.flush(zlib.Z_FULL_FLUSH)
    end = packer.compress(_END) + packer.flush(zlib.Z_FINISH)
    checksum = zlib.crc32(_START)
    for _ in range(_PIECES):
        checksum = zlib.crc32(_PIECE, checksum)
    checksum = zlib.crc32(_END, checksum)
    trailer = checksum.to_bytes(4, "little") + (_SIZE % 2**32).to_bytes(4, "little")
    return _GZIP_HEAD + start, piece, end + trailer


HUGE_BODY = Streamed([JSON_TYPE, (b"content-length", b"%d" % _SIZE)], _plain)
GZIP_BOMB = Streamed([JSON_TYPE, (b"content-encoding", b"gzip")], _gzipped)
