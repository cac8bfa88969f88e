"""The tables of a worksheet (Insert, Table): where their totals rows are."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.inputs.xlsx.cells import Merged, merged_range
from pipeline.inputs.xlsx.workbook import SheetEntry, Workbook
from pipeline.inputs.xlsx.xml_stream import Foreign, stream


def totals_rows(workbook: Workbook, sheet: SheetEntry) -> Iterator[Merged]:
    """Yields the range of the totals rows of each table on `sheet`."""
    links = workbook.links(sheet.part)
    parts = dict.fromkeys(link.part for link in links if link.kind == "table")
    for part in filter(None, parts):
        target = _TableTarget()
        with workbook.open_part(part) as source:
            for _ in stream(source, target):
                pass
        if target.ref and target.totals > 0:
            whole = merged_range(target.ref)
            top = max(whole.top, whole.bottom - target.totals + 1)
            yield Merged(target.ref, top, whole.left, whole.bottom, whole.right)


class _TableTarget:
    def __init__(self) -> None:
        self.ref = ""
        self.totals = 0
        self._foreign = Foreign()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._foreign.add(0)
        if name.rpartition(":")[2] == "table" and not self.ref:
            self.ref = attributes.get("ref", "")
            count = attributes.get("totalsRowCount", "0")
            self.totals = int(count) if count.isdecimal() and len(count) < 8 else 0

    def end(self, name: str) -> None:
        pass

    def text(self, text: str) -> None:
        pass
