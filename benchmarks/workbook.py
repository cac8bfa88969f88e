"""Measures a large workbook: reading it, and exporting it with its answers.

    python benchmarks/workbook.py [--rows 200000]

The workbook has ten columns. The export is compared with openpyxl, which loads the same workbook,
adds five columns and saves it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from pathlib import Path

from measure import Bench, Used, keep, serving, used
from scale import Step, step

COLUMNS = "ABCDEFGHIJ"
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
KIND = "application/vnd.openxmlformats-officedocument.spreadsheetml"
PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{KIND}.sheet.main+xml"/>'
    f'<Override PartName="/xl/styles.xml" ContentType="{KIND}.styles+xml"/>'
    f'<Override PartName="/xl/sheet.xml" ContentType="{KIND}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="rId1" '
    f'Type="{LINKS}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{LINKS}"><sheets>'
    '<sheet name="Rows" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{LINKS}/worksheet" Target="sheet.xml"/>'
    f'<Relationship Id="rId2" Type="{LINKS}/styles" Target="styles.xml"/></Relationships>',
    "xl/styles.xml": f'<styleSheet xmlns="{MAIN}"><fonts count="1"><font><sz val="11"/></font>'
    '</fonts><fills count="1"><fill><patternFill/></fill></fills><borders count="1"><border/>'
    '</borders><cellXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/></cellXfs>'
    "</styleSheet>",
}
OPENPYXL = """
import sys, openpyxl
book = openpyxl.load_workbook(sys.argv[1])
page = book.worksheets[0]
for row in range(2, page.max_row + 1):
    for column in range(11, 16):
        page.cell(row, column, "x" * 540 if column == 11 else "ok")
book.save(sys.argv[2])
"""


def write_book(path: Path, rows: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in PARTS.items():
            archive.writestr(name, content)
        with archive.open("xl/sheet.xml", "w", force_zip64=True) as part:
            part.write(f'<worksheet xmlns="{MAIN}"><sheetData>'.encode())
            for number in range(1, rows + 2):
                part.write(b'<row r="%d">' % number)
                for place, letter in enumerate(COLUMNS):
                    ref = f"{letter}{number}"
                    if place % 2 and number > 1:
                        part.write(f'<c r="{ref}"><v>{number * 1.25}</v></c>'.encode())
                    else:
                        text = f"{letter} of number {number}" if number > 1 else f"c{place}"
                        inside = f"<is><t>{text}</t></is>"
                        part.write(f'<c r="{ref}" t="inlineStr">{inside}</c>'.encode())
                part.write(b"</row>")
            part.write(b"</sheetData></worksheet>")


def ratio(what: str, ours: Used, other: Used) -> None:
    times, memory = other.cpu_s / ours.cpu_s, other.rss_mb / ours.rss_mb
    print(f"{what}: {times:.1f} times the CPU, {memory:.1f} times the memory", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    rows: int = parser.parse_args().rows
    steps: list[Step] = []
    with serving() as (kind, url), tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), url)
        bench.write([], input="book.xlsx", variables={"text": "c0", "number": "c1"})
        book = bench.folder / "book.xlsx"
        write_book(book, rows)
        bench.call("run", "--quiet")
        steps.append(step("run again: read only", rows, bench.call("run", "--quiet")))
        target = str(bench.folder / "done.xlsx")
        ours = bench.call("export", "--to", target, "--quiet")
        steps.append(step("export .xlsx", rows, ours))
        command = [sys.executable, "-c", OPENPYXL, str(book), str(bench.folder / "other.xlsx")]
        other = used(command)
        steps.append(step("openpyxl: load, add, save", rows, other))
        ratio("openpyxl, compared with the export", ours, other)
        keep("workbook", steps, server=kind)


if __name__ == "__main__":
    main()
