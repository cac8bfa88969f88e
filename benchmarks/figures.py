"""Makes the tables of figures in the README and the docs from the stored results of benchmarks.

    python benchmarks/figures.py [--write]

Prints them, or writes them between the documents' marks.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

TOP = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("results")
DOCUMENTS = (
    TOP / "docs" / "speed.md",
    TOP / "docs" / "pacing.md",
    TOP / "docs" / "many-machines.md",
)
_MARKED = re.compile(r"(<!-- figures: (\w[\w-]*) -->\n).*?(<!-- end -->)", re.DOTALL)


def throughput() -> str:
    kept = _kept("throughput")
    runner = kept["figures"][0]
    lines = [
        "| client | CPU s per 1,000 rows | compared with the runner | rows/s | MB |",
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
    kept = _kept("scale")
    sizes = sorted({one["rows"] for one in kept["figures"]})
    heads = [
        "CPU s of",
        *(f"{size:,} rows" for size in sizes),
        "its exponent",
        "MB",
        "its exponent",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for grown in kept["growth"]:
        figures = [one for one in kept["figures"] if one["name"] == grown["name"]]
        spent = " | ".join(f"{one['cpu_s']:.1f}" for one in figures)
        held = f"{figures[-1]['rss_mb']:.0f}"
        lines.append(
            f"| {grown['name']} | {spent} | {grown['cpu']:.2f} | {held} | {grown['memory']:.2f} |"
        )
    return "\n".join([*lines, "", _about(kept)])


def in_flight() -> str:
    kept = _kept("in-flight")
    ideal = f"Ideal: {kept['ideal_s']:.0f} s."
    return "\n".join([*_steps(kept["figures"]), "", f"{ideal} {_about(kept)}"])


def workbook() -> str:
    kept = _kept("workbook")
    return "\n".join([*_steps(kept["figures"]), "", _about(kept)])


def commands() -> str:
    kept = _kept("commands")
    return "\n".join([*_with_before(kept["figures"], digits=2), "", _about(kept)])


def finished() -> str:
    kept = _kept("finished")
    [run] = [one for one in kept["figures"] if one["before_first_s"] is not None]
    first = (
        f"{kept['rows']:,} rows. The run takes {run['before_first_s']:.1f} CPU s until its first"
        f" request, {run['other_before_first_s']:.1f} before."
    )
    lines = _with_before(kept["figures"], digits=1)
    return "\n".join([*lines, "", f"{first} {_about(kept)}"])


def _with_before(figures: list[dict[str, Any]], digits: int) -> list[str]:
    """Returns a table of commands here and in an earlier release. `digits` of the seconds."""
    lines = [
        "| command | CPU s | MB | CPU s before | MB before | CPU, compared with before |",
        "|---|---|---|---|---|---|",
    ]
    for one in figures:
        lines.append(
            f"| {one['name']} | {one['cpu_s']:.{digits}f} | {one['rss_mb']:.0f} |"
            f" {one['other_cpu_s']:.{digits}f} | {one['other_rss_mb']:.0f} |"
            f" {one['cpu_s'] / one['other_cpu_s']:.2f} |"
        )
    return lines


def pacing_constants() -> str:
    kept = _kept("pacing-constants")
    lines = ["| constant | for | value | half | double | scenarios |", "|---|---|---|---|---|---|"]
    for half, double in zip(kept["figures"][::2], kept["figures"][1::2], strict=True):
        lines.append(
            f"| `{half['name']}` | {half['purpose']} | {half['value']:g} | {_effect(half)} |"
            f" {_effect(double)} | {half['scenarios']} |"
        )
    return "\n".join([*lines, "", _about(kept)])


def _effect(one: dict[str, Any]) -> str:
    changes = [100 * one[name] for name in ("used_mean", "used_p10", "used_worst")]
    denied = 100 * one["denied_mean"]
    if not any(changes) and not denied:
        return "no change"
    return f"{' / '.join(f'{change:+.1f}' for change in changes)} ({denied:+.2f})"


def pacing_sim(name: str = "pacing-sim") -> str:
    kept = _kept(name)
    families: dict[str, list[str]] = {}
    for one in kept["figures"]:
        used = " / ".join(
            f"{one[name]:.0%}"[:-1] for name in ("used_mean", "used_p10", "used_worst")
        )
        families.setdefault(one["family"], []).append(f"{used} ({one['denied_mean']:.2%})")
    clients = dict.fromkeys(one["client"] for one in kept["figures"])
    lines = [f"| scenarios | {' | '.join(clients)} |", "|---" * (1 + len(clients)) + "|"]
    lines += [f"| {family} | {' | '.join(cells)} |" for family, cells in families.items()]
    about = f"{kept['scenarios']} scenarios, each {kept['seeds']} times. {_about(kept)}"
    return "\n".join([*lines, "", about])


def _steps(steps: list[dict[str, Any]]) -> list[str]:
    lines = ["| command | rows | wall s | CPU s | MB |", "|---|---|---|---|---|"]
    for one in steps:
        lines.append(
            f"| {one['name']} | {one['rows']:,} | {one['wall_s']:.1f} | {one['cpu_s']:.1f} |"
            f" {one['rss_mb']:,.0f} |"
        )
    return lines


def ceiling() -> str:
    kept = _kept("ceiling")
    lines = [
        "| answers come at once | rows/s | the driver's CPU s per 1,000 | of it in the loop |",
        "|---|---|---|---|",
    ]
    for one in kept["figures"]:
        thousands = one["rows"] / 1000
        lines.append(
            f"| {one['engine']} | {one['rows'] / one['wall_s']:,.0f} |"
            f" {one['cpu_s'] / thousands:.3f} | {one['loop_s'] / thousands:.3f} |"
        )
    return "\n".join([*lines, "", _about(kept)])


def cluster_peer() -> str:
    kept, held = _kept("cluster-peer"), _kept("cluster-in-flight")
    lines = [
        "| on the same cluster | rows/s | CPU s per 1,000 | MB | answers kept after a kill |"
        " rows sent twice |",
        "|---|---|---|---|---|---|",
    ]
    for one in kept["figures"]:
        lines.append(
            f"| {one['program']} | {one['rows'] / one['wall_s']:,.0f} |"
            f" {one['cpu_s'] / one['rows'] * 1000:.3f} | {one['rss_mb']:,.0f} |"
            f" {one['kept_after_kill']} | {one['asked_twice']} |"
        )
    [flight] = held["figures"]
    ideal_s = flight["rows"] / flight["in_flight"] * flight["answer_after_s"]
    return "\n".join(
        [
            *lines,
            "",
            _about(kept),
            "",
            f"{flight['in_flight']:,} requests in flight on two workers, with answers after"
            f" {flight['answer_after_s']:.0f} s: {flight['rows']:,} rows in"
            f" {flight['wall_s']:.0f} s ({ideal_s:.0f} s at best, without start"
            f" and end of a cluster), "
            f"{flight['cpu_s'] / flight['rows'] * 1000:.3f} CPU s per 1,000 rows for all processes"
            f" together, {flight['rss_mb']:.0f} MB for the largest.",
        ]
    )


def _kept(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def page() -> str:
    kept = _kept("page")
    lines = [
        "| screen | first, s | then, ms | before, ms | compared with before |",
        "|---|---|---|---|---|",
    ]
    for one in kept["figures"]:
        before = one["other_later_s"]
        compared = "" if before is None else f"{one['later_s'] / before:.3f}"
        lines.append(
            f"| {one['name']} | {one['first_s']:.1f} | {one['later_s'] * 1000:.0f} |"
            f" {'' if before is None else f'{before * 1000:,.0f}'} | {compared} |"
        )
    return "\n".join([*lines, "", f"{kept['rows']:,} rows. {_about(kept)}"])


def _about(kept: dict[str, Any]) -> str:
    return (
        f"({kept['date']}, commit {kept['commit']}, {kept['cores']} cores, Python {kept['python']}"
        f"{', server: ' + kept['server'] if 'server' in kept else ''})"
    )


TABLES = {
    "throughput": throughput,
    "scale": scale,
    "in-flight": in_flight,
    "workbook": workbook,
    "commands": commands,
    "finished": finished,
    "page": page,
    "pacing-sim": pacing_sim,
    "pacing-sim-held": lambda: pacing_sim("pacing-sim-held"),
    "pacing-constants": pacing_constants,
    "ceiling": ceiling,
    "cluster-peer": cluster_peer,
}


def filled(text: str) -> str:
    """Returns the document with new tables."""
    return _MARKED.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        for document in DOCUMENTS:
            document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for name, table in TABLES.items():
        print(f"{name}\n\n{table()}\n")


if __name__ == "__main__":
    main()
