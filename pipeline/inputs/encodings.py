"""Finds the encoding of a text file, and refuses a file in which it reads no text."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from pipeline.core.errors import Refused
from pipeline.core.wording import one_line, printable
from pipeline.job.spec import JobSpec

_BOMS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_HEAD_BYTES = 4096
_SAMPLE_BYTES = 1 << 14
_SHOWN_CHARACTERS = 60
_NAMED = 2
_PROPOSED = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254"),
    *("gb18030", "big5", "cp932", "cp949", "utf_16_le", "utf_16_be"),
)


@contextlib.contextmanager
def refusing_undecodable(path: Path, encoding: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError:
        raise Refused(
            f"{path} line {_undecodable_line(path, encoding)}: this line is not {encoding} text. "
            f"{_proposal(path, encoding)}"
        ) from None


def _proposal(path: Path, encoding: str) -> str:
    """Returns the encodings that the text probably has, each with a line as it reads it, so that
    the user can judge."""
    sample, at = _around_undecodable(path, encoding)
    named = [
        f"`encoding: {name}` reads it as: {one_line(printable(text), _SHOWN_CHARACTERS)}"
        for name, text in (_readings(sample, at)[:_NAMED] if sample else ())
    ]
    if not named:
        return (
            "Save the file as UTF-8, or set its `encoding:` in the job file (cp1252 for Western "
            "Excel, gbk for Chinese Excel, …)."
        )
    return f"Save the file as UTF-8, or set its `encoding:` in the job file. {'. '.join(named)}."


def _readings(sample: bytes, at: int) -> list[tuple[str, str]]:
    """Returns (encoding, the line at position `at`) for each encoding that fits, the likeliest
    first. Western Europe comes before encodings that read the same text."""
    from charset_normalizer import from_bytes

    readings: dict[str, str] = {}
    for match in from_bytes(sample, cp_isolation=list(_PROPOSED), threshold=0.8):
        head = sample[:at].decode(match.encoding, errors="ignore")
        line = f"{head}{sample[at:].decode(match.encoding, errors='ignore')}"[len(head) :]
        start = head.rpartition("\n")[2]
        text = (start + line.partition("\n")[0]).rstrip("\r")
        western = "cp1252" in match.could_be_from_charset
        readings.setdefault(text, "cp1252" if western else match.encoding)
    return [(name.replace("_", "-"), text) for text, name in readings.items()]


def _around_undecodable(path: Path, encoding: str) -> tuple[bytes, int]:
    """Returns the bytes around the first ones that are not text, and where those are in them."""
    decoder = codecs.getincrementaldecoder(encoding)()
    before = b""
    with path.open("rb") as file:
        while block := file.read(_SAMPLE_BYTES):
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                at = len(before) + max(len(block) - len(error.object) + error.start, 0)
                sample = before + block + file.read(_SAMPLE_BYTES)
                start = sample.rfind(b"\n", 0, max(at - _SAMPLE_BYTES // 2, 0)) + 1
                return sample[start : at + _SAMPLE_BYTES // 2], at - start
            except UnicodeError:
                break
            before = block
    return b"", 0


def _refuse_utf8_called_otherwise(spec: JobSpec) -> None:
    """Refuses UTF-8 text for which the spec names another encoding.

    If the user saved the sheet again as UTF-8, the old `encoding:` would turn it into gibberish
    that is sent and paid for. Text of another encoding with letters beyond ASCII is practically
    never valid UTF-8.
    """
    assert spec.encoding is not None
    if _codec(spec.encoding).startswith(("utf", "ascii")) or not _codec(spec.encoding):
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    beyond_ascii = False
    with spec.file.open("rb") as file:
        try:
            while block := file.read(1 << 20):
                beyond_ascii |= not block.isascii()
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return
    if beyond_ascii:
        raise Refused(
            f"{spec.at('encoding')}: the job says `encoding: {spec.encoding}`, but "
            f"{spec.file.name} is UTF-8 text. Leave `encoding:` out."
        )


def open_text(path: Path, encoding: str) -> TextIO:
    try:
        return path.open(encoding=encoding, newline="")
    except (LookupError, ValueError):
        raise Refused(
            f"{path}: there is no encoding `{encoding}`. Set `encoding:` in the job file to one "
            "that exists, such as utf-8, utf-16, cp1252 or gbk."
        ) from None


def encoding_of(spec: JobSpec) -> str:
    """Returns the encoding that the byte order mark names, or else the spec's, or else UTF-8. A
    mark is not part of the text."""
    with spec.file.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    marked = next((name for mark, name in _BOMS if head.startswith(mark)), None)
    if spec.encoding is None or marked == "utf-8-sig":
        if spec.encoding:
            _refuse_utf8_called_otherwise(spec)
        if marked is None:
            _refuse_unmarked_utf16(spec.file, head)
        return marked or "utf-8"
    if marked and _codec(spec.encoding).startswith("utf"):
        return marked
    if marked:
        raise Refused(
            f"{spec.at('encoding')}: the job says `encoding: {spec.encoding}`, but "
            f"{spec.file.name} begins with the byte order mark of {marked.upper()}. Leave "
            "`encoding:` out."
        )
    _refuse_utf8_called_otherwise(spec)
    return spec.encoding


def _refuse_unmarked_utf16(path: Path, head: bytes) -> None:
    """Refuses UTF-16 without a byte order mark. Every second byte of Western text is then NUL."""
    if not head or head.count(0) * 3 < len(head):
        return
    order = "be" if head[::2].count(0) > head[1::2].count(0) else "le"
    raise Refused(
        f"{path}: the file is full of NUL bytes, as UTF-16 text without a byte order mark is. Set "
        f"`encoding: utf-16-{order}` in the job file, or save the file as UTF-8."
    )


def _codec(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        return ""  # the encoding is refused with a hint when the file is opened


def _undecodable_line(path: Path, encoding: str) -> int:
    """Returns the line of the first bytes that are not text. Reads the file again to find it."""
    line = 1
    with (
        contextlib.suppress(UnicodeError),  # some codecs have no character to replace an error
        path.open(encoding=encoding, errors="replace", newline="") as file,
    ):
        for line, text in enumerate(file, start=1):
            if "\N{REPLACEMENT CHARACTER}" in text:
                break
    return line
