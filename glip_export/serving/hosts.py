"""To which host names a server answers: a page whose own name was made to point here (DNS rebinding) says another.

Such a page is of the server's own site for the browser, so nothing but the Host header tells it. It can take any name
whose DNS its maker controls, but no IP address and no `localhost`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence

from glip_export.errors import GlipExportError

ANY = "*"
_HOST = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]+)(:\d{0,5})?")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_LOOPBACK = tuple(map(ipaddress.ip_address, ("127.0.0.1", "::1")))


class Hosts:
    """The names and addresses by which one server may be called, with any port."""

    def __init__(self, bound: str = "127.0.0.1", allowed: Sequence[str] = ()) -> None:
        """bound: the name or address that it listens on; allowed: further names, or "*" for all.

        One that listens on this machine only answers to localhost, 127.0.0.1, [::1] and `bound`; another to every IP
        address and the machine's name. Raises GlipExportError for what is no name.
        """
        self._any = ANY in allowed
        own = [bound] if is_loopback(bound) else [bound, socket.gethostname(), socket.gethostname().partition(".")[0]]
        names = [name for name in map(_name, (*own, "localhost")) if name]
        self._names = {*names, *(_checked(name) for name in allowed if name != ANY)}
        self._any_address = not is_loopback(bound)

    def accepts(self, header: str | None) -> bool:
        """Whether a Host header names this server; a request without one (HTTP/1.0) comes from no browser."""
        if self._any or header is None:
            return True
        found = _HOST.fullmatch(header.strip())
        if found is None or not header.isascii():
            return False
        address = _address(found[1])
        if address is not None and (self._any_address or address in _LOOPBACK):
            return True
        return _name(found[1]) in self._names


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on this name or address."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _address(word: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(word.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _name(word: str) -> str:
    """In one form: lower case, without the root's dot, an address as Python writes it; "" where it is none."""
    address = _address(word)
    if address is not None:
        return str(address)
    try:
        name = word.removesuffix(".").lower().encode("idna").decode()
    except UnicodeError:
        return ""
    return name if _NAME.fullmatch(name) else ""


def _checked(word: str) -> str:
    if name := _name(word):
        return name
    raise GlipExportError(f"--allow-host {word!r} is no host name: give it as glip.example.org, without scheme or port")
