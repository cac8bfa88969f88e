"""The README's tables of figures, made from what the benchmarks kept.

    python benchmarks/figures.py [--write]

Prints them, or writes them between the README's marks.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

TOP = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("results")
README = TOP / "README.md"
_MARKED = re.compile(r"(<!-- figures: (\w[\w-]*) -->\n).*?(<!-- end -->)", re.DOTALL)


def throughput() -> str:
    kept = _kept("throughput")
    runner = kept["figures"][0]
    lines = [
        "| client | CPU s per 1,000 rows | beside the runner | rows/s | MB |",
        "|---|---|---|---|---|",
    ]
    for one in kept["figures"]:
        ratio = one["cpu_s_per_1000"] / runner["cpu_s_per_1000"]
        name = f"**{one['name']}**" if one is runner else one["name"]
        lines.append(
            f"| {name} | {one['cpu_s_per_1000']:.3f} | {ratio:.2f} | {one['rows_per_s']:,.0f} |"
            f" {one['rss_mb']:.0f} |"
        )
    return "\n".join([*lines, "", _about(kept)])


def scale() -> str:
    kept, flight = _kept("scale"), _kept("in-flight")
    lines = ["| command | rows | wall s | CPU s | MB |", "|---|---|---|---|---|"]
    for one in [*kept["figures"], *flight["figures"]]:
        lines.append(
            f"| {one['name']} | {one['rows']:,} | {one['wall_s']:.1f} | {one['cpu_s']:.1f} |"
            f" {one['rss_mb']:.0f} |"
        )
    ideal = f"Ideal for the last line: {flight['ideal_s']:.0f} s."
    return "\n".join([*lines, "", f"{ideal} {_about(kept)}"])


def _kept(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def _about(kept: dict[str, Any]) -> str:
    return (
        f"({kept['date']}, commit {kept['commit']}, {kept['cores']} cores, Python {kept['python']},"
        f" server: {kept['server']})"
    )


TABLES = {"throughput": throughput, "scale": scale}


def filled(text: str) -> str:
    """A document with its tables made anew."""
    return _MARKED.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for name, table in TABLES.items():
        print(f"{name}\n\n{table()}\n")


if __name__ == "__main__":
    main()
