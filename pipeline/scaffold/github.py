"""A GitHub Actions workflow. Its machines forget everything, so the ledger lives on a branch."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from pipeline.core.errors import NothingWritten
from pipeline.scaffold.night import Night, clock_time
from pipeline.system.paths import resolved

# A hosted job is ended by force after 360 minutes. What is left of them is for the install, the
# drain and for keeping the ledger.
_MOST_MINUTES, _AROUND_MINUTES = 360, 20

_WORKFLOW = """\
# .github/workflows/{unit}.yml
#
# Before the first night:
#   1. This repository must be private: the run folder, with every answer, is kept on the branch
#      {branch}. Forks must not run it.
#   2. Settings > Secrets and variables > Actions: a secret AITUTOR_API_KEY.
#   3. Commit {spec} and its sheet. It is run from the default branch.
#   4. Actions > {unit} > Run workflow, with `first_run` ticked. Nights before that refuse to start.
#
# Why a branch: without the ledger of the last night every row would be paid again. Caches are
# evicted, artifacts expire, and neither says so: an empty cache looks like a first night. A branch
# stays, and a push that is not on top of the last one fails.
#
# Why UNDER_WAY: it is pushed before anything is sent, and taken away by the push that brings the
# ledger back. A machine that is lost in between leaves it there, and the next night refuses to
# start, as nobody knows what was sent and paid. Then look whether the lost run has an artifact
# `{unit}-ledger`. If so, put its content into `run/` on the branch {branch}; then, or
# if you know that nothing was sent, delete UNDER_WAY there. `max_paid_per_run:` in the spec is the
# most that one lost night can cost.
#
# GitHub takes no file over 100 MB: enough for the ledger of some 100,000 rows. Larger jobs need a
# machine of their own (--as systemd).
name: {unit}

on:
  schedule:
    # {at} on the machine that printed this. GitHub counts in UTC, knows no summer time and starts
    # some minutes to an hour late.
    - cron: "{minute} {hour} * * *"
  workflow_dispatch:
    inputs:
      first_run:
        description: There is no earlier ledger; begin one
        type: boolean
        default: false

permissions:
  contents: write

# Two runs one after the other, never at once, and none is cancelled: its answers are paid for.
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
      # By the hashes of their commits: a tag can be moved to other code.
      - uses: {checkout}
      - uses: {setup_python}
        with:
          python-version: "3.12"

      - name: Install
        run: make .venv/.ready

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
{key}        run: |
{send}

      - name: Keep the ledger
        id: keep
        if: always() && steps.begin.outcome == 'success'
        run: |
{keep}

      # Only a second copy, for the night whose push fails.
      - name: A copy of the ledger
        if: always() && steps.begin.outcome == 'success' && steps.keep.outcome != 'success'
        uses: {upload_artifact}
        with:
          name: {unit}-ledger
          path: state/run
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

_FETCH = """\
set -eu
git config user.name pipeline
git config user.email pipeline@users.noreply.github.com
there=0
git ls-remote --exit-code --heads origin "refs/heads/$STATE" || there=$?
if [ "$there" = 0 ]; then
  git fetch --no-tags --depth=1 origin "refs/heads/$STATE"
  git worktree add --detach state FETCH_HEAD
elif [ "$there" != 2 ]; then
  echo "::error::The branch $STATE cannot be looked for. Nothing was sent."
  exit 1
elif [ "$FIRST_RUN" = true ]; then
  git worktree add --detach --no-checkout state
  git -C state switch --orphan "$STATE"
else
  echo "::error::The ledger's branch $STATE is gone, or this is the first night: tick first_run."
  echo "Nothing was sent. Without its ledger a run would pay for every row again: bring it back."
  exit 1
fi
if [ -e state/UNDER_WAY ]; then
  echo "::error::The last night never came back. Nothing was sent: see this workflow's file."
  cat state/UNDER_WAY
  exit 1
fi"""

_BEGIN = """\
set -eu
echo "run ${GITHUB_RUN_ID:-?}, begun $(date -u +%FT%TZ)" >state/UNDER_WAY
git -C state add --force UNDER_WAY
git -C state commit --quiet --message "A night begins"
# No force: if another run was faster, this one ends here, before anything is sent.
git -C state push origin "HEAD:refs/heads/$STATE\""""

_SEND = """\
mkdir -p state/run
code=0
# TERM: no more rows are sent and answers that are paid for are waited for. It is also what ends a
# night that GitHub began so late that --until would mean the next day.
timeout --preserve-status --signal=TERM {minutes}m \\
  {command} || code=$?
echo "code=$code" >>"$GITHUB_OUTPUT\""""

_KEEP = """\
set -eu
git -C state rm --quiet --force UNDER_WAY
git -C state add --all --force .
git -C state commit --quiet --message "A night is over"
for wait in 1 5 15 30 60 0; do
  git -C state push origin "HEAD:refs/heads/$STATE" && exit 0
  sleep "$wait"
done
echo "::error::The ledger could not be kept: download the artifact of this run."
exit 1"""

_END = """\
case "$CODE" in
  0) ;;
  {calm}) echo "::notice::Ended early ($CODE): the next night goes on." ;;
  3) echo "::error::Some rows failed (3): see pipeline report."; exit 3 ;;
  5) echo "::error::Rows of unknown outcome need a decision (5)."; exit 5 ;;
  *) echo "::error::Exit code ${{CODE:-none}}: see the log of the step Send."; exit 1 ;;
esac"""


def github_workflow(night: Night, today: datetime | None = None) -> tuple[str, str]:
    """(path in the repository, text) of a workflow. Times of day are turned to UTC as of `today`.

    Raises:
        Refused: for a job that is in no git repository, or whose sheet is outside of it.
    """
    top = _repository(night.spec)
    if not resolved(night.sheet).is_relative_to(resolved(top)):
        raise NothingWritten(
            f"{resolved(night.sheet)}: the sheet is outside of the repository {top}, and GitHub "
            "has only what is in it."
        )
    today = (today or datetime.now()).astimezone()
    at, until = _utc(night.at, today), None if night.until is None else _utc(night.until, today)
    unit, branch = f"pipeline-{night.name}", f"pipeline-state-{night.name}"
    minutes = _minutes(night, at, until)
    spec = str(night.spec.relative_to(top))
    key = "          AITUTOR_API_KEY: ${{ secrets.AITUTOR_API_KEY }}\n"
    text = _WORKFLOW.format(
        **_ACTIONS,
        unit=unit,
        branch=branch,
        spec=spec.replace("\n", " "),
        at=clock_time(night.at),
        minute=at.minute,
        hour=at.hour,
        timeout=min(minutes + night.stop_s // 60 + _AROUND_MINUTES, _MOST_MINUTES),
        key="          NO_KEY: a rehearsal\n" if night.sandbox else key,
        fetch=_indented(_FETCH),
        begin=_indented(_BEGIN),
        send=_indented(_SEND.format(minutes=minutes, command=_command(night, spec, until))),
        keep=_indented(_KEEP),
        end=_indented(_END.format(calm="75|143" if until else "143")),
    )
    return f".github/workflows/{unit}.yml", text


def _command(night: Night, spec: str, until: time | None) -> str:
    """The words of a night, for a checkout of the repository."""
    words = [".venv/bin/pipeline", "run", spec, "--output", "state/run", "--fail-on", "new"]
    words += night.words[2:] if night.words[:1] == ("--output",) else night.words
    words += [] if until is None else ["--until", clock_time(until)]
    if any("${{" in word for word in words):
        raise NothingWritten(f"{spec}: GitHub would fill in `${{{{`.")
    return shlex.join(words)


def _minutes(night: Night, at: time, until: time | None) -> int:
    """How long a night may send: GitHub may start it late, and --until alone would then mean the
    next day's."""
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
    raise NothingWritten(f"{spec}: in no git repository, and GitHub runs only what is in one.")


def _indented(script: str) -> str:
    return "\n".join(f"          {line}".rstrip() for line in script.splitlines())
