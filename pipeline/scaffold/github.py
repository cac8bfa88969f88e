"""Writes a GitHub Actions workflow. It keeps the ledger on a branch: its machines keep nothing."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from pipeline.core.errors import NothingWritten
from pipeline.scaffold.night import OTEL, Night, clock_time
from pipeline.scaffold.pinned import find_wheel, pinned_requirements
from pipeline.system.files import sha256_of
from pipeline.system.paths import resolved

# GitHub kills a hosted job after 360 minutes. The install, the drain and storing the ledger need
# some of them.
_MOST_MINUTES, _AROUND_MINUTES = 360, 20
_PLACE = ".pipeline"
"""The folder in the checkout for the installed runner and for the branch of the ledger."""

_WORKFLOW = """\
# .github/workflows/{unit}.yml
{printed_by}
#
# Before the first night:
#   1. Make this repository private. The run folder, with every answer, is stored on the branch
#      {branch}. Do not run this workflow in a fork.
#   2. Under Settings > Secrets and variables > Actions, add these
#      secrets: {secrets}
#   3. Commit {spec}, its sheet and {wheel}
#      to the default branch, from which GitHub runs them.
#   4. Under Actions > {unit} > Run workflow, tick `first_run` and start it. Before that, every
#      night refuses to start.
#
# Why a branch: without the ledger of the last night, the runner would pay for every row again.
# GitHub deletes caches and artifacts without notice, and an empty cache looks like a first night.
# A branch stays, and GitHub rejects a push that is not on top of the last one.
#
# Why UNDER_WAY: each night pushes this file before it sends anything, and removes it with the push
# that stores the ledger. If the machine is lost in between, the file stays and the next night
# refuses to start, because nobody knows which rows were sent and paid. Then see if the lost run has
# an artifact `{unit}-ledger`. If it has, put its content into `run/` on the branch
# {branch} and delete UNDER_WAY there. If you know that nothing was sent, only delete
# UNDER_WAY. `max_paid_per_run:` in the job file limits what one lost night can cost.
#
# GitHub takes no file over 100 MB, which is enough for the ledger of about 100,000 rows. Run larger
# jobs on your own machine (--as systemd).
name: {unit}

on:
  schedule:
    # {at} on the machine that printed this file. GitHub uses UTC, has no summer time, and starts
    # between a few minutes and an hour late.
    - cron: "{minute} {hour} * * *"
  workflow_dispatch:
    inputs:
      first_run:
        description: There is no earlier ledger. Create one.
        type: boolean
        default: false

permissions:
  contents: write

# GitHub starts two runs one after the other, never at the same time, and cancels none: their
# answers are paid for.
concurrency:
  group: {unit}
  cancel-in-progress: false

jobs:
  run:
    runs-on: ubuntu-latest
    timeout-minutes: {timeout}
    env:
      STATE: {branch}
      FIRST_RUN: ${{{{ inputs.first_run || false }}}}
    steps:
      # Actions are named by the hash of a commit, because a tag can be moved to other code.
      - uses: {checkout}
      - uses: {setup_python}
        with:
          python-version: "{python}"

      # The wheel is checked, and its requirements have the versions of the machine that printed
      # this file. The package is not on the package index yet: under its name there, anybody could
      # publish code that gets the key.
      - name: Install
        run: |
{install}

      - name: Bring the ledger of the last night
        run: |
{fetch}

      - name: Say that a night is under way
        id: begin
        run: |
{begin}

      - name: Send
        id: send
        env:
{env}
        run: |
{send}

      - name: Keep the ledger
        id: keep
        if: always() && steps.begin.outcome == 'success'
        run: |
{keep}

      # A second copy of the ledger, only if the push above fails.
      - name: A copy of the ledger
        if: always() && steps.begin.outcome == 'success' && steps.keep.outcome != 'success'
        uses: {upload_artifact}
        with:
          name: {unit}-ledger
          path: .pipeline/state/run
          include-hidden-files: true
          retention-days: 90

      - name: How it ended
        if: always() && steps.begin.outcome == 'success'
        env:
          CODE: ${{{{ steps.send.outputs.code }}}}
        run: |
{end}
"""

_ACTIONS = {
    "checkout": "actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2",
    "setup_python": "actions/setup-python@a26af69be951a213d495a4c3e4e4022e16d87065 # v5.6.0",
    "upload_artifact": "actions/upload-artifact@ea165f8d65b6e75b540449e92b4886f43607fa02 # v4.6.2",
}

_INSTALL = """\
set -eu
printf '%s  %s\\n' {digest} {wheel} | sha256sum --check --strict
python -m venv .pipeline/venv
cat >.pipeline/versions.txt <<'END'
{versions}
END
.pipeline/venv/bin/python -m pip install --quiet --only-binary :all: \\
  --constraint .pipeline/versions.txt {requirement}
.pipeline/venv/bin/python -m pip check"""

_FETCH = """\
set -eu
git config user.name pipeline
git config user.email pipeline@users.noreply.github.com
there=0
git ls-remote --exit-code --heads origin "refs/heads/$STATE" || there=$?
if [ "$there" = 0 ]; then
  git fetch --no-tags --depth=1 origin "refs/heads/$STATE"
  git worktree add --detach .pipeline/state FETCH_HEAD
elif [ "$there" != 2 ]; then
  echo "::error::The branch $STATE cannot be read from GitHub. Nothing was sent."
  exit 1
elif [ "$FIRST_RUN" = true ]; then
  git worktree add --detach --no-checkout .pipeline/state
  git -C .pipeline/state switch --orphan "$STATE"
else
  echo "::error::There is no branch $STATE with the ledger. Nothing was sent."
  echo "For the first night, start this workflow by hand and tick first_run. Otherwise restore the"
  echo "branch: without its ledger, a run would pay for every row again."
  exit 1
fi
if [ -e .pipeline/state/UNDER_WAY ]; then
  echo "::error::The last night did not store its ledger. Nothing was sent."
  echo "The comment on UNDER_WAY in this workflow's file says what to do."
  cat .pipeline/state/UNDER_WAY
  exit 1
fi"""

_BEGIN = """\
set -eu
echo "run ${GITHUB_RUN_ID:-?}, begun $(date -u +%FT%TZ)" >.pipeline/state/UNDER_WAY
git -C .pipeline/state add --force UNDER_WAY
git -C .pipeline/state commit --quiet --message "A night begins"
# Without --force: if another run was faster, this one fails here, before it sends anything.
git -C .pipeline/state push origin "HEAD:refs/heads/$STATE\""""

_SEND = """\
mkdir -p .pipeline/state/run
code=0
# After TERM, the run sends no more rows and waits for the answers to requests in flight. This also
# ends a night that GitHub starts so late that --until means the next day.
timeout --preserve-status --signal=TERM {minutes}m \\
  {command} || code=$?
echo "code=$code" >>"$GITHUB_OUTPUT\""""

_KEEP = """\
set -eu
git -C .pipeline/state rm --quiet --force UNDER_WAY
git -C .pipeline/state add --all --force .
git -C .pipeline/state commit --quiet --message "A night is over"
for wait in 1 5 15 30 60 0; do
  git -C .pipeline/state push origin "HEAD:refs/heads/$STATE" && exit 0
  sleep "$wait"
done
echo "::error::The ledger is not stored. Download the artifact of this run: UNDER_WAY explains it."
exit 1"""

_END = """\
case "$CODE" in
  0) ;;
  {calm}) echo "::notice::Ended early ($CODE). The next night continues." ;;
  3) echo "::error::Some rows failed (3). See pipeline report."; exit 3 ;;
  4) echo "::error::Stopped (4): the key, the credits, max_paid or max_paid_per_run."; exit 4 ;;
  5) echo "::error::Some rows are ambiguous (5). Decide what to do: see pipeline report."; exit 5 ;;
  *) echo "::error::Exit code ${{CODE:-none}}. See the log of the step Send."; exit 1 ;;
esac"""


def github_workflow(night: Night, today: datetime | None = None) -> tuple[str, str]:
    """Returns the path in the repository and the text of a workflow.

    Times of day are converted to UTC with the time zone's offset of `today`.

    Raises:
        Refused: if the job file is in no git repository, if the sheet is outside the repository,
            or if the wheel of this release is not in it.
    """
    if night.folders[1:]:
        raise NothingWritten(
            "A GitHub workflow keeps one run folder, and this job has several stages. Use "
            "--as systemd or --as cron."
        )
    top = _repository(night.spec)
    if not resolved(night.sheet).is_relative_to(resolved(top)):
        raise NothingWritten(
            f"{resolved(night.sheet)}: the sheet is outside the repository {top}, so GitHub does "
            "not have it. Move it into the repository."
        )
    today = (today or datetime.now()).astimezone()
    at, until = _utc(night.at, today), None if night.until is None else _utc(night.until, today)
    unit, branch = f"pipeline-{night.name}", f"pipeline-state-{night.name}"
    minutes = _minutes(night, at, until)
    spec = str(night.spec.relative_to(top))
    wheel = str(find_wheel(night.spec.parent, top).relative_to(top))
    # A machine of GitHub needs no proxy.
    collector = [name for name in night.set_here if name.startswith(OTEL)]
    secrets = list(dict.fromkeys(["AITUTOR_API_KEY", *night.secrets, *collector]))
    env = [f"{name}: ${{{{ secrets.{name} }}}}" for name in secrets]
    env += [f"{name}: {json.dumps(text)}" for name, text in night.permissions.items()]
    text = _WORKFLOW.format(
        **_ACTIONS,
        unit=unit,
        branch=branch,
        spec=spec,
        printed_by=night.printed_by("github", spec),
        wheel=wheel,
        python=".".join(map(str, sys.version_info[:2])),
        install=_indented(_install(top / wheel, wheel, night.extras)),
        at=clock_time(night.at),
        minute=at.minute,
        hour=at.hour,
        timeout=min(minutes + night.stop_s // 60 + _AROUND_MINUTES, _MOST_MINUTES),
        secrets=", ".join(secrets),
        env=_indented("NO_KEY: a rehearsal" if night.sandbox else "\n".join(env)),
        fetch=_indented(_FETCH),
        begin=_indented(_BEGIN),
        send=_indented(_SEND.format(minutes=minutes, command=_command(night, spec, until))),
        keep=_indented(_KEEP),
        end=_indented(_END.format(calm="75|143" if until else "143")),
    )
    return f".github/workflows/{unit}.yml", text


def _install(path: Path, wheel: str, extras: tuple[str, ...]) -> str:
    """Returns the script that installs the wheel at `path`, in a checkout of the repository."""
    wanted = f"./{wheel}[{','.join(extras)}]" if extras else f"./{wheel}"
    return _INSTALL.format(
        digest=sha256_of(path, follow=True),
        wheel=shlex.quote(wheel),
        requirement=shlex.quote(wanted),
        versions="\n".join(pinned_requirements(extras)),
    )


def _command(night: Night, spec: str, until: time | None) -> str:
    """Returns the command of a night, for a checkout of the repository."""
    words = [f"{_PLACE}/venv/bin/pipeline", "run", spec, "--output", f"{_PLACE}/state/run"]
    words += ["--fail-on", "new"]
    words += night.words[2:] if night.words[:1] == ("--output",) else night.words
    words += [] if until is None else ["--until", clock_time(until)]
    if any("${{" in word for word in words):
        raise NothingWritten(
            f"{spec}: a path or option contains `${{{{`, which GitHub would replace. Rename it."
        )
    return shlex.join(words)


def _minutes(night: Night, at: time, until: time | None) -> int:
    """Returns how many minutes a night may send. --until alone is not enough: GitHub may start a
    night late, and --until then means a time on the next day."""
    most = _MOST_MINUTES - _AROUND_MINUTES - night.stop_s // 60
    if until is None:
        return most
    day = datetime(2000, 1, 1)
    length = (datetime.combine(day, until) - datetime.combine(day, at)) % timedelta(days=1)
    return max(min(int(length.total_seconds() // 60), most), 1)


def _utc(moment: time, today: datetime) -> time:
    return datetime.combine(today.date(), moment, today.tzinfo).astimezone(UTC).time()


def _repository(spec: Path) -> Path:
    for folder in spec.parents:
        if (folder / ".git").exists():
            return folder
    raise NothingWritten(
        f"{spec}: this job file is in no git repository, so GitHub cannot run it. Move it into "
        "one, or use --as systemd or --as cron."
    )


def _indented(script: str) -> str:
    return "\n".join(f"          {line}".rstrip() for line in script.splitlines())
