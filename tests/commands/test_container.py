"""The Containerfile: its lines, and its command on a read-only root with and without a volume.

No container engine is needed. `make image` builds the image where there is one.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.job.run_folder import VOLUMES_ONLY
from pipeline.system.mounts import lost_with_container
from tests.conftest import TOP, Job, SandboxProcess

TEXT = (TOP / "Containerfile").read_text(encoding="utf-8")
INSTRUCTIONS = [
    (name, " ".join(words.split()))
    for name, words in re.findall(
        r"^([A-Z]+) ((?:.*\\\n)*.*)$",
        re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE),
        re.MULTILINE,
    )
]
LAST = INSTRUCTIONS[max(n for n, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM") :]


def of(name: str) -> list[str]:
    """Returns the values of an instruction in the image itself, after the last FROM."""
    return [words.replace("\\ ", "") for found, words in LAST if found == name]


def image_environment() -> dict[str, str]:
    [line] = of("ENV")
    return dict(word.split("=", 1) for word in shlex.split(line))


def test_each_line_of_the_containerfile_is_an_instruction_that_builders_know():
    """Nothing else is left between them, and each script is one that the shell can read."""
    known = {"FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "ENTRYPOINT"}
    assert {name for name, _ in INSTRUCTIONS} == known
    lines = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(one) for one in INSTRUCTIONS)
    for name, words in INSTRUCTIONS:
        if name == "RUN":
            script = words.replace("\\ ", "")
            subprocess.run(["sh", "-n", "-c", script], check=True)


def test_the_image_runs_as_a_user_without_rights_and_declares_no_volume():
    """A declared volume would get no name, and `--rm` would delete it with the ledger."""
    assert of("USER") == ["10001:10001"]
    assert of("VOLUME") == []
    assert of("ENTRYPOINT") == ['["pipeline"]']
    [folder] = of("WORKDIR")
    assert f"--owner 10001 --group 10001 {folder}" in of("RUN")[0]
    assert image_environment()[VOLUMES_ONLY] == "1"
    assert image_environment()["XDG_CACHE_HOME"].startswith(folder)


def test_the_image_gets_the_lock_and_the_wheel_of_this_checkout_and_nothing_else():
    """The folder that is sent to the builder has no key, no runs and no environment."""
    [copied] = [words for name, words in INSTRUCTIONS if name == "COPY" and "--from" not in words]
    assert copied == "requirements.lock dist/paidrows-*.whl /build/"
    ignored = (TOP / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1:] == ["*", "!requirements.lock", "!dist/*.whl"]
    assert (TOP / "requirements.lock").is_file()


MOUNTS = """
set -e
if [ "$2" = volume ]; then
  mount --bind "$1" "$1"
  mount -t tmpfs none /var/tmp
  mount -o remount,bind,ro /
fi
shift 2
exec "$@"
"""


def contained(job: Job, kind: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with the variables of the image, in a namespace with its own mounts. With the
    `kind` volume, the root is read-only and the folder of the job is a mount. Otherwise that folder
    is part of the root."""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNTS, "sh"]
    variables = image_environment() | {
        "TMPDIR": "/var/tmp",
        "XDG_CACHE_HOME": str(job.folder / ".cache"),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    if (
        not shutil.which("unshare")
        or subprocess.run(
            [*command, str(job.folder), kind, "true"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("needs mount namespaces")
    return job.shell([*command, str(job.folder), kind, *words], env=variables)


def test_on_a_volume_a_run_pays_once_and_the_root_may_be_read_only(
    sandbox: SandboxProcess, make_job
):
    """The next run finds the ledger."""
    job = make_job(sandbox.url, rows=[["a"], ["b"]])
    for _ in range(2):
        done = contained(job, "volume", *job.command("run"))
        assert done.returncode == 0, done.stderr
    assert list(sandbox.billed().values()) == [1, 1]


def test_without_a_volume_a_run_that_pays_is_refused_before_it_sends(
    sandbox: SandboxProcess, make_job
):
    """`check` says so too. A rehearsal costs nothing and is allowed."""
    job = make_job(sandbox.url, rows=[["a"]])
    if not lost_with_container(job.folder):
        pytest.skip("the folder of the tests is a mount of its own")
    for command in ("run", "check"):
        done = contained(job, "layer", *job.command(command))
        assert done.returncode == 2, done.stderr
        assert "would be lost with the container" in done.stderr
        assert "--volume jobs:/data" in done.stderr
    assert sandbox.received() == 0
    assert not job.output.exists()
    done = contained(job, "layer", *job.command("run"), "--sandbox")
    assert done.returncode == 0, done.stderr


def test_without_the_variable_of_the_image_no_folder_is_refused(sandbox: SandboxProcess, make_job):
    """A machine whose root is an overlay, or a developer in a container, keeps the folder."""
    job = make_job(sandbox.url, rows=[["a"]])
    job.run(expect=0)
    assert list(sandbox.billed().values()) == [1]
