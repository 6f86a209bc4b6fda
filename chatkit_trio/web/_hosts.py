"""Which host names a request may ask for, and how hosts are compared.

A page of evil.example may let its own name resolve to the address of this server. The browser then
takes this server for that page's site and lets it read everything (DNS rebinding). Only the `Host`
of the request still says which name was asked, so a request for an unknown name isn't answered.
Nothing here waits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Literal, TypeAlias, cast

from werkzeug.datastructures import Headers

HostNames: TypeAlias = Sequence[str] | Literal["*"] | None

_SERVED = "chatkit_trio.hosts"  # the ASGI extension in which `serve` tells an app its hosts
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_HOST = re.compile(r"(?P<name>\[[^\[\]]*\]|[^\[\]:]*)(:(?P<port>[0-9]{0,5}))?")


@dataclass(frozen=True, slots=True)
class Host:
    """A name or an address, and a port ("" for the default one), as `Host` and origins have it."""

    name: str
    port: str = ""

    @classmethod
    def parse(cls, text: str) -> Host | None:
        """Return the host in its plain form, or None if this can't be one."""
        found = _HOST.fullmatch(text.strip().lower())
        if found is None:
            return None
        name = _plain_name(found["name"])
        return None if name is None else cls(name, found["port"] or "")

    @property
    def is_address(self) -> bool:
        """Whether this is an IP address and no name, so that no DNS answer can change it."""
        return _address(self.name) is not None

    @property
    def is_loopback(self) -> bool:
        """Whether browsers reach this machine itself by it, whatever any DNS server says."""
        address = _address(self.name)
        if address is not None:
            mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
            return (mapped or address).is_loopback
        return self.name == "localhost" or self.name.endswith(".localhost")

    def with_port_of(self, scheme: str) -> Host:
        """Return the host with the scheme's own port if it has none."""
        return Host(self.name, self.port or _DEFAULT_PORTS.get(scheme, ""))


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Host names that may be asked for, besides those of loopback."""

    names: frozenset[str] = frozenset()
    domains: tuple[str, ...] = ()
    """With their leading dot; all names below them are allowed."""
    allows_all: bool = False

    @classmethod
    def of(cls, allowed: HostNames, *, argument: str = "allowed_hosts") -> AllowedHosts:
        """Return the rule for None (loopback only), `"*"`, or a list of names.

        A name with `.` or `*.` before it stands for itself and all names below it. Raises
        `ValueError` for what can't be a name, such as one with a port.
        """
        if allowed == "*":
            return cls(allows_all=True)
        if isinstance(allowed, str):
            raise ValueError(f"{argument} must be None, '*' or a list of names, not {allowed!r}")
        names: set[str] = set()
        domains: list[str] = []
        for each in allowed or ():
            if each == "*":
                return cls(allows_all=True)
            name = _given_name(each, argument)
            names.add(name)
            if each.startswith((".", "*.")):
                domains.append(f".{name}")
        return cls(frozenset(names), tuple(domains))

    @classmethod
    def served(cls, host: str, allowed: HostNames) -> AllowedHosts:
        """Return the rule for a server that listens on `host`: that one too, if it is a name."""
        rule = cls.of(allowed)
        if is_wildcard(host):
            return rule
        return replace(rule, names=rule.names | cls.of([host], argument="host").names)

    @property
    def is_loopback_only(self) -> bool:
        """Whether no name or address of the outside is allowed."""
        names = (Host(name) for name in self.names)
        return not (self.allows_all or self.domains) and all(name.is_loopback for name in names)

    def allows(self, host: Host) -> bool:
        """Say whether requests for this host may be answered."""
        return (
            self.allows_all
            or host.is_loopback
            or host.name in self.names
            or host.name.endswith(self.domains)
        )


def asked_hosts(headers: Headers) -> Iterator[str]:
    """Yield the hosts that a request names, as they came.

    `X-Forwarded-Host` counts beside `Host`: a proxy that puts its own name into `Host` passes on
    the browser's there. No page can set either of them for a foreign site.
    """
    for value in headers.getlist("Host") + headers.getlist("X-Forwarded-Host"):
        yield from (host.strip() for host in value.split(",") if host.strip())


def unknown_host(
    headers: Headers, allowed: Iterable[AllowedHosts], *, by_address: bool = False
) -> str | None:
    """Return a host that a request names and that no rule allows, None if there is none.

    With `by_address` every IP address is allowed. A request that names no host at all (HTTP/1.0)
    doesn't come from a browser, and passes.
    """
    rules = tuple(allowed)
    for text in asked_hosts(headers):
        host = Host.parse(text)
        is_known = host is not None and (
            (by_address and host.is_address) or any(rule.allows(host) for rule in rules)
        )
        if not is_known:
            return text
    return None


def is_own_origin(origin: str, headers: Headers) -> bool:
    """Say whether a page of this origin came from a host that the request names.

    The scheme isn't compared: a proxy may speak HTTPS to the browser and HTTP to us.
    """
    scheme, separator, authority = origin.partition("://")
    own = Host.parse(authority)
    if not separator or own is None:
        return False
    own = own.with_port_of(scheme.lower())
    asked = (Host.parse(text) for text in asked_hosts(headers))
    return any(host.with_port_of(scheme.lower()) == own for host in asked if host is not None)


def tell_hosts(scope: Mapping[str, Any], hosts: AllowedHosts) -> dict[str, Any]:
    """Return an ASGI scope that tells the app for which hosts it is served."""
    return {**scope, "extensions": {**(scope.get("extensions") or {}), _SERVED: hosts}}


def told_hosts(scope: Mapping[str, Any]) -> AllowedHosts:
    """Return the hosts that `tell_hosts` put into an ASGI scope."""
    told = (scope.get("extensions") or {}).get(_SERVED, AllowedHosts())
    return cast(AllowedHosts, told)


def is_wildcard(host: str) -> bool:
    """Say whether this address stands for all addresses of the machine (0.0.0.0, ::)."""
    address = _address(host)
    return not host or (address is not None and address.is_unspecified)


def in_ascii(host: str) -> str:
    """Return a name, with a port or without, in the letters of requests and headers.

    That is "" for what can't be a name.
    """
    if host.isascii():
        return host
    name, colon, port = host.partition(":")
    try:
        return (name.encode("idna") + f"{colon}{port}".encode("ascii")).decode()
    except UnicodeError:
        return ""


def origin_in_ascii(origin: str) -> str:
    """Return an origin with the letters in which browsers send it; check it afterwards."""
    scheme, separator, host = origin.partition("://")
    return f"{scheme}{separator}{in_ascii(host)}"


def _given_name(given: object, argument: str) -> str:
    if not isinstance(given, str):
        raise TypeError(f"{argument} must be names, and one is {given!r}")
    bare = given.strip().removeprefix("*." if given.startswith("*") else ".").lower()
    bare = in_ascii(bare)
    name = _plain_name(bare if _address(bare) is None or ":" not in bare else f"[{bare}]")
    if name is None:
        raise ValueError(
            f"{argument} must be names or addresses without scheme, port and path, such as"
            f" 'chat.example.org' or '.example.org', not {given!r}"
        )
    return name


def _plain_name(text: str) -> str | None:
    """Return a name or address as it is compared: without brackets, zone and last dot."""
    if text.startswith("["):
        address = _address(text[1:-1])
        return str(address) if isinstance(address, IPv6Address) else None
    name = text.removesuffix(".")
    is_short = len(name) <= 253 and all(len(label) <= 63 for label in name.split("."))
    return name if is_short and _NAME.fullmatch(name) else None


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None
