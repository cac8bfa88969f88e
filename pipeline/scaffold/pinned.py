"""The release that a machine without the runner installs: a wheel, and versions of what it needs.

No release is on the package index yet. Until then anybody can publish a package under its name, and
that code would get the key. So the wheel itself has to be in the user's repository.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pipeline.core.errors import NothingWritten
from pipeline.core.version import __version__

NAME = "paidrows"
WHEEL = f"{NAME}-{__version__}-py3-none-any.whl"
"""The file name of this release."""
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)[^;]*(;.*extra == ['\"](?P<extra>[\w-]+))?")


def find_wheel(*folders: Path) -> Path:
    """Returns the wheel of this release in the first of `folders` that has it.

    Raises:
        Refused: if none has it.
    """
    for folder in folders:
        if (folder / WHEEL).is_file():
            return folder / WHEEL
    places = " or ".join(dict.fromkeys(map(str, folders)))
    raise NothingWritten(
        f"{WHEEL}: this file is missing in {places}. GitHub's machines install the runner from it, "
        "because no release is on the package index yet. Copy the wheel that you installed there "
        "and commit it (`make dist` builds it in a clone of the runner)."
    )


def pinned_requirements(extras: Collection[str]) -> list[str]:
    """Returns each package that the runner needs here, as ``name==version``, by name."""
    versions: dict[str, str] = {}
    waiting = [NAME]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in versions:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # a requirement of other systems or Python versions
        versions[name] = found.version
        for line in found.requires or ():
            parsed = _REQUIREMENT.match(line)
            if parsed and (not parsed["extra"] or (name == NAME and parsed["extra"] in extras)):
                waiting.append(parsed["name"])
    versions.pop(NAME, None)
    return [f"{name}=={version}" for name, version in sorted(versions.items())]
