"""Finds what the copy of a workbook will lose.

openpyxl keeps cells, formats, merged cells, widths, comments, tables, pivot tables and plain
charts. The parts of the file, which ECMA-376 names, show what it drops.
"""

from __future__ import annotations

import re
from pathlib import Path
from zipfile import ZipFile

_CHUNK_BYTES = 1 << 20
# (the words for it, the name of a part that contains it)
_PARTS = (
    ("macros", r"xl/vbaProject\.bin"),
    ("pictures", r"xl/media/.*"),
    ("charts of the newer kinds", r"xl/charts/chartEx.*"),
    ("styles of charts", r"xl/charts/(style|colors)\d*\.xml"),
    ("slicers and timelines", r"xl/(slicers|slicerCaches|timelines|timelineCaches)/.*"),
    ("threaded comments", r"xl/threadedComments/.*"),
    ("form controls", r"xl/(ctrlProps|activeX)/.*"),
    ("embedded objects", r"xl/embeddings/.*"),
    ("data connections", r"xl/(connections\.xml|queryTables/.*)"),
    ("the data model", r"xl/model/.*"),
    ("a signature", r"_xmlsignatures/.*"),
)
# (the words for it, names of parts, a pattern of their content)
_CONTENTS = (
    ("shapes and text boxes", r"xl/drawings/drawing\d*\.xml", rb"<xdr:(sp|cxnSp|grpSp)\b"),
    ("sparklines", r"xl/worksheets/.*\.xml", rb"<x14:sparklineGroup\b"),
    ("newer conditional formats", r"xl/worksheets/.*\.xml", rb"<x14:conditionalFormatting\b"),
    ("newer data validations", r"xl/worksheets/.*\.xml", rb"<x14:dataValidation\b"),
)


def losses(path: Path) -> tuple[str, ...]:
    """Names what openpyxl will drop from the workbook at `path`."""
    with ZipFile(path) as archive:
        names = archive.namelist()
        found = [what for what, part in _PARTS if any(re.fullmatch(part, name) for name in names)]
        for what, part, content in _CONTENTS:
            held = (n for n in names if re.fullmatch(part, n))
            if any(_contains(archive, name, content) for name in held):
                found.append(what)
    return tuple(found)


def _contains(archive: ZipFile, name: str, content: bytes) -> bool:
    pattern, tail = re.compile(content), b""
    with archive.open(name) as file:
        while chunk := file.read(_CHUNK_BYTES):
            if pattern.search(tail + chunk):
                return True
            tail = chunk[-64:]
    return False
