"""What `init` wrote, and what to do next."""

from __future__ import annotations

import shlex

from pipeline.core.wording import counted
from pipeline.scaffold.job_spec import Written


def written_lines(written: Written) -> list[str]:
    """What is in the spec, which columns are not, and the next commands."""
    spec = shlex.quote(str(written.path))
    lines = [
        f"{written.path}: {counted(written.variables, 'variable')}, "
        f"{counted(written.rows, 'row')}. Compare the names with your workflow's template."
    ]
    if written.left_out:
        lines.append(
            "Left out, as comments (the runner's own columns, and empty ones): "
            f"{', '.join(written.left_out)}."
        )
    return [
        *lines,
        f"What would be sent, free:     pipeline check {spec}",
        f"Rehearse on this machine:     pipeline run {spec} --sandbox --limit 5",
    ]
