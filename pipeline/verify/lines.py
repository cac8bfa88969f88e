"""The lines that `verify` prints."""

from __future__ import annotations

from pipeline.core.wording import counted, listed
from pipeline.verify.findings import Verified


def verified_lines(verified: Verified, name: str) -> list[str]:
    """Returns the counts of what was checked, then each finding with its file, rows and advice."""
    found = "the run folder is complete and unaltered"
    if verified.findings:
        found = counted(len(verified.findings), "finding")
    lines = [
        f"{name}: {found}.",
        f"Checked {counted(verified.answers, 'answer')} in {counted(verified.parts, 'part')}, and "
        f"{verified.entries} entries of the ledger.",
    ]
    for finding in verified.findings:
        times = f" ({finding.count} times)" if finding.count > 1 else ""
        where = f": {listed(finding.rows, max(finding.count, len(finding.rows)))}"
        lines.append(f"{finding.file}: {finding.problem}{where if finding.rows else times}")
        lines.append(f"    {finding.advice}.")
    return lines
