"""What the environment says of the way to the API: the proxy, and the files for TLS.

A variable that cannot be used is refused by its name before anything is sent. What a proxy's
variable holds is never shown, as it may hold a password.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pipeline.core.errors import Refused

_IN_BRACKETS = re.compile(r"\[[0-9A-Fa-f:.]+\](:[0-9]*)?")
_HOST = re.compile(r"[\w.:-]+")
_KEY_LOG = "SSLKEYLOGFILE"


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where to ask for a tunnel, and as whom: ``user:password``, None where nobody is asked."""

    url: str
    credentials: str | None = field(default=None, repr=False)


def check_way(url: str) -> None:
    """Raises where the environment keeps requests from `url`.

    Raises:
        Refused: with the name of the variable.
    """
    find_proxy(url)
    _check_key_log()
    if urlsplit(url).scheme == "https":
        _check_certificates()


def find_proxy(url: str) -> Proxy | None:
    """The proxy that the environment names for `url`, as other tools understand it.

    Raises:
        Refused: for one that cannot be used.
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
    """The variable that holds `value`, as the user wrote its name."""
    found = [one for one, held in os.environ.items() if one.lower() == name and held == value]
    return found[0] if found else "The proxy in the system's settings"


def _check_key_log() -> None:
    path = os.environ.get(_KEY_LOG)
    if path:
        with _refusing(_KEY_LOG, path, "Set it to a file that the runner can write"):
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).keylog_filename = path


def _check_certificates() -> None:
    """As httpx takes them: the folder only where no file is named."""
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


def split_address(url: str) -> SplitResult:
    """The parts of an address, as every library reads them that may open it.

    Raises:
        ValueError: for what is no address, and for an IPv6 address with a zone or with anything
            around its brackets: `urlsplit` takes ``http://example.org[::1]`` for this machine.
    """
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    if ("[" in place or "]" in place) and not _IN_BRACKETS.fullmatch(place):
        raise ValueError("not an IPv6 address")
    return parts


def is_host(text: str) -> bool:
    """Whether `text` can name a host: numbers and dots only where they are an address."""
    if text.replace(".", "").isdecimal():
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
    return _HOST.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine for certain, whatever a name server says."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_local(host: str) -> bool:
    """Whether `host`, a name or an address, is surely this machine or its own link: loopback,
    link-local and unspecified addresses, also as IPv6 writes those of IPv4."""
    if host.rstrip(".").lower().endswith("localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_link_local or address.is_unspecified


def domain_of(url: str) -> str:
    """The host of an address, in small letters and without `www.`; empty where there is none."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return ""
    return host.removeprefix("www.")


@contextlib.contextmanager
def without_key_log() -> Iterator[None]:
    """For the import of a library that makes TLS contexts of its own: nobody uses them, and a
    file for their keys that cannot be written would end the runner, rehearsals too."""
    path = os.environ.pop(_KEY_LOG, None)
    try:
        yield
    finally:
        if path is not None:
            os.environ[_KEY_LOG] = path
