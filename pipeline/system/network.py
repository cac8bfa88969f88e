"""Reads the proxy and the files for TLS from the environment.

The runner refuses an unusable variable by its name, before it sends anything. It never shows the
value of a proxy's variable, because that may contain a password.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pipeline.core.errors import Refused
from pipeline.system.addresses import is_host, is_loopback, split_address

_KEY_LOG = "SSLKEYLOGFILE"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy: its address, and ``user:password`` for it, None if the proxy needs none."""

    url: str
    credentials: str | None = field(default=None, repr=False)


def check_way(url: str) -> None:
    """Checks that the proxy and TLS variables of the environment allow requests to `url`.

    Raises:
        Refused: if one of them cannot be used, with its name.
    """
    find_proxy(url)
    _check_key_log()
    if urlsplit(url).scheme == "https":
        _check_certificates()


def find_proxy(url: str) -> Proxy | None:
    """Returns the proxy that the environment names for `url`, by the rules of other tools.

    Raises:
        Refused: if the proxy cannot be used.
    """
    parts = urlsplit(url)
    proxies = getproxies()
    kind = parts.scheme if proxies.get(parts.scheme) else "all"
    if is_loopback(parts.hostname or "") or not proxies.get(kind) or proxy_bypass(parts.netloc):
        return None
    return _proxy(proxies[kind].strip(), _variable(f"{kind}_proxy", proxies[kind]))


def _proxy(text: str, where: str) -> Proxy:
    try:
        parts = split_address(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _unusable(where) from None
    beyond = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not is_host(host) or port == 0 or beyond:
        raise _unusable(where)
    user, at, place = parts.netloc.rpartition("@")
    return Proxy(f"{parts.scheme}://{place}", unquote(user) if at else None)


def _unusable(where: str) -> Refused:
    return Refused(
        f"{where}: the runner cannot use this proxy. Write it like http://127.0.0.1:3128 or "
        "127.0.0.1:3128 (http or https, not socks), or remove it."
    )


def _variable(name: str, value: str) -> str:
    """Returns the name of the variable with this `value`, in the case that the user wrote."""
    found = [one for one, text in os.environ.items() if one.lower() == name and text == value]
    return found[0] if found else "The proxy in the system's settings"


def _check_key_log() -> None:
    path = os.environ.get(_KEY_LOG)
    if path:
        with _refusing(_KEY_LOG, path, "Set it to a file that the runner can write"):
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).keylog_filename = path


def _check_certificates() -> None:
    """Checks them as httpx uses them: the folder counts only if no file is named."""
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file:
        with _refusing("SSL_CERT_FILE", file, "Set it to a file of certificates (PEM)"):
            ssl.create_default_context(cafile=file)
    elif folders and not any(map(os.path.isdir, folders.split(os.pathsep))):
        with _refusing("SSL_CERT_DIR", folders, "Set it to a folder of certificates"):
            os.scandir(folders).close()


@contextlib.contextmanager
def _refusing(name: str, path: str, advice: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (
            "there is no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
        )
        raise Refused(
            f"{name}: the runner cannot use {path} ({reason}). {advice}, or unset the variable."
        ) from None


@contextlib.contextmanager
def without_key_log() -> Iterator[None]:
    """Unsets SSLKEYLOGFILE during the block, for the import of a library that creates TLS contexts.

    These contexts are never used. But with a key log that cannot be written, creating them would
    end the runner, even in a rehearsal.
    """
    path = os.environ.pop(_KEY_LOG, None)
    try:
        yield
    finally:
        if path is not None:
            os.environ[_KEY_LOG] = path
