"""Splits and classifies internet addresses by their text alone."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

_IN_BRACKETS = re.compile(r"\[[0-9A-Fa-f:.]+\](:[0-9]*)?")
_HOST = re.compile(r"[\w.:-]+")


def split_address(url: str) -> SplitResult:
    """Splits an address. Refuses one that the libraries which open it could read differently.

    Raises:
        ValueError: if `url` is not an address, or has an IPv6 address with a zone or with other
            text around its brackets. `urlsplit` reads ``http://example.org[::1]`` as this machine.
    """
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    if ("[" in place or "]" in place) and not _IN_BRACKETS.fullmatch(place):
        raise ValueError("not an IPv6 address")
    return parts


def is_host(text: str) -> bool:
    """Whether `text` can be a host name. Digits and dots alone must be an IP address."""
    if text.replace(".", "").isdecimal():
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
    return _HOST.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether `host` is certainly this machine, without asking a name server."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_local(host: str) -> bool:
    """Whether `host`, a name or an address, is certainly this machine or on its own network link.

    These are loopback, link-local and unspecified addresses, also IPv4 ones in IPv6 notation.
    """
    if host.rstrip(".").lower().endswith("localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_link_local or address.is_unspecified


def domain_of(url: str) -> str:
    """Returns the host of an address in lower case, without `www.`, or "" if there is none."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return ""
    return host.removeprefix("www.")
