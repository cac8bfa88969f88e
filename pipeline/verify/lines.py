"""What a person reads in a terminal after `verify`."""

from __future__ import annotations

from pipeline.verify.findings import Verified
from pipeline.wording import counted, listed


def verified_lines(verified: Verified, name: str) -> list[str]:
    """What was checked; then each finding with its file, its rows, and what to do."""
    checked = (
        f"{counted(verified.answers, 'answer')} in {counted(verified.parts, 'part')} and the "
        f"ledger's {verified.entries} entries checked"
    )
    if not verified.findings:
        return [f"{name}: everything is there and as it was written: {checked}."]
    lines = [f"{name}: {counted(len(verified.findings), 'finding')}; {checked}."]
    for finding in verified.findings:
        times = f" ({finding.count} times)" if finding.count > 1 else ""
        where = f": {listed(finding.rows, max(finding.count, len(finding.rows)))}"
        lines.append(f"{finding.file}: {finding.problem}{where if finding.rows else times}")
        lines.append(f"    {finding.advice}.")
    return lines
