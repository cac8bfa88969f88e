"""Finds the API's address and the key. Neither is ever stored in a job file or a run folder."""

from __future__ import annotations

import io
import os
import select
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import Refused
from pipeline.system.addresses import is_host, is_loopback, split_address
from pipeline.system.paths import resolved

DEFAULT_BASE_URL = "https://aitutor-api.vercel.app"
KEY_VARIABLE = "AITUTOR_API_KEY"
URL_VARIABLE = "AITUTOR_BASE_URL"
CREDENTIAL = "aitutor-api-key"
_CREDENTIALS = "CREDENTIALS_DIRECTORY"
SECRETS = (KEY_VARIABLE, _CREDENTIALS)
"""The environment variables that contain the key or lead to it."""
VARIABLES = (
    *("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
)
"""The variables that name a proxy or files for TLS."""
_MAX_KEY_BYTES = 100_000  # the file may be a device that never ends
_MAX_WAIT_S = 10.0  # for a pipe; a signal also waits that long
_FORM = f"Write it like {DEFAULT_BASE_URL}."


@dataclass(frozen=True, slots=True)
class Access:
    """The address and the key for requests. The run folder is pinned to `host`, which includes the
    port and the path."""

    base_url: str
    key: str = field(repr=False)
    host: str


class RunKey:
    """The key of one run: from `file`, or else the environment, or else systemd's credentials.

    It is read once, at the first use, because a pipe delivers it only once.
    """

    def __init__(self, file: Path | None, environment: Mapping[str, str] = os.environ) -> None:
        self._file = file
        self._environment = environment
        self._found: str | Refused | None = None

    def needed(self) -> str:
        """Returns the key.

        Raises:
            Refused: if there is no usable key.
        """
        if self._found is None:
            try:
                self._found = _find_key(self._file, self._environment)
            except Refused as error:
                self._found = error
        if isinstance(self._found, Refused):
            raise self._found
        return self._found

    def in_use(self) -> str | None:
        """Returns the key that a run would send, or None if there is no usable one."""
        try:
            return self.needed()
        except Refused:
            return None


def find_access(
    base_url: str | None,
    key: RunKey | Path | None,
    environment: Mapping[str, str] = os.environ,
) -> Access:
    """Returns the address and the key for requests. `key` is a run's key, or the path of its file.

    Raises:
        Refused: if there is no usable key, if the key would be sent unencrypted to another
            machine, or if the environment names a proxy or TLS files that cannot be used.
    """
    url, where = _find_url(base_url, environment)
    if not isinstance(key, RunKey):
        key = RunKey(key, environment)
    access = Access(url.rstrip("/"), key.needed(), _host(url, where))
    _check_way(url)
    return access


def find_host(base_url: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Returns the host of the API, with its port and path.

    Raises:
        Refused: if the key must not be sent to it, or if the environment names a proxy or TLS files
            that cannot be used.
    """
    url, where = _find_url(base_url, environment)
    host = _host(url, where)
    _check_way(url)
    return host


def _check_way(url: str) -> None:
    # Only commands that send, or say what they would send, need TLS and the standard library's
    # HTTP. The others load this module for its names.
    from pipeline.system.network import check_way

    check_way(url)


def _find_url(base_url: str | None, environment: Mapping[str, str]) -> tuple[str, str]:
    """Returns the address, and the option or variable that it comes from."""
    if base_url is not None:  # "" comes from an unset variable in a script: do not use the platform
        return base_url, "--base-url"
    return environment.get(URL_VARIABLE) or DEFAULT_BASE_URL, URL_VARIABLE


def _find_key(key_file: Path | None, environment: Mapping[str, str]) -> str:
    folder = environment.get(_CREDENTIALS)
    if key_file is not None:
        of_systemd = bool(folder) and resolved(key_file.parent) == resolved(Path(str(folder)))
        return _usable(_read(key_file, shared=of_systemd), f"The key in {key_file}")
    if environment.get(KEY_VARIABLE):
        return _usable(environment[KEY_VARIABLE], f"The key in {KEY_VARIABLE}")
    if folder and (Path(folder) / CREDENTIAL).is_file():
        file = Path(folder) / CREDENTIAL
        return _usable(_read(file, shared=True), f"The systemd credential {CREDENTIAL}")
    raise Refused(
        f"No API key was found. Set {KEY_VARIABLE}, or name a file that contains the key with "
        "--key-file. To rehearse without a key and at no cost, add --sandbox."
    )


def _read(path: Path, *, shared: bool) -> str:
    """Returns the text of a key file. `shared` allows other readers, as systemd sets its rights."""
    try:
        with open(path, "rb", buffering=0, opener=_without_waiting) as file:
            mode = os.fstat(file.fileno()).st_mode
            text = _read_soon(file).decode("utf-8-sig")
    except TimeoutError:
        raise Refused(
            f"{path}: no complete key came through this pipe within {_MAX_WAIT_S:.0f} s. Nothing "
            "was sent. Start the program that writes the key first, or write the key to a file "
            "that only you can read."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise Refused(
            f"{path}: the runner cannot read the key ({reason}). Give --key-file a text file that "
            "contains the key and nothing else."
        ) from None
    if mode & 0o077 and not shared:
        raise Refused(
            f"{path}: other users of this machine can read the key. Nothing was sent. Make the "
            f"file private with: {shlex.join(('chmod', '600', str(path)))}"
        )
    return text


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe at once. A plain `open` waits for the writer and reacts to no signal."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read_soon(file: io.FileIO) -> bytes:
    """Returns the content of `file`, or as much of it as a key can have.

    Raises:
        TimeoutError: if a pipe does not end in time.
    """
    poll = select.poll()
    poll.register(file, select.POLLIN)
    until = time.monotonic() + _MAX_WAIT_S
    content = b""
    while len(content) < _MAX_KEY_BYTES:
        if not poll.poll(max(until - time.monotonic(), 0) * 1000):
            raise TimeoutError
        piece = file.read(_MAX_KEY_BYTES - len(content))
        if piece == b"":
            break
        content += piece or b""  # None if another reader was first
    return content


def _usable(text: str, where: str) -> str:
    """Strips and checks a key. One that breaks the header would appear in a traceback."""
    key = text.strip()
    if not key:
        raise Refused(f"{where} is empty. Copy the key there.")
    if not all("!" <= character <= "~" for character in key):
        raise Refused(
            f"{where} contains a space, a line break or another character that no key can "
            "contain. Copy the key again."
        )
    return key


def _host(url: str, where: str) -> str:
    """Returns the host, port and path of `url`, which comes from `where`.

    The path counts because a gateway may serve several APIs on one host.
    """
    # The text before an @ may contain a password.
    shown = f"{where} {url.rpartition('@')[2]}" if url else where
    try:
        parts = split_address(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Refused(f"{shown}: this is not an address. {_FORM}") from None
    if parts.scheme not in ("http", "https") or not host or not is_host(host):
        raise Refused(
            f"{shown}: this is not an https:// address (http:// works only for this machine). "
            f"{_FORM}"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise Refused(
            f"{where} with the host {host}: remove the user, the query (?) and the fragment (#) "
            "from the address."
        )
    path = parts.path.rstrip("/")
    if path.endswith("/api/v1") or "/api/v1/" in parts.path:
        raise Refused(f"{shown}: remove /api/v1 from the address. The runner adds it.")
    if parts.scheme == "http" and not is_loopback(host):
        raise Refused(
            f"{shown}: the runner would send your key unencrypted. Use https://. Only this machine "
            "(127.0.0.1) can have an http:// address."
        )
    return f"{host}:{port}{path}" if port else f"{host}{path}"
