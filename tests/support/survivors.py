"""Prints the mutants that no test noticed. `make mutants` calls it after mutmut.

Mutants that only change the case of SQL keywords are left out, because SQLite ignores it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant

# Exit codes as mutmut stores them: those of pytest, and those of a test that hung.
NOTICED = (1, 3, 24, -24, 36, 152, 255)
_SQL = re.compile(
    r"\b(SELECT|INSERT|UPDATE|DELETE|REPLACE|FROM|WHERE|VALUES|JOIN)\b", re.IGNORECASE
)


def change_of(mutant: str, source: Path) -> tuple[str, str]:
    """Returns the code before and after the change."""
    lines = get_diff_for_mutant(mutant, path=source).splitlines()[2:]
    return tuple(
        " ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+"
    )


def main() -> None:
    for kept in sorted(Path("mutants/pipeline").rglob("*.py.meta")):
        source = kept.relative_to("mutants").with_suffix("")
        codes = json.loads(kept.read_text())["exit_code_by_key"]
        shown = cased = unchecked = 0
        for mutant, code in codes.items():
            if code in NOTICED:
                continue
            if code is None:
                unchecked += 1
                continue
            before, after = change_of(mutant, source)
            if before.lower() == after.lower() and _SQL.search(before):
                cased += 1
                continue
            shown += 1
            print(f"{mutant}  (exit code {code})\n  - {before}\n  + {after}")
        print(
            f"{source}: {len(codes)} mutants, {shown} survived, {cased} only in SQL's case,"
            f" {unchecked} not run"
        )


if __name__ == "__main__":
    main()
