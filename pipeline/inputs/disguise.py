"""Refuses files whose content is of another kind than their ending, with the right ending."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from pipeline.core.errors import Refused

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIP = b"PK\x03\x04"
_WEB = (b"<html", b"<!doctype", b"<table", b"<?xml")
_TEXTS = (".csv", ".tsv", ".txt", ".jsonl")
_ZIP_KINDS = {".xlsx": ".xlsx", ".xlsm": ".xlsx", ".xlsb": ".xlsb", ".ods": ".ods"}
_NAMES = {
    ".xlsx": "an Excel workbook",
    ".xls": "an old Excel workbook",
    ".xlsb": "a binary Excel workbook",
    ".ods": "an OpenDocument workbook",
    ".parquet": "a Parquet file",
}


def refuse_disguised(path: Path) -> None:
    """Raises if the first bytes of the file belong to another kind of sheet than its ending.

    Raises:
        Refused: with the ending to use.
    """
    ending = path.suffix.lower()
    with path.open("rb") as file:
        head = file.read(512)
        if not head and ending not in _TEXTS:
            raise Refused(f"{path}: the file is empty. Save the workbook again.")
        kind = _kind(file, head)
    if kind is None:
        if ending in _TEXTS:
            return
        raise Refused(f"{path}: {_no_workbook(head)}")
    if kind == "protected":
        raise Refused(f"{path}: the workbook is protected by a password. Save a copy without one.")
    if kind != _ZIP_KINDS.get(ending, ending):
        raise Refused(
            f"{path}: the file is {_NAMES[kind]}, but its name ends in {ending}. Rename it to "
            f"{path.stem}{kind}."
        )


def _kind(file: IO[bytes], head: bytes) -> str | None:
    """Returns the usual ending of a binary sheet. None for text and for unknown kinds."""
    if head.startswith(_OLE):
        return "protected" if _holds(file, "EncryptedPackage".encode("utf-16-le")) else ".xls"
    if head.startswith(b"PAR1"):
        return ".parquet"
    if not head.startswith(_ZIP):
        return None
    # An OpenDocument file begins with the part `mimetype`, which is not compressed.
    if b"opendocument" in head[:200]:
        return ".ods"
    return ".xlsb" if _has_part(file, "xl/workbook.bin") else ".xlsx"


def _has_part(file: IO[bytes], name: str) -> bool:
    return _holds(file, name.encode())


def _holds(file: IO[bytes], wanted: bytes) -> bool:
    file.seek(0)
    before = b""
    while block := file.read(1 << 20):
        if wanted in before + block:
            return True
        before = block[-len(wanted) :]
    return False


def _no_workbook(head: bytes) -> str:
    if head.lstrip().lower().startswith(_WEB):
        return "the file is a web page or XML, not a workbook. Open it and save it as .xlsx."
    return (
        "the file is not an Excel workbook. If it is text, rename it to .csv. Otherwise, save "
        "it as .xlsx."
    )
