"""The addresses under `notify:`: the runner posts the end of a run to them, and never the API key.

A job file may come from another person. It must not read variables of this environment, nor reach
the services of this machine, which often trust every local caller. So only the environment can
allow these two, not the job file: `ALLOWED` lists variables, and `LOCAL` allows local addresses.

This module sends nothing: `check` and `schedule` need the addresses, and no HTTP.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pipeline.core.errors import Refused
from pipeline.job.spec import JobSpec
from pipeline.notify.metrics import PROMETHEUS_START
from pipeline.policy.masking import Mask
from pipeline.system.addresses import is_local, is_loopback, split_address
from pipeline.system.opening import open_file

PREFIX = "PIPELINE_NOTIFY_"
"""A variable whose name begins like this may be used in an address."""
ALLOWED = f"{PREFIX}VARIABLES"
"""Lists further variables that may be used, separated by commas."""
LOCAL = f"{PREFIX}LOCAL"
"""Is 1 if an address may be one of this machine."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to POST to. The address may be a secret, so messages show `shown` instead."""

    shown: str
    url: str = field(repr=False)
    may_be_local: bool = False

    def below(self, *steps: str) -> Endpoint:
        """Returns the address with `steps` added to its path. Its query stays."""
        parts = urlsplit(self.url)
        path = "/".join((parts.path.rstrip("/"), *steps))
        return replace(self, url=urlunsplit(parts._replace(path=path)))


def find_endpoint(
    text: str, where: str, environment: Mapping[str, str] = os.environ, key: str | None = None
) -> Endpoint:
    """Returns the address in `text`, with each ``${NAME}`` taken from the environment.

    `where` begins each message. `key` is the API key.

    Raises:
        Refused: for a variable that is not set or not allowed, for an address that contains the
            key, for one that is neither https nor this machine, and for a local one that the
            environment does not allow.
    """
    url = _VARIABLE.sub(lambda found: _value(found[1], where, environment), text).strip()
    try:
        parts = split_address(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise Refused(f"{where} is not a valid address. Write an https:// address.") from None
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        raise Refused(f"{where} is not an https:// address. Write it in full.")
    if parts.username or parts.password or parts.fragment:
        raise Refused(
            f"{where} must not contain a user name, a password or a fragment (#…). Remove that."
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise Refused(
            f"{where} must begin with https://. Only addresses of this machine (127.0.0.1) may "
            "begin with http://."
        )
    if key is not None and Mask([key]).text(url) != url:
        raise Refused(
            f"{where} contains the API key, which the runner sends to the API only. Remove the key "
            "from the address."
        )
    may_be_local = environment.get(LOCAL, "").strip() == "1"
    if is_local(host) and not may_be_local:
        raise Refused(
            f"{where} is an address of this machine ({host}), where services may trust every local "
            f"caller. A job file alone cannot allow it. To allow it, set {LOCAL}=1 in the "
            "environment."
        )
    return Endpoint(f"{parts.scheme}://{host}/…", url, may_be_local)


def told_endpoints(
    spec: JobSpec, key: str | None = None, environment: Mapping[str, str] = os.environ
) -> tuple[Endpoint | None, Endpoint | None]:
    """Returns (healthcheck, webhook) of the spec's `notify:`, None for each that is missing.

    Raises:
        Refused: when an address cannot be used.
    """
    if spec.notify is None:
        return None, None
    told = {"healthcheck": spec.notify.healthcheck, "webhook": spec.notify.webhook}
    healthcheck, webhook = (
        text and find_endpoint(text, f"{spec.at(f'notify.{name}')}: `{name}`", environment, key)
        for name, text in told.items()
    )
    return healthcheck or None, webhook or None


def needed_variables(
    spec: JobSpec, environment: Mapping[str, str] = os.environ
) -> dict[str, str | None]:
    """Returns the variables that a run needs for the addresses of `spec`, for a scheduler.

    The text of a variable is None, because it may be a secret. Only a permission has its text. A
    permission is passed on if `environment` gives it: the job file alone gives none.

    Raises:
        Refused: for a variable that is not allowed, and, if all variables are set, for an address
            that cannot be used.
    """
    told = spec.notify
    texts = [text for text in (told.healthcheck, told.webhook) if text] if told else []
    names = dict.fromkeys(_VARIABLE.findall("\n".join(texts)))
    for name in names:
        _check_allowed(name, f"{spec.at('notify')}: `notify`", environment)
    if all(environment.get(name, "").strip() for name in names):
        told_endpoints(spec, None, environment)
    permissions = {}
    others = [name for name in names if not name.startswith(PREFIX)]
    if others:
        permissions[ALLOWED] = ",".join(others)
    if texts and environment.get(LOCAL, "").strip() == "1":
        permissions[LOCAL] = "1"
    return names | permissions


def own_textfile(spec: JobSpec) -> Path | None:
    """Returns the spec's `textfile`, None if it has none. It may only replace an earlier one.

    A job file may come from another person, and may name any file of this user.

    Raises:
        Refused: for a file with other content.
    """
    path = spec.notify.textfile if spec.notify else None
    if path is None or not os.path.lexists(path):
        return path
    start = PROMETHEUS_START.encode()
    try:
        with open_file(path) as file:
            ours = file.read(len(start)) in (b"", start)
    except OSError:
        ours = False
    if not ours:
        raise Refused(
            f"{spec.at('notify.textfile')}: {path} is not a metrics file of an earlier run, and "
            "this run would replace it. Name another file, or delete that one."
        )
    return path


def _check_allowed(name: str, where: str, environment: Mapping[str, str]) -> None:
    allowed = [one.strip() for one in environment.get(ALLOWED, "").split(",")]
    if not name.startswith(PREFIX) and name not in allowed:
        raise Refused(
            f"{where}: the environment does not allow {name} in an address. Rename the variable to "
            f"{PREFIX}{name}, or set {ALLOWED}={','.join(filter(None, (*allowed, name)))}."
        )


def _value(name: str, where: str, environment: Mapping[str, str]) -> str:
    _check_allowed(name, where, environment)
    value = environment.get(name, "")
    if not value.strip():
        raise Refused(
            f"{where}: the environment variable {name} is not set. Set it, or remove this line "
            "from the job file."
        )
    return value.strip()


@dataclass(frozen=True, slots=True)
class Collector:
    """The address for one signal. It may contain a secret, so messages show `shown` instead."""

    shown: str
    url: str = field(repr=False)
