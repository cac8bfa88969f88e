"""The tables of a worksheet (Insert, Table): where they are, and where their totals rows are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.inputs.xlsx.areas import Area, area_of
from pipeline.inputs.xlsx.workbook import SheetEntry, Workbook
from pipeline.inputs.xlsx.xml_stream import Foreign, Malformed, stream


@dataclass(frozen=True, slots=True)
class SheetTable:
    """A table: its part in the file, where it is, the area of its filter, the number of its totals
    rows, the names of its columns, and the largest of their ids. `fixed`: its columns come from a
    query, or it has no header row."""

    part: str
    area: Area
    filter: Area | None
    totals: int
    columns: tuple[str, ...]
    last_id: int
    fixed: bool


def tables_of(workbook: Workbook, sheet: SheetEntry) -> Iterator[SheetTable]:
    """Yields the tables on `sheet`.

    Raises:
        Malformed: if one of them is not a table.
    """
    links = workbook.links(sheet.part)
    for part in filter(None, dict.fromkeys(link.part for link in links if link.kind == "table")):
        target = _TableTarget()
        with workbook.open_part(part) as source:
            for _ in stream(source, target):
                pass
        if target.area is None:
            raise Malformed(f"{part} is not a table")
        yield SheetTable(
            part,
            target.area,
            target.filter,
            target.totals,
            tuple(target.columns),
            target.last_id,
            target.fixed,
        )


def totals_rows(workbook: Workbook, sheet: SheetEntry) -> Iterator[Area]:
    """Yields the area of the totals rows of each table on `sheet`."""
    for table in tables_of(workbook, sheet):
        if table.totals:
            top = max(table.area.top, table.area.bottom - table.totals + 1)
            yield replace(table.area, top=top)


class _TableTarget:
    def __init__(self) -> None:
        self.area: Area | None = None
        self.filter: Area | None = None
        self.totals = 0
        self.columns: list[str] = []
        self.last_id = 0
        self.fixed = False
        self._foreign = Foreign()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._foreign.add(0)
        name = name.rpartition(":")[2]
        if name == "table" and self.area is None:
            self.area = area_of(attributes.get("ref", ""))
            self.totals = _whole(attributes.get("totalsRowCount"))
            kind = attributes.get("tableType", "worksheet")
            self.fixed = kind != "worksheet" or attributes.get("headerRowCount") == "0"
        elif name == "autoFilter" and self.filter is None:
            self.filter = area_of(attributes.get("ref", ""))
        elif name == "tableColumn":
            self.columns.append(attributes.get("name", ""))
            self.last_id = max(self.last_id, _whole(attributes.get("id")))

    def end(self, name: str) -> None:
        pass

    def text(self, text: str) -> None:
        pass


def _whole(digits: str | None) -> int:
    return int(digits) if digits and digits.isdecimal() and len(digits) < 10 else 0
